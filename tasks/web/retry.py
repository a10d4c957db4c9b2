"""When to ask again: which failures may pass, what answers ask for, and the pauses between attempts."""

import math
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")


class TransientError(Exception):
    """A failure that another attempt may not meet, ``pause`` seconds later at the earliest."""

    def __init__(self, message: str, pause: float | None = None, *, progress: bool = False) -> None:
        super().__init__(message)
        self.pause = pause or 0.0
        self.progress = progress  # something was gained, so this attempt is not counted


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long to try: pauses that double, jittered, never past ``total_seconds``."""

    attempts: int
    total_seconds: float
    first_pause: float = 5.0
    longest_pause: float = 60.0
    jitter: tuple[float, float] = (0.5, 1.0)  # the shares of a pause that it is drawn from

    def pause(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row."""
        full = min(self.longest_pause, self.first_pause * 2.0 ** max(0, failures - 1))
        return full * random.uniform(*self.jitter)  # noqa: S311 - spreads requests, guards nothing


def persist(action: Callable[[], T], policy: RetryPolicy) -> T:
    """The result of ``action``, called again after each TransientError until the policy ends; then that error."""
    deadline = time.monotonic() + policy.total_seconds
    failed = 0
    while True:
        try:
            return action()
        except TransientError as error:
            failed = 0 if error.progress else failed + 1
            pause = max(error.pause, policy.pause(failed))
            if failed >= policy.attempts or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)


def asked_pause(headers: Mapping[str, str], now: float | None = None, most: float = math.inf) -> float | None:
    """Seconds that an answer asks to wait, 0 to ``most``; None when it does not say.

    ``Retry-After`` (RFC 9110, 10.2.3: seconds, or an HTTP date) counts before ``X-Rate-Limit-Reset`` (Unix seconds).
    ``now``: Unix seconds, by default the clock's.
    """
    now = datetime.now(UTC).timestamp() if now is None else now
    after, reset = (headers.get(name, "").strip() for name in ("Retry-After", "X-Rate-Limit-Reset"))
    if _SECONDS.fullmatch(after):
        seconds = float(after)
    elif (date := _http_date(after)) is not None:
        seconds = date - now
    elif _SECONDS.fullmatch(reset):
        seconds = float(reset) - now
    else:
        return None
    return min(max(seconds, 0.0), most)


def _http_date(text: str) -> float | None:
    """Unix seconds of an HTTP date, None for any other text."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
