import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.pace import MAX_BACKOFF, MAX_PAUSE, Pacer, asked_pause, backoff

NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "999999"}, MAX_PAUSE),
        ({"Retry-After": "Wed, 18 Nov 2026 11:07:00 GMT"}, 20.0),
        ({"Retry-After": "Wed, 18 Nov 2020 11:07:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"X-Rate-Limit-Reset": "1795000012"}, 12.0),
        ({"X-Rate-Limit-Reset": "1"}, 0.0),
        ({"X-Rate-Limit-Reset": "never"}, None),
        ({"Retry-After": "3", "X-Rate-Limit-Reset": "1795000012"}, 3.0),
        ({"Retry-After": "soon", "X-Rate-Limit-Reset": "1795000012"}, 12.0),
    ],
)
def test_the_pause_that_an_answer_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_pause(headers, 1_795_000_000.0) == seconds


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_the_headers_say_the_pause_is_bounded(after: str, reset: str) -> None:
    seconds = asked_pause({"Retry-After": after, "X-Rate-Limit-Reset": reset}, NOW)
    assert seconds is None or 0 <= seconds <= MAX_PAUSE


@given(st.floats(0.001, 10), st.integers(1, 1000))
def test_backoff_doubles_within_its_jitter_and_its_cap(first: float, failures: int) -> None:
    middle = min(first * 2.0 ** (failures - 1), MAX_BACKOFF)
    assert 0.5 * middle <= backoff(first, failures) <= 1.5 * middle


def timed(pacer: Pacer, turns: int) -> float:
    async def take_all() -> float:
        started = time.monotonic()
        await asyncio.gather(*(pacer.turn() for _ in range(turns)))
        return time.monotonic() - started

    return asyncio.run(take_all())


def test_turns_come_at_the_rate() -> None:
    assert timed(Pacer(100.0), 21) >= 0.19
    assert timed(Pacer(None), 1000) < 1.0


def test_a_pause_holds_everybody_also_those_who_had_their_turn_given() -> None:
    async def run() -> list[float]:
        pacer = Pacer(100.0)
        started = time.monotonic()
        ends: list[float] = []

        async def take() -> None:
            await pacer.turn()
            ends.append(time.monotonic() - started)

        waiting = [asyncio.create_task(take()) for _ in range(5)]
        await asyncio.sleep(0.005)
        pacer.pause(0.2)
        await asyncio.gather(*waiting)
        return sorted(ends)

    first, *others = asyncio.run(run())
    assert first < 0.1  # went out before the pause
    assert all(end >= 0.2 for end in others)
    assert others[-1] - others[0] >= 0.025  # and at the rate again after it
