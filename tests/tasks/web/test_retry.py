import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.retry import Patience, RetryPolicy, TransientError, asked_pause, persist

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
        ({"X-Rate-Limit-Reset": "1795000012000"}, None),  # milliseconds
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


def test_an_absurd_wait_is_not_waited_for_and_told() -> None:
    calls, action = failing(9, pause=1e9)
    with pytest.raises(
        TransientError,
        match=r"^again; it asks to wait 1,000,000,000 s, more than is left of limits\.patience \(7 s in all",
    ) as caught:
        persist(action, RetryPolicy(9, 1e12, 0.001), Patience(7))  # type: ignore[arg-type]
    assert (len(calls), caught.value.tried) == (1, "1 attempt")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which goes on by what is slept."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_waits_are_told_and_end_in_all(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    patience, policy = Patience(100), RetryPolicy(9, 1e9, 0.001)
    _, action = failing(2, pause=40.0)
    with caplog.at_level(logging.WARNING, "tilewright"):
        assert persist(action, policy, patience) == "done"  # type: ignore[arg-type]
        assert caplog.messages == ["again; waiting 40 s as it asks"] * 2
        calls, action = failing(2, pause=40.0)
        with pytest.raises(TransientError, match=r"limits\.patience \(100 s in all\)"):
            persist(action, policy, patience)  # type: ignore[arg-type]
    assert len(calls) == 1
    assert clock[0] == pytest.approx(80, abs=1)


def test_own_long_pauses_are_told_too_and_short_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    _, action = failing(2)
    with caplog.at_level(logging.WARNING, "tilewright"):
        persist(action, RetryPolicy(9, 1000, 8.0, jitter=(0.5, 0.5)))  # type: ignore[arg-type]
    assert caplog.messages == ["again; waiting 8 s before the next attempt"]


def test_waits_at_the_same_time_count_once_and_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    patience = Patience(50)
    with caplog.at_level(logging.WARNING, "tilewright"):
        assert all(patience.spend(40, "busy") for _ in range(100))
    assert caplog.messages == ["busy; waiting 40 s as it asks"]
    assert not patience.spend(60, "busy")
    assert patience.spend(5, "flow control")
    assert patience.spend(50, "busy")


def test_failures_tell_no_secret() -> None:
    assert str(TransientError("http://x/?token=s3cr3t: lost")) == "http://x/?token=***: lost"


def test_short_waits_end_too_unless_answers_come_between(clock: list[float]) -> None:
    patience = Patience(10)
    for _ in range(100):
        assert patience.spend(4, "slower, please")
        clock[0] += 4
        patience.answered()
    assert [patience.spend(pause, "slower") for pause in (4, 8, 9, 11)] == [True, True, True, False]
    patience = Patience(0.5)
    assert patience.exhausted(0.3) == "it asks to wait 0.3 s, more than is left of limits.patience (0.5 s in all)"
    calls, action = failing(9, pause=0.3)
    with pytest.raises(TransientError, match=r"limits\.patience"):
        persist(action, RetryPolicy(9, 100, 0.001), patience)  # type: ignore[arg-type]
    assert len(calls) == 2
