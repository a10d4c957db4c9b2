"""What one process has open for a job: connections, indexes and the version being written, each from its first use on.

Nothing of it is in the job, so a job goes to any process, which opens its own. Ledgers are not here: each thread opens
one for as long as it needs it.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from tasks.build.job import Job
from tasks.imagery.protocol import Source
from tasks.imagery.registry import open_source
from tasks.labels.classes import ClassMap
from tasks.labels.protocol import Labels
from tasks.labels.registry import open_labels
from tasks.state.ledger import Ledger
from tasks.state.sqlite import open_ledger
from tasks.state.staging import Staging
from tasks.versions.plan import VersionPlan
from tasks.versions.write import Draft

T = TypeVar("T")


class Tools:
    """Of one job in one process; any thread may ask."""

    def __init__(self, job: Job) -> None:
        """Opens nothing."""
        self._job = job
        self._lock = threading.RLock()
        self._open: dict[str, object] = {}
        self.staging = Staging(job.work.images)

    @property
    def source(self) -> Source:
        """The imagery."""
        return self._once("source", lambda: open_source(self._job.recipe, self._job.work.root))

    @property
    def labels(self) -> Labels:
        """The labels."""
        job = self._job
        return self._once("labels", lambda: open_labels(job.recipe, lambda: self.source.scenes(), job.work.footprints))

    @property
    def classes(self) -> ClassMap:
        """From the labels' values to the recipe's classes."""
        return self._once("classes", lambda: ClassMap.of(self._job.recipe))

    def draft(self, plan: VersionPlan) -> Draft:
        """The version that this process is writing."""
        return self._once("draft", lambda: Draft.begin(self._job.store, plan))

    def ledger(self) -> Ledger:
        """An open ledger for the calling thread: a context manager."""
        return open_ledger(self._job.work.ledger)

    def close(self) -> None:
        """Let everything go."""
        with self._lock:
            opened, self._open = self._open, {}
        for name in ("labels", "source"):
            if name in opened:
                opened[name].close()  # type: ignore[attr-defined]

    def _once(self, name: str, make: Callable[[], T]) -> T:
        with self._lock:
            if name not in self._open:
                self._open[name] = make()
            return self._open[name]  # type: ignore[return-value]


_OPEN: dict[str, Tools] = {}
_LOCK = threading.Lock()


def tools_of(job: Job) -> Tools:
    """This process's tools for ``job``."""
    with _LOCK:
        return _OPEN.setdefault(job.run, Tools(job))


def close_tools(job: Job) -> None:
    """Close them; the next stage would open others."""
    with _LOCK:
        found = _OPEN.pop(job.run, None)
    if found is not None:
        found.close()
