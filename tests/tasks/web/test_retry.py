import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tasks.web.retry import Patience, TransientError, persist, retry_after


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
    assert persist(action, Patience(3, 10, 0.001)) == "done"  # type: ignore[arg-type]
    assert len(calls) == 3


def test_attempts_end() -> None:
    calls, action = failing(9)
    with pytest.raises(TransientError):
        persist(action, Patience(3, 10, 0.001))  # type: ignore[arg-type]
    assert len(calls) == 3


def test_progress_is_not_counted() -> None:
    calls, action = failing(9, progress=True)
    assert persist(action, Patience(2, 10, 0.001)) == "done"  # type: ignore[arg-type]
    assert len(calls) == 10


def test_time_ends_before_a_pause_that_would_pass_it() -> None:
    calls, action = failing(9, retry_after=60)
    start = time.monotonic()
    with pytest.raises(TransientError):
        persist(action, Patience(9, 1, 0.001))  # type: ignore[arg-type]
    assert time.monotonic() - start < 1
    assert len(calls) == 1


def test_pauses_grow_and_honour_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    _, action = failing(4)
    persist(action, Patience(9, 1000, 8.0, longest_pause=20.0))  # type: ignore[arg-type]
    for pause, full in zip(pauses, (8, 16, 20, 20), strict=True):
        assert full / 2 <= pause <= full
    pauses.clear()
    _, action = failing(1, retry_after=30.0)
    persist(action, Patience(9, 1000, 8.0))  # type: ignore[arg-type]
    assert pauses == [30.0]


def test_retry_after_reads_seconds_and_dates() -> None:
    assert retry_after("7") == 7
    assert 3500 < retry_after(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)) <= 3600
    assert [retry_after(text) for text in (None, "", "soon", "-3")] == [0, 0, 0, 0]
