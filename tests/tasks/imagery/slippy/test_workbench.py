import asyncio
import threading

import pytest

from tasks.imagery.slippy.workbench import BATCH_ITEMS, Workbench


def test_every_item_gets_its_own_result_or_error() -> None:
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    async def run() -> list[int | BaseException]:
        bench = Workbench(halve, 2, "test")
        try:
            return await asyncio.gather(*(bench.do(number) for number in range(200)), return_exceptions=True)
        finally:
            bench.close()

    results = asyncio.run(run())
    for number, result in enumerate(results):
        if number % 2:
            assert isinstance(result, ValueError)
            assert result.args == (number,)
        else:
            assert result == number // 2


def test_what_piles_up_is_handed_over_together_and_what_nobody_waits_for_is_left() -> None:
    seen: list[tuple[int, int]] = []
    begun, release = threading.Event(), threading.Event()

    def note(number: int) -> None:
        seen.append((number, threading.get_ident()))
        if number == 0:
            begun.set()
            assert release.wait(10)

    async def run() -> None:
        bench = Workbench(note, 1, "test")
        first = asyncio.create_task(bench.do(0))
        assert await asyncio.to_thread(begun.wait, 10)
        rest = [asyncio.create_task(bench.do(number)) for number in range(1, 3 * BATCH_ITEMS)]
        await asyncio.sleep(0)  # each asks
        rest[0].cancel()
        release.set()
        await first
        await asyncio.gather(*rest[1:])
        with pytest.raises(asyncio.CancelledError):
            await rest[0]
        bench.close()

    asyncio.run(run())
    assert [number for number, _ in seen] == [0, *range(2, 3 * BATCH_ITEMS)]
    assert threading.get_ident() not in {thread for _, thread in seen}
