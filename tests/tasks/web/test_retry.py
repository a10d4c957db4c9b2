import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.retry import RetryPolicy, TransientError, asked_pause, persist

MAX_PAUSE = 300.0
NOW = 1_795_000_000.0


def failing(times: int, **options: bool | float) -> tuple[list[int], object]:
    calls: list[int] = []

    def action() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise TransientError("again", **options)  # type: ignore[arg-type]
        return "done"

    return calls, action


def test_result_comes_after_failures() -> None:
    calls, action = failing(2)
    assert persist(action, RetryPolicy(3, 10, 0.001)) == "done"  # type: ignore[arg-type]
    assert len(calls) == 3


def test_attempts_end() -> None:
    calls, action = failing(9)
    with pytest.raises(TransientError):
        persist(action, RetryPolicy(3, 10, 0.001))  # type: ignore[arg-type]
    assert len(calls) == 3


def test_progress_is_not_counted() -> None:
    calls, action = failing(9, progress=True)
    assert persist(action, RetryPolicy(2, 10, 0.001)) == "done"  # type: ignore[arg-type]
    assert len(calls) == 10


def test_time_ends_before_a_pause_that_would_pass_it() -> None:
    calls, action = failing(9, pause=60)
    start = time.monotonic()
    with pytest.raises(TransientError):
        persist(action, RetryPolicy(9, 1, 0.001))  # type: ignore[arg-type]
    assert time.monotonic() - start < 1
    assert len(calls) == 1


def test_pauses_grow_and_honour_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    _, action = failing(4)
    persist(action, RetryPolicy(9, 1000, 8.0, longest_pause=20.0))  # type: ignore[arg-type]
    for pause, full in zip(pauses, (8, 16, 20, 20), strict=True):
        assert full / 2 <= pause <= full
    pauses.clear()
    _, action = failing(1, pause=30.0)
    persist(action, RetryPolicy(9, 1000, 8.0))  # type: ignore[arg-type]
    assert pauses == [30.0]


@given(st.floats(0.001, 10), st.integers(1, 1000), st.floats(1, 100))
def test_pauses_double_within_their_jitter_and_their_cap(first: float, failures: int, longest: float) -> None:
    full = min(first * 2.0 ** (failures - 1), longest)
    assert 0.5 * full <= RetryPolicy(9, 1000, first, longest).pause(failures) <= full


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
    assert asked_pause(headers, NOW, MAX_PAUSE) == seconds


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_the_headers_say_the_pause_is_bounded(after: str, reset: str) -> None:
    seconds = asked_pause({"Retry-After": after, "X-Rate-Limit-Reset": reset}, NOW, MAX_PAUSE)
    assert seconds is None or 0 <= seconds <= MAX_PAUSE


def test_the_pause_is_counted_from_now_and_not_cut_unless_told() -> None:
    assert asked_pause({"Retry-After": "999999"}) == 999_999
    assert asked_pause({"Retry-After": "1.5"}) == 1.5
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3500 < (asked_pause({"Retry-After": later}) or 0) <= 3600
    assert [asked_pause({"Retry-After": text}) for text in ("", "soon", "-3", "inf", "nan", "1e9")] == [None] * 6
