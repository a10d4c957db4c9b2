"""What is asked of the servers of collections: answers, and files that are fetched when somebody asks for them."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tasks.errors import SourceError, WindowReadError
from tasks.web.client import Client
from tasks.web.download import store
from tasks.web.retry import TransientError


def ask(client: Client, url: str, query: Mapping[str, str], advice: str) -> requests.Response:
    """A whole answer of any status that does not pass. Raises SourceError, with ``advice``, when none comes."""
    try:
        return client.persist(lambda: client.get(url, query=query, whole=True))
    except TransientError as error:
        raise SourceError(f"{error}; gave up after {client.policy.attempts} attempts{advice}") from error


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
                    attempts = self.client.policy.attempts
                    raise WindowReadError(f"{self.name}: {error}; gave up after {attempts} attempts") from error
                except SourceError as error:
                    raise WindowReadError(str(error)) from error
        return self.file

    def _fetch(self) -> None:
        url, headers = self.locate()
        with self.client.get(url, headers=headers, follow=True) as answer:
            if answer.status_code != 200:
                # A signed URL may have run out while its bytes came: locate() gives a new one.
                kind = TransientError if answer.status_code in (401, 403) else WindowReadError
                raise kind(f"{self.name}: the server answered {answer.status_code} {answer.reason}")
            store(answer, self.file, self.size, self.etag)
