"""Who runs the stages: one after the other, on threads, or as Prefect tasks (:mod:`flows.runner`)."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runner(Protocol):
    """Runs stages. Tasks see shards, never samples."""

    def once(self, stage: str, step: Callable[[], Result], retries: int = 0, /) -> Result:
        """Run a step that is one piece of work. ``retries``: of what nobody foresaw."""
        ...

    def each(self, stage: str, step: Callable[[Item], Result], items: Sequence[Item], retries: int = 0) -> list[Result]:
        """Run a step on every item, in whatever order and place; results in the items' order."""
        ...

    def tell(self, message: str, /) -> None:
        """Say how far things are."""
        ...


class InTurn:
    """One after the other, in this thread, without a word."""

    def once(self, _stage: str, step: Callable[[], Result], _retries: int = 0) -> Result:
        """See :class:`Runner`."""
        return step()

    def each(
        self, _stage: str, step: Callable[[Item], Result], items: Sequence[Item], _retries: int = 0
    ) -> list[Result]:
        """See :class:`Runner`."""
        return [step(item) for item in items]

    def tell(self, _message: str) -> None:
        """Nobody listens."""


class OnThreads(InTurn):
    """Shards on a few threads."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def each(
        self, stage: str, step: Callable[[Item], Result], items: Sequence[Item], _retries: int = 0
    ) -> list[Result]:
        """See :class:`Runner`."""
        with ThreadPoolExecutor(self._workers, stage) as pool:
            return list(pool.map(step, items))
