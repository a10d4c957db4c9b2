"""Fetch tiles: ask, wait, retry, check, write.

A :class:`Fetcher` owns an event loop in a thread of its own and one HTTP session, so connections live
from shard to shard. It writes image files; what became of each tile goes to the caller, in batches and
in the caller's thread, to be put in the ledger.
"""

import asyncio
import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import aiohttp

from tasks.errors import SourceError, TilewrightError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.files import image_path, remove_images, write_image
from tasks.imagery.slippy.protocol import TileRequest, TileSource, origin
from tasks.imagery.slippy.workbench import Workbench
from tasks.raster.encoded import BadImageError, WrongSizeError, check_image, sniff
from tasks.state.ledger import Fetched, State
from tasks.web.exchange import Answer, LostAnswerError, Tally, UnreachedError, ask, open_session
from tasks.web.pace import Pacer, asked_pause, backoff

__all__ = ["FetchPolicy", "FetchSummary", "Fetcher", "image_path"]

BATCH_TILES = 64
BATCH_SECONDS = 0.5
WINDOW = 4  # tiles under way, waits for a retry included, for each connection
UNREACHED_LIMIT = 8  # failed connections before the first answer after which the server counts as down
THROTTLED_LIMIT = 20  # answers of 429 to one tile before it counts as failed

CHECKING_THREADS = max(2, min(8, os.cpu_count() or 1))
MAX_ETAG = 200  # characters

_LATER = {408, 425}  # the client errors that do not say "never"
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}")


@dataclass(frozen=True)
class FetchPolicy:
    """How hard to try."""

    connections: int = 64
    requests_per_second: float | None = None
    attempts: int = 5  # failures after which a tile is failed; being throttled is no failure
    timeout: float = 30.0  # seconds for one request
    max_nodata_fraction: float = 1.0
    backoff: float = 0.5  # seconds before the first retry


@dataclass(frozen=True)
class FetchSummary:
    """What one call came to."""

    requests: int
    bytes: int  # of images kept
    seconds: float
    counts: Mapping[State, int]


class _RetryError(Exception):
    """This attempt was in vain, for a short reason; the next may start after ``pause`` seconds."""

    def __init__(self, reason: str, pause: float) -> None:
        super().__init__(reason)
        self.pause = pause


class _Run:
    """One call of :meth:`Fetcher.fetch`, as the event loop sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.outbox: SimpleQueue[list[Fetched] | None] = SimpleQueue()  # None: nothing is on its way any more
        self.counts: Counter[State] = Counter()
        self.bytes = 0
        self.requests = 0
        self.task: asyncio.Task[None] | None = None
        self.stopped_by: TilewrightError | None = None  # what another call of the same fetcher met
        self._loop = loop
        self._settled: list[Fetched] = []

    def settle(self, outcome: Fetched) -> None:
        self.counts[outcome.state] += 1
        if outcome.state is State.KEPT:
            self.bytes += outcome.bytes or 0
        if not self._settled:
            self._loop.call_later(BATCH_SECONDS, self.flush)
        self._settled.append(outcome)
        if len(self._settled) >= BATCH_TILES:
            self.flush()

    def flush(self) -> None:
        if self._settled:
            self.outbox.put(self._settled)
            self._settled = []

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Fetcher:
    """Fetches tiles of one source into ``folder``.

    Use it as a context manager; ``fetch`` may then be called from any thread, also from several at once.
    Rate, pauses and connections are shared by all calls.
    """

    def __init__(self, source: TileSource, policy: FetchPolicy, folder: Path) -> None:
        self.requests = 0  # sent since the start, by all calls
        self._source = source
        self._policy = policy
        self._folder = folder
        self._runs: set[_Run] = set()
        self._answers = 0
        self._unreached = 0
        self._pacer = Pacer(policy.requests_per_second)
        self._slots = asyncio.Semaphore(policy.connections)
        self._checking = Workbench(self._keep, CHECKING_THREADS, "tilewright-check")

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tilewright-fetch", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._checking.close()
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        return open_session(self._policy.connections, self._policy.timeout)

    async def _close(self) -> None:
        runs = [run.task for run in self._runs if run.task is not None]
        for task in runs:
            task.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        await self._session.close()

    def fetch(self, tiles: Sequence[Tile], on_batch: Callable[[list[Fetched]], None]) -> FetchSummary:
        """Fetch ``tiles``.

        What is left of earlier images of these tiles is removed first. ``on_batch`` is called in the
        calling thread and gets every outcome exactly once, also when this raises: SourceError or
        CredentialError when the source would refuse every tile alike, DiskError. Such an error ends
        the other calls under way as well. What ``on_batch`` raises ends this call.
        """
        started = time.monotonic()
        remove_images(self._folder, tiles)
        run = _Run(self._loop)
        self._loop.call_soon_threadsafe(self._start, run, tiles)
        try:
            while (batch := run.outbox.get()) is not None:
                on_batch(batch)
        except BaseException:
            self._loop.call_soon_threadsafe(run.cancel)
            while run.outbox.get() is not None:
                pass
            raise
        assert run.task is not None  # set before anything comes out of the outbox
        if run.task.cancelled():
            raise RuntimeError("the fetcher was closed during this call")
        run.task.result()
        return FetchSummary(run.requests, run.bytes, time.monotonic() - started, dict(run.counts))

    def _start(self, run: _Run, tiles: Sequence[Tile]) -> None:
        run.task = self._loop.create_task(self._fetch_all(run, tiles))
        run.task.add_done_callback(lambda _: run.outbox.put(None))

    async def _fetch_all(self, run: _Run, tiles: Sequence[Tile]) -> None:
        self._runs.add(run)
        try:
            async with asyncio.TaskGroup() as group:
                window = asyncio.Semaphore(WINDOW * self._policy.connections)
                for tile in tiles:
                    await window.acquire()
                    group.create_task(self._settle(run, tile)).add_done_callback(lambda _: window.release())
        except ExceptionGroup as errors:
            error = errors.exceptions[0]
            if isinstance(error, TilewrightError):
                for other in self._runs - {run}:
                    other.stopped_by = error
                    other.cancel()
            raise error from None
        except asyncio.CancelledError:
            if run.stopped_by is not None:
                raise run.stopped_by from None
            raise
        finally:
            self._runs.discard(run)
            run.flush()

    async def _settle(self, run: _Run, tile: Tile) -> None:
        """Try until there is an outcome for ``tile``."""
        tally = Tally()
        outcome: Fetched | None = None
        try:
            while outcome is None:
                try:
                    outcome = await self._attempt(tile, tally)
                except _RetryError as error:
                    if tally.failures >= self._policy.attempts or tally.throttled >= THROTTLED_LIMIT:
                        outcome = Fetched(tile.name, State.FAILED, str(error), attempts=tally.requests)
                    else:
                        await asyncio.sleep(error.pause)
        finally:
            run.requests += tally.requests
            self.requests += tally.requests
        run.settle(outcome)

    async def _attempt(self, tile: Tile, tally: Tally) -> Fetched:
        """One request and what it comes to. Raises _RetryError, or a TilewrightError that ends the whole fetch."""
        request = self._source.request(tile)
        try:
            async with self._slots:
                await self._pacer.turn()
                answer = await ask(self._session, request, tally)
            self._answers += 1
            return await self._judge(tile, request, answer, tally)
        except UnreachedError as error:
            self._unreached += 1
            tally.failures += 1
            tried_again = tally.failures > 1 and self._unreached >= UNREACHED_LIMIT
            if not self._answers and (tried_again or tally.failures >= self._policy.attempts):
                raise SourceError(
                    f"cannot reach {origin(request.url)}: {self._unreached} connections failed and none succeeded; "
                    "check the address and the network, then run the same command again"
                ) from None
            raise self._retry(str(error), tally) from None
        except (LostAnswerError, BadImageError) as error:
            tally.failures += 1
            raise self._retry(str(error), tally) from None

    def _retry(self, reason: str, tally: Tally, asked: float = 0.0) -> _RetryError:
        return _RetryError(reason, max(asked, backoff(self._policy.backoff, tally.failures)))

    async def _judge(self, tile: Tile, request: TileRequest, answer: Answer, tally: Tally) -> Fetched:
        """What an answer means for its tile, and for the source."""
        status = answer.status
        if status == 200:
            return await self._checking.do((tile, request, answer, tally.requests))
        if self._source.is_absent(status, answer.body):
            return Fetched(tile.name, State.ABSENT, f"HTTP {status}", tally.requests, fetched_at=int(time.time()))
        asked = asked_pause(answer.headers, time.time())
        if status == 429:
            tally.throttled += 1
            self._pacer.pause(asked or backoff(self._policy.backoff, tally.throttled))
            raise _RetryError("HTTP 429", 0.0)
        if 400 <= status < 500 and status not in _LATER:
            raise self._source.explain_refusal(status, answer.body, request.url)
        tally.failures += 1
        raise self._retry(f"HTTP {status}", tally, asked or 0.0)

    def _keep(self, job: tuple[Tile, TileRequest, Answer, int]) -> Fetched:
        """Check the image and write its file, in a thread. Raises BadImageError, SourceError, DiskError."""
        tile, request, answer, requests = job
        body = answer.body
        form = sniff(body)
        if form is None:
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
            raise BadImageError(f"not an image ({kind if re.fullmatch(_MEDIA_TYPE, kind) else 'no content type'})")
        pixels = self._source.tile_pixels
        try:
            nodata = check_image(body, pixels)
        except WrongSizeError as error:
            fits = error.width == error.height and error.width in (256, 512)
            advice = f"set grid.tile_size: {error.width}" if fits else "choose a source with 256 or 512 px tiles"
            raise SourceError(
                f"{origin(request.url)} answered tile {tile.name} with {error}, expected {pixels} x {pixels}; {advice}"
            ) from None
        now = int(time.time())
        if nodata > self._policy.max_nodata_fraction:
            size = len(body)
            return Fetched(tile.name, State.REJECTED, "nodata", requests, size, nodata_fraction=nodata, fetched_at=now)
        write_image(self._folder, tile, form, body)
        etag = answer.headers.get("ETag", "")[:MAX_ETAG] or None
        digest = hashlib.sha256(body).hexdigest()
        return Fetched(tile.name, State.KEPT, "", requests, len(body), etag, digest, nodata, now)
