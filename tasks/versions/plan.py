"""What the next version holds: which sample in which slot of which split. Pure; reading and writing are elsewhere."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasks.geo.georeference import Georeference
from tasks.state.ledger import Sample
from tasks.versions.read import Previous, VersionInfo
from tasks.versions.schema import SCHEMA_VERSION, SPLITS, Layout
from tasks.versions.splits import hash_order

BLOCK_SAMPLES = 512  # samples of a write task: whole chunks, whatever their size


class Row(NamedTuple):
    """One sample of a version, and what is stored of it besides its pixels."""

    sample: Sample
    unit: str  # what the split kept together with it
    georeference: Georeference | None  # of the pixels as they are stored


@dataclass(frozen=True)
class Block:
    """A run of samples of one split, aligned to chunks: what one write task does."""

    split: str
    start: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class VersionPlan:
    """The next version."""

    rows: Mapping[str, tuple[Row, ...]]  # by split, in slot order
    layout: Layout
    content: str  # see content_hash
    number: int
    previous: VersionInfo | None  # the newest version
    assigned: Mapping[str, str]  # split of every staged sample, also of those that are in no version
    units: Mapping[str, str]  # of the same samples

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    @property
    def version(self) -> str:
        """Its name."""
        return f"v{self.number}"

    @property
    def unchanged(self) -> bool:
        """Whether the newest version holds just this, so that there is nothing to write."""
        return self.previous is not None and self.previous.metadata.get("content_hash") == self.content

    @property
    def blocks(self) -> list[Block]:
        """What is to be written."""
        return [
            Block(split, start, tuple(row.sample for row in self.rows[split][start : start + BLOCK_SAMPLES]))
            for split in SPLITS
            for start in range(0, len(self.rows[split]), BLOCK_SAMPLES)
        ]


def plan_version(
    rows: Mapping[str, Row],
    assigned: Mapping[str, str],
    previous: Previous,
    layout: Layout,
    seed: int,
    recipe_content: str,
    dropped: Collection[str] = (),
) -> VersionPlan:
    """The version of ``rows`` (staged samples by name) without those of the names ``dropped``.

    assigned: the split of every sample. seed: orders newcomers. recipe_content: hash of the recipe's content keys.
    """
    by_split: dict[str, set[str]] = {split: set() for split in SPLITS}
    for name in rows.keys() - set(dropped):
        by_split[assigned[name]].add(name)
    slotted = {
        split: tuple(rows[name] for name in slots(previous.names.get(split, ()), names, seed))
        for split, names in by_split.items()
    }
    return VersionPlan(
        rows=slotted,
        layout=layout,
        content=content_hash(slotted, recipe_content),
        number=previous.number,
        previous=previous.newest,
        assigned=dict(assigned),
        units={name: row.unit for name, row in rows.items()},
    )


def slots(previous: Sequence[str], now: Collection[str], seed: int) -> list[str]:
    """The samples ``now`` in their slots, where ``previous`` are those of the last version in theirs.

    A sample keeps its slot for as long as it stays. Newcomers, in the order of a hash of their names and ``seed``, take
    the lowest slots that were freed, then the end. Slots that are free still take the last samples, the lowest slot the
    very last one: so there are no gaps, and no sample moves whose slot there is still.
    """
    staying = set(now)
    slotted: list[str | None] = [name if name in staying else None for name in previous[: len(staying)]]
    slotted += [None] * (len(staying) - len(slotted))
    beyond = [name for name in previous[len(staying) :] if name in staying]
    movers = iter((*hash_order(staying.difference(previous), seed), *reversed(beyond)))
    return [next(movers) if name is None else name for name in slotted]


def content_hash(rows: Mapping[str, Sequence[Row]], recipe_content: str) -> str:
    """SHA-256 of what a version holds, as hex: schema, recipe, and by split the samples' images and label masks.

    The slots do not count: the same samples in another order are the same content.
    """
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {recipe_content}\n".encode())
    for split in SPLITS:
        for sample in sorted((row.sample for row in rows[split]), key=lambda sample: sample.name):
            digest.update(f"{split} {sample.name} {sample.sha256} {sample.mask_sha256}\n".encode())
    return digest.hexdigest()
