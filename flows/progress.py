"""Progress of a flow: a bar in the terminal, or a Prefect artifact when there is no terminal.

One update per shard at most, and artifacts no more often than every two seconds: an API call a shard
would be a visible part of the wall time.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ARTIFACT_SECONDS = 2.0


class Stages:
    """The stages of a flow, one bar or artifact each."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        if sys.stderr.isatty():
            done = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn()
            times = TimeElapsedColumn(), TimeRemainingColumn()
            self._bars = Progress(*done, *times, console=Console(stderr=True))

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator["Stage"]:
        """A stage of ``total`` shards."""
        stage = Stage(name, total, self._bars)
        yield stage
        stage.close()


class Stage:
    """One stage: call :meth:`advance` per shard."""

    def __init__(self, name: str, total: int, bars: Progress | None) -> None:
        self._name, self._total, self._done, self._sent = name, max(total, 1), 0, 0.0
        self._bars = bars
        self._bar = bars.add_task(name, total=total) if bars else None
        self._artifact: UUID | None = None

    def advance(self) -> None:
        """One more shard is done."""
        self._done += 1
        if self._bars and self._bar is not None:
            self._bars.advance(self._bar)
        elif time.monotonic() - self._sent >= ARTIFACT_SECONDS:
            self._send()

    def close(self) -> None:
        """The stage has ended."""
        if self._bars is None:
            self._send()

    def _send(self) -> None:
        """Make the artifact, or update it. Not before the first shard is done: until then the workers would wait."""
        if FlowRunContext.get() is None:
            return
        progress = min(100.0, 100.0 * self._done / self._total)
        if self._artifact is None:
            made = create_progress_artifact(
                progress=progress, key=f"progress-{self._name}", description=f"{self._name}: {self._total} in all"
            )
            self._artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._artifact, progress=progress)
        self._sent = time.monotonic()
