"""One retry policy for everything that label sources ask over HTTP."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


class TransientError(Exception):
    """A failure that another attempt may not meet. ``retry_after`` is the pause the server asked for, in seconds."""

    def __init__(self, message: str, retry_after: float = 0.0, *, progress: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.progress = progress  # something was gained, so this attempt is not counted


@dataclass(frozen=True)
class Patience:
    """How often and how long to try: exponential pauses, jittered, never past ``total_seconds``."""

    attempts: int
    total_seconds: float
    first_pause: float = 5.0
    longest_pause: float = 60.0


def persist(action: Callable[[], T], patience: Patience) -> T:
    """The result of ``action``, called again after each TransientError until patience ends; then that error."""
    deadline = time.monotonic() + patience.total_seconds
    failed = 0
    while True:
        try:
            return action()
        except TransientError as error:
            failed = 0 if error.progress else failed + 1
            pause = min(patience.longest_pause, patience.first_pause * 2 ** max(0, failed - 1))
            pause = max(error.retry_after, pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            if failed >= patience.attempts or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: a number or a date); 0 without a usable one."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
