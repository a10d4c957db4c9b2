"""Work for a few threads, asked for item by item from an event loop and handed over in batches.

Handing single small items to threads costs more in switching than the work itself. So an idle thread
gets at once whatever has piled up: one item when there is little to do, many when there is much.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_ITEMS = 32


class Workbench(Generic[Item, Result]):
    """Runs ``work`` on items in ``threads`` threads. For one event loop."""

    def __init__(self, work: Callable[[Item], Result], threads: int, name: str) -> None:
        self._work = work
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, name)
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._busy = 0

    async def do(self, item: Item) -> Result:
        """What ``work`` returns for ``item``, or raises."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._hand_out()
        return await future

    def close(self) -> None:
        """End the threads after the batches they are at. What still waits is not done."""
        self._pool.shutdown(cancel_futures=True)

    def _hand_out(self) -> None:
        while self._waiting and self._busy < self._threads:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_ITEMS, len(self._waiting)))]
            batch = [(item, future) for item, future in batch if not future.done()]  # done: nobody waits any more
            if not batch:
                continue
            self._busy += 1
            job = asyncio.get_running_loop().run_in_executor(self._pool, self._run, [item for item, _ in batch])
            job.add_done_callback(lambda job, batch=batch: self._deliver(batch, job))  # type: ignore[misc]

    def _run(self, items: list[Item]) -> list[Result | Exception]:
        results: list[Result | Exception] = []
        for item in items:
            try:
                results.append(self._work(item))
            except Exception as error:  # noqa: BLE001 - handed to whoever asked for this item
                results.append(error)
        return results

    def _deliver(
        self, batch: list[tuple[Item, asyncio.Future[Result]]], job: "asyncio.Future[list[Result | Exception]]"
    ) -> None:
        self._busy -= 1
        self._hand_out()
        for (_, future), result in zip(batch, job.result(), strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
