"""The plan: the funnel and the price of a build, from labels alone."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from flows.build import default_store
from tasks.build.base import open_build
from tasks.recipe.load import WindowRecipe, find_recipe, load_recipe
from tasks.views.funnel import Estimate, Funnel


@dataclass(frozen=True)
class Plan:
    """What a build would do."""

    title: str
    store: str
    shards: int
    funnel: Funnel
    estimate: Estimate
    about: dict[str, str]  # licence, size, needs and the like

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return dataclasses.asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """For a table."""
        cost = self.estimate
        return [
            *((name, f"{count:,}") for name, count in self.funnel.label_rows()),
            ("already on disk", f"{self.funnel.kept:,}"),
            ("shards", f"{self.shards:,}"),
            *self._price(cost),
            *((name, text) for name, text in self.about.items() if text),
        ]

    def _price(self, cost: Estimate) -> list[tuple[str, str]]:
        if cost.seconds is None:
            return [("windows to read", f"{cost.requests:,}"), ("pixels", f"about {cost.bytes / 1e6:,.1f} MB")]
        dollars = "none" if cost.dollars is None else f"about ${cost.dollars:,.2f} beyond the free 200,000 a month"
        return [
            ("imagery requests", f"{cost.requests:,}" + (" (billed)" if cost.dollars is not None else "")),
            ("download", f"about {cost.bytes / 1e6:,.1f} MB"),
            ("cost", dollars),
            ("time", f"about {cost.seconds:,.0f} s"),
        ]


def plan_build(recipe: str, store: str | None, overrides: list[str]) -> Plan:
    """Take the labels, rasterize, and say what fetching would take. Asks for no imagery.

    What is found is kept in the store's work directory, where a build goes on from it.
    """
    what = load_recipe(find_recipe(recipe), overrides)
    target = store or default_store(what.name)
    with open_build(what, target) as run:
        shards = run.plan()
        run.take_labels()
        for shard in run.to_measure(shards):
            run.measure(shard)
        funnel = run.funnel()
        about = what.about.model_dump() if isinstance(what, WindowRecipe) else {}
        return Plan(what.title, target, len(shards), funnel, run.estimate(funnel), about)
