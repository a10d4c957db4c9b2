"""Files of a collection that are fetched when somebody asks for them."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.errors import SourceError, WindowReadError
from tasks.web.client import Client
from tasks.web.download import store
from tasks.web.retry import TransientError


class RemoteAsset:
    """A file of a server, kept in ``file`` from the first time on. Any thread may ask for it."""

    def __init__(
        self,
        client: Client,
        name: str,
        file: Path,
        locate: Callable[[], tuple[str, Mapping[str, str]]],
        size: int | None = None,
        etag: str = "",
    ) -> None:
        """``name``: URL without secrets. ``locate`` gives URL and headers, asked before every attempt.

        ``size`` in bytes and ``etag`` are the file's, as far as they are known.
        """
        self.name = name
        self._client, self._file, self._locate, self._size, self._etag = client, file, locate, size, etag
        self._lock = threading.Lock()

    def path(self) -> Path:
        """The file. Raises WindowReadError when it cannot be had, CredentialError, DiskError."""
        with self._lock:
            # A whole file has its name only when it was whole; a size that differs is another version's.
            if not self._file.is_file() or (self._size is not None and self._file.stat().st_size != self._size):
                try:
                    self._client.persist(self._fetch)
                except TransientError as error:
                    raise WindowReadError(f"{self.name}: {error}; gave up after {self._attempts}") from error
                except SourceError as error:
                    raise WindowReadError(str(error)) from error
        return self._file

    @property
    def _attempts(self) -> str:
        return f"{self._client.policy.attempts} attempts"

    def _fetch(self) -> None:
        url, headers = self._locate()
        with self._client.get(url, headers=headers, follow=True) as answer:
            if answer.status_code != 200:
                # A signed URL may have run out while its bytes came: locate() gives a new one.
                kind = TransientError if answer.status_code in (401, 403) else WindowReadError
                raise kind(f"{self.name}: the server answered {answer.status_code} {answer.reason}")
            store(answer, self._file, self._size, self._etag)
