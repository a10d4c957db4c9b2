"""Stages as Prefect tasks: one for each shard and stage, with progress. Prefect sees shards, never samples."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.ending import foreseen
from flows.progress import Stages
from tasks.errors import TilewrightError, UnforeseenError

Item = TypeVar("Item")
Result = TypeVar("Result")
WORKERS = 2  # the stages hold the interpreter for about half of their time; more threads gain nothing
RETRY_SECONDS = 5


class PrefectRunner:
    """Satisfies :class:`tasks.build.runner.Runner` within a flow run."""

    def __init__(self, stages: Stages) -> None:
        """``stages`` shows how far things are."""
        self._stages = stages

    def once(self, stage: str, step: Callable[[], Result], retries: int = 0) -> Result:
        """The step as one task."""
        with self._stages.stage(stage, 1) as shown:
            result: Result = _task(stage, retries)(foreseen()(lambda: step()))()  # a partial has no name
            shown.advance()
        return result

    def each(self, stage: str, step: Callable[[Item], Result], items: Sequence[Item], retries: int = 0) -> list[Result]:
        """A task for every item, a few at a time; after the first error no further one starts."""
        stopped = threading.Event()
        results: dict[int, Result] = {}

        def one(index: int) -> None:
            if not stopped.is_set():
                try:
                    with foreseen():
                        results[index] = step(items[index])
                except UnforeseenError:  # which is tried again
                    raise
                except TilewrightError:
                    stopped.set()
                    raise

        # The index is the task's only argument, and nothing is returned: Prefect walks whatever it is given.
        by_shard = _task(stage, retries, f"{stage}-{{index}}")(one)
        with self._stages.stage(stage, len(items)) as shown:
            under_way: deque[Any] = deque()
            for index in range(len(items)):
                under_way.append(by_shard.submit(index))
                if len(under_way) > 2 * WORKERS:
                    under_way.popleft().result()
                    shown.advance()
            while under_way:
                under_way.popleft().result()
                shown.advance()
        return [results[index] for index in range(len(items))]

    def tell(self, message: str) -> None:
        """To the flow run's log."""
        get_run_logger().info("%s", message)


def _task(stage: str, retries: int, run_name: str | None = None) -> Any:
    return task(
        name=stage,
        task_run_name=run_name,
        retries=retries,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_unexpected,
        cache_policy=NO_CACHE,
    )


def _unexpected(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what nobody foresaw; our own errors come after retries of their own, or would only repeat."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, UnforeseenError) or not isinstance(error, TilewrightError)
