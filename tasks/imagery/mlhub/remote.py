"""What is asked of the servers of collections: answers, and files that are fetched when somebody asks for them."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.errors import SourceError, WindowReadError
from tasks.web.answers import Answer, Stream
from tasks.web.bodies import is_markup
from tasks.web.client import Client
from tasks.web.download import store
from tasks.web.retry import TransientError

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how one begins, large ones too
MOST_PAGES = 20_000  # of one listing
MOST_IDLE = 300  # pages in a row with nothing that is wanted
LISTING_SECONDS = 6 * 3600.0  # for one listing


def ask(client: Client, url: str, query: Mapping[str, str], advice: str) -> Answer:
    """A whole answer of any status that does not pass. Raises SourceError, with ``advice``, when none comes."""
    try:
        return client.persist(lambda: client.get(url, query=query))
    except TransientError as error:
        raise SourceError(f"{error}; gave up after {error.tried}{advice}") from error


class Pages:
    """How many pages of a listing there may be: a server can go on for ever, with pages that are all different."""

    def __init__(self, name: str) -> None:
        """``name``: of the listing, for messages."""
        self._name, self._pages, self._idle = name, 0, 0
        self._until = time.monotonic() + LISTING_SECONDS

    def another(self, useful: bool) -> None:
        """One more page came, and brought something new or not. Raises SourceError when there were enough."""
        self._pages, self._idle = self._pages + 1, 0 if useful else self._idle + 1
        told = ""
        if self._idle >= MOST_IDLE:
            told = f"{self._idle:,} pages with nothing that is wanted"
        elif self._pages >= MOST_PAGES:
            told = f"{self._pages:,} pages"
        elif time.monotonic() > self._until:
            told = f"{LISTING_SECONDS:,.0f} s and {self._pages:,} pages"
        if told:
            raise SourceError(
                f"{self._name}: the listing has not come to an end after {told}; name a smaller part of it "
                "(imagery.dataset, imagery.collections), or use imagery.reader: local"
            )


@dataclass(eq=False)
class RemoteAsset:
    """A file of a server, kept in ``file`` from the first time on. Any thread may ask for it."""

    client: Client
    name: str  # URL without secrets
    file: Path
    locate: Callable[[], tuple[str, Mapping[str, str]]]  # gives URL and headers, asked before every attempt
    size: int | None = None  # in bytes, where it is known
    etag: str = ""  # where it is known
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def path(self) -> Path:
        """The file. Raises WindowReadError when it cannot be had, CredentialError, DiskError."""
        with self._lock:
            # A whole file has its name only when it was whole; a size that differs is another version's.
            if not self.file.is_file() or (self.size is not None and self.file.stat().st_size != self.size):
                try:
                    self.client.persist(self._fetch)
                except TransientError as error:
                    said = str(error).removeprefix(f"{self.name}: ")
                    raise WindowReadError(f"{self.name}: {said}; gave up after {error.tried}") from error
                except SourceError as error:
                    raise WindowReadError(str(error)) from error
        return self.file

    def _fetch(self) -> None:
        url, headers = self.locate()
        with self.client.stream(url, headers=headers, shown=self.name) as answer:
            if answer.status != 200:
                # A signed URL may have run out while its bytes came: locate() gives a new one.
                kind = TransientError if answer.status in (401, 403) else WindowReadError
                raise kind(f"{self.name}: the server answered {answer.status} {answer.reason}")
            self._see_size(answer)
            store(answer, self.file, self.size, self.etag)
        with self.file.open("rb") as file:
            start = file.read(512)
        if not start.startswith(_TIFF):
            # Before somebody takes it for the image, in this run or a later one.
            self.file.unlink()
            found = "a web page (HTML)" if is_markup(start) else "something else"
            raise TransientError(f"{self.name}: the server sent {found}, not a TIFF")

    def _see_size(self, answer: Stream) -> None:
        """Raise before the body is read for what it cannot be."""
        if answer.length is None or answer.is_encoded:
            return
        if answer.length > (most := self.client.limits.download_bytes):
            raise WindowReadError(
                f"{self.name}: the file has {answer.length:,} bytes, over limits.max_download_gb {most / 1e9:,.6g}"
            )
        if self.size is not None and answer.length != self.size:
            raise TransientError(f"{self.name}: the server sends {answer.length} bytes, expected {self.size}")
