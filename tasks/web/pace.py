"""When the next request may go out: the source's rate, its pauses, and the pauses between retries."""

import asyncio
import random
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_PAUSE = 300.0  # seconds; what a server asks for beyond that is cut
MAX_BACKOFF = 60.0  # seconds


class Pacer:
    """A token bucket of one token, shared by all requests to a source, that can be held shut for a while.

    For one event loop. Requests start at least ``1 / rate`` seconds apart, at once when ``rate`` is None.
    """

    def __init__(self, rate: float | None) -> None:
        self._interval = 1.0 / rate if rate else 0.0
        self._next = 0.0  # when the next request may start, on the monotonic clock
        self._pauses = 0

    async def turn(self) -> None:
        """Wait until a request may start."""
        while True:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
            if start <= now:
                return
            pauses = self._pauses
            await asyncio.sleep(start - now)
            if self._pauses == pauses:  # else the turn was given before the server asked for a pause
                return

    def pause(self, seconds: float) -> None:
        """Let no request start for ``seconds``."""
        self._next = max(self._next, time.monotonic() + seconds)
        self._pauses += 1


def asked_pause(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait, 0 to MAX_PAUSE; None when it does not say.

    ``Retry-After`` (RFC 9110: seconds, or an HTTP date) counts before ``X-Rate-Limit-Reset`` (Unix
    seconds). ``now`` is in Unix seconds.
    """
    after = headers.get("Retry-After", "").strip()
    reset = headers.get("X-Rate-Limit-Reset", "").strip()
    if _is_count(after):
        seconds = float(after)
    elif (date := _http_date(after)) is not None:
        seconds = date - now
    elif _is_count(reset):
        seconds = float(reset) - now
    else:
        return None
    return min(max(seconds, 0.0), MAX_PAUSE)


def backoff(first: float, failures: int) -> float:
    """Seconds to wait after that many failures in a row: doubling from ``first``, half to one and a half times that."""
    pause = min(first * 2.0 ** (failures - 1), MAX_BACKOFF)
    return pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads requests, guards nothing


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def _http_date(text: str) -> float | None:
    """Unix seconds of an HTTP date, None for any other text."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
