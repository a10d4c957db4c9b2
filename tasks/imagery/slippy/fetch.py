"""Fetch tiles: ask, wait, retry, check, stage.

A :class:`Fetcher` owns an event loop in a thread of its own and one HTTP session, so connections live
from shard to shard. It stages images; what became of each tile goes to the caller, in batches and
in the caller's thread, to be put in the ledger.
"""

import asyncio
import hashlib
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Self

import aiohttp

from tasks.errors import SourceError, TilewrightError
from tasks.geo.tiles import Tile
from tasks.imagery.protocol import Record
from tasks.imagery.slippy.protocol import TileServer
from tasks.imagery.slippy.workbench import Workbench
from tasks.raster.encoded import BadImageError, WrongSizeError, check_image, sniff
from tasks.secrets import redact
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.state.transitions import Image
from tasks.web.exchange import Answer, LostAnswerError, Pacer, Request, Tally, UnreachedError, ask, open_session
from tasks.web.origins import origin
from tasks.web.reach import ANYWHERE, Reach
from tasks.web.retry import PATIENCE, TRANSIENT_STATUS, Patience, RetryPolicy, TransientError, asked_pause

BATCH_TILES = 64
BATCH_SECONDS = 0.5
UNDER_WAY = 4  # tiles under way, waits for a retry included, for each connection
UNREACHED_LIMIT = 8  # failed connections before the first answer after which the server counts as down
THROTTLED_LIMIT = 20  # answers of 429 to one tile before it counts as failed

CHECKING_THREADS = max(2, min(8, os.cpu_count() or 1))
MAX_ETAG = 200  # characters

_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}")


@dataclass(frozen=True)
class FetchPolicy:
    """How hard to try."""

    connections: int = 64
    requests_per_second: float | None = None
    attempts: int = 5  # failures after which a tile is failed; being throttled is no failure
    timeout: float = 30.0  # seconds for one request
    backoff: float = 0.5  # seconds before the first retry
    patience: float = PATIENCE  # seconds in all that the server may make the fetcher wait
    reach: Reach = ANYWHERE  # where its redirects may lead

    @property
    def retry(self) -> RetryPolicy:
        """Of one tile."""
        return RetryPolicy(self.attempts, math.inf, self.backoff, jitter=(0.5, 1.5))


class _Run:
    """One call of :meth:`Fetcher.fetch`, as the event loop sees it."""

    def __init__(self, staging: Staging, loop: asyncio.AbstractEventLoop) -> None:
        self.staging = staging
        self.outbox: SimpleQueue[list[Fetched] | None] = SimpleQueue()  # None: nothing is on its way any more
        self.task: asyncio.Task[None] | None = None
        self.stopped_by: TilewrightError | None = None  # what another call of the same fetcher met
        self._loop = loop
        self._settled: list[Fetched] = []

    def settle(self, outcome: Fetched) -> None:
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
    """Fetches tiles from one server.

    Use it as a context manager; ``fetch`` may then be called from any thread, also from several at once.
    Rate, pauses and connections are shared by all calls.
    """

    def __init__(self, server: TileServer, policy: FetchPolicy) -> None:
        self.requests = 0  # sent since the start, by all calls
        self._server = server
        self._policy, self._retry, self._patience = policy, policy.retry, Patience(policy.patience)
        self._runs: set[_Run] = set()
        self._answers = 0
        self._unreached = 0
        self._pacer = Pacer(policy.requests_per_second)
        self._slots = asyncio.Semaphore(policy.connections)
        self._checking = Workbench(self._stage, CHECKING_THREADS, "tilewright-check")

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tilewright-fetch", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._checking.close()
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        return open_session(self._policy.connections, self._policy.timeout, self._policy.reach)

    async def _close(self) -> None:
        runs = [run.task for run in self._runs if run.task is not None]
        for task in runs:
            task.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
        await self._session.close()

    def fetch(self, tiles: Mapping[str, Tile], staging: Staging, record: Record) -> None:
        """Fetch the tiles of these names and stage them under their names.

        What is left of earlier images of these names is removed first. ``record`` is called in the
        calling thread and gets every outcome exactly once, also when this raises: SourceError or
        CredentialError when the server would refuse every tile alike, DiskError. Such an error ends
        the other calls under way as well. What ``record`` raises ends this call.
        """
        staging.remove(tiles)
        run = _Run(staging, self._loop)
        self._loop.call_soon_threadsafe(self._start, run, tiles)
        try:
            while (batch := run.outbox.get()) is not None:
                record(batch)
        except BaseException:
            self._loop.call_soon_threadsafe(run.cancel)
            while run.outbox.get() is not None:
                pass
            raise
        assert run.task is not None  # set before anything comes out of the outbox
        if run.task.cancelled():
            raise RuntimeError("the fetcher was closed during this call")
        run.task.result()

    def _start(self, run: _Run, tiles: Mapping[str, Tile]) -> None:
        run.task = self._loop.create_task(self._fetch_all(run, tiles))
        run.task.add_done_callback(lambda _: run.outbox.put(None))

    async def _fetch_all(self, run: _Run, tiles: Mapping[str, Tile]) -> None:
        self._runs.add(run)
        try:
            async with asyncio.TaskGroup() as group:
                room = asyncio.Semaphore(UNDER_WAY * self._policy.connections)
                for name, tile in tiles.items():
                    await room.acquire()
                    group.create_task(self._settle(run, name, tile)).add_done_callback(lambda _: room.release())
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

    async def _settle(self, run: _Run, name: str, tile: Tile) -> None:
        """Try until there is an outcome for ``tile``."""
        tally = Tally()
        outcome: Fetched | None = None
        try:
            while outcome is None:
                try:
                    outcome = await self._attempt(run.staging, name, tile, tally)
                except TransientError as error:
                    if tally.failures >= self._policy.attempts or tally.throttled >= THROTTLED_LIMIT:
                        outcome = Fetched(name, Image.FAILED, str(error), attempts=tally.requests)
                    else:
                        await asyncio.sleep(error.pause)
        finally:
            self.requests += tally.requests
        run.settle(outcome)

    async def _attempt(self, staging: Staging, name: str, tile: Tile, tally: Tally) -> Fetched:
        """One request and what it comes to. Raises TransientError, or a TilewrightError that ends the whole fetch."""
        request = self._server.request(tile)
        try:
            async with self._slots:
                await self._pacer.turn()
                answer = await ask(self._session, request, tally, self._policy.reach)
            self._answers += 1
            return await self._judge(staging, name, request, answer, tally)
        except (LostAnswerError, BadImageError) as error:
            in_vain = self._in_vain(str(error), tally)
            if isinstance(error, UnreachedError):
                self._unreached += 1
                tried_again = tally.failures > 1 and self._unreached >= UNREACHED_LIMIT
                if not self._answers and (tried_again or tally.failures >= self._policy.attempts):
                    raise SourceError(
                        f"cannot reach {origin(request.url)}: {self._unreached} connections failed and none succeeded "
                        f"({error}); check the address and the network, then run the same command again"
                    ) from None
            raise in_vain from None

    def _in_vain(self, reason: str, tally: Tally, asked: float | None = None) -> TransientError:
        """One more failure, and when to try again."""
        tally.failures += 1
        return TransientError(reason, max(asked or 0.0, self._retry.pause(tally.failures)))

    async def _judge(self, staging: Staging, name: str, request: Request, answer: Answer, tally: Tally) -> Fetched:
        """What an answer means for its tile, and for the server."""
        status = answer.status
        if status == 200:
            self._patience.answered()
            return await self._checking.do((staging, name, request, answer, tally.requests))
        if self._server.is_absent(status, answer.body):
            return Fetched(name, Image.ABSENT, f"HTTP {status}", tally.requests, fetched_at=int(time.time()))
        asked = asked_pause(answer.headers)
        if status == 429:
            tally.throttled += 1
            self._hold(request, asked or self._retry.pause(tally.throttled))
            raise TransientError("HTTP 429")
        if 400 <= status < 500 and status not in TRANSIENT_STATUS:
            raise self._server.explain_refusal(status, answer.body, request.url)
        if asked and not self._patience.spend(asked, f"{origin(request.url)}: HTTP {status}"):
            reason = f"HTTP {status}, with a wait beyond limits.patience"
            return Fetched(name, Image.FAILED, reason, attempts=tally.requests)
        raise self._in_vain(f"HTTP {status}", tally, asked)

    def _hold(self, request: Request, pause: float) -> None:
        """Ask for no tile for so many seconds. Raises SourceError when it is too much in all."""
        if not self._patience.spend(pause, f"{origin(request.url)}: HTTP 429, too many requests"):
            raise SourceError(
                f"{origin(request.url)}: answered 429, too many requests; {self._patience.exhausted(pause)}; run the "
                "same command again later, with a lower imagery.requests_per_second, or raise limits.patience"
            )
        self._pacer.pause(pause)

    def _stage(self, job: tuple[Staging, str, Request, Answer, int]) -> Fetched:
        """Check the image and stage it, in a thread. Raises BadImageError, SourceError, DiskError."""
        staging, name, request, answer, requests = job
        body = answer.body
        form = sniff(body)
        if form is None:
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
            raise BadImageError(f"not an image ({kind if re.fullmatch(_MEDIA_TYPE, kind) else 'no content type'})")
        pixels = self._server.tile_pixels
        try:
            nodata = check_image(body, pixels)
        except WrongSizeError as error:
            fits = error.width == error.height and error.width in (256, 512)
            advice = f"set grid.tile_size: {error.width}" if fits else "choose a source with 256 or 512 px tiles"
            raise SourceError(
                f"{origin(request.url)} answered tile {name} with {error}, expected {pixels} x {pixels}; {advice}"
            ) from None
        now = int(time.time())
        staging.write_encoded(name, form, body)
        etag = redact(answer.headers.get("ETag", ""))[:MAX_ETAG] or None
        digest = hashlib.sha256(body).hexdigest()
        return Fetched(name, Image.STAGED, "", requests, len(body), etag, digest, nodata, now)
