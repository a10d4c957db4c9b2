"""When to ask again: which failures may pass, what answers ask for, and the pauses between attempts."""

import logging
import math
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tasks.secrets import redact

T = TypeVar("T")
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
PATIENCE = 1800.0  # seconds in all; the default of limits.patience
TOLD = 5.0  # seconds; a longer pause is told
_FAR = 86_400.0  # seconds; a reset further ahead is in another unit, for X-Rate-Limit-Reset is no standard
_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_LOG = logging.getLogger("tilewright")


class TransientError(Exception):
    """A failure that another attempt may not meet, ``pause`` seconds later at the earliest. Tells no secret."""

    attempts = 1  # that have failed

    def __init__(self, message: str, pause: float | None = None, *, progress: bool = False) -> None:
        super().__init__(redact(message))
        self.pause = pause or 0.0
        self.progress = progress  # something was gained, so this attempt is not counted

    @property
    def tried(self) -> str:
        """For messages: ``3 attempts``."""
        return f"{self.attempts} attempt{'s' if self.attempts > 1 else ''}"


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


class Patience:
    """Seconds that may be waited in all because servers ask for it. Safe for threads; waits at once count once.

    Waits up to TOLD seconds are how servers keep a rate: they are forgotten as soon as an answer comes.
    """

    def __init__(self, seconds: float = PATIENCE) -> None:
        self.seconds = seconds
        self._spent, self._short, self._until = 0.0, 0.0, 0.0
        self._lock = threading.Lock()

    def spend(self, pause: float, why: str) -> bool:
        """Take a pause that begins now, and tell of it when it is long and not told yet.

        False, and nothing is taken, when it is longer than what is left. ``why``: what the server said.
        """
        now = time.monotonic()
        with self._lock:
            longer = max(0.0, now + pause - max(now, self._until))
            if self._spent + self._short + longer > self.seconds:
                return False
            self._until = max(self._until, now + pause)
            if pause > TOLD:
                self._spent += longer
            else:
                self._short += longer
        if pause > TOLD and longer > pause / 2:  # else it is the same pause, asked for by the next answer
            tell_pause(why, pause, "as it asks")
        return True

    def answered(self) -> None:
        """What was asked for has come: short waits before it are forgotten."""
        self._short = 0.0

    def exhausted(self, pause: float) -> str:
        """For messages, after :meth:`spend` refused: what the server asked for, and the limit."""
        limit = f"limits.patience ({_readable(self.seconds)} s in all)"
        return f"it asks to wait {_readable(pause)} s, more than is left of {limit}"


def tell_pause(why: str, seconds: float, more: str = "") -> None:
    """Say in the log what is waited for and how long."""
    _LOG.warning("%s; waiting %s s%s", redact(why), _readable(seconds), f" {more}" if more else "")


def _readable(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


def persist(action: Callable[[], T], policy: RetryPolicy, patience: Patience | None = None) -> T:
    """The result of ``action``, called again after each TransientError until the policy ends; then that error.

    Also when a server asks for longer waits than ``patience`` has left (by default PATIENCE for this call); the error
    says so then. Every pause over TOLD seconds is told in the log.
    """
    patience = patience or Patience()
    deadline = time.monotonic() + policy.total_seconds
    failed = attempts = 0
    while True:
        attempts += 1
        try:
            found = action()
        except TransientError as error:
            lost = error
        else:
            patience.answered()
            return found
        lost.attempts = attempts
        failed = 0 if lost.progress else failed + 1
        if failed >= policy.attempts:
            raise lost
        own = policy.pause(failed)
        pause = max(lost.pause, own)
        in_time = time.monotonic() + pause <= deadline
        if lost.pause > own and not (in_time and patience.spend(pause, str(lost))):
            asked = patience.exhausted(pause) if in_time else f"it asks to wait {_readable(pause)} s, too long for this"
            final = TransientError(f"{lost}; {asked}", lost.pause)
            final.attempts = attempts
            raise final from lost
        if not in_time:
            raise lost
        if own >= lost.pause and pause > TOLD:
            tell_pause(str(lost), pause, "before the next attempt")
        time.sleep(pause)


def asked_pause(headers: Mapping[str, str], now: float | None = None, most: float = math.inf) -> float | None:
    """Seconds that an answer asks to wait, 0 to ``most``; None when it does not say.

    ``Retry-After`` (RFC 9110, 10.2.3: seconds, or an HTTP date) counts before ``X-Rate-Limit-Reset`` (Unix seconds, up
    to a day ahead).
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
        if seconds > _FAR:
            return None
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
