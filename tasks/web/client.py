"""Small requests of the MLHub readers: counted, retried, and with no key in what they say, log or raise."""

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import requests

from tasks.errors import DiskError, SourceError
from tasks.secrets import redact
from tasks.web.download import no_login
from tasks.web.retry import TRANSIENT_STATUS, Patience, TransientError, persist, retry_after

T = TypeVar("T")
FIRST_PAUSE = 1.0  # seconds before the first retry
TOTAL_SECONDS = 600.0  # for one small request with its retries
_CONNECT_SECONDS = 15.0
_CHUNK = 1 << 16  # bytes
_MD5 = re.compile(r"[0-9a-f]{32}")


class _WithoutKeys(logging.Filter):
    """urllib3 logs the path and query of every request at level DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


_WITHOUT_KEYS = _WithoutKeys()


class Web:
    """HTTP for one catalogue. Any thread may ask; each has connections of its own."""

    def __init__(self, attempts: int, timeout: float) -> None:
        """``timeout``: seconds for one request."""
        logging.getLogger("urllib3.connectionpool").addFilter(_WITHOUT_KEYS)
        self.timeout = timeout
        self.patience = Patience(attempts, TOTAL_SECONDS, FIRST_PAUSE)
        self.requests = 0
        self._lock, self._own = threading.Lock(), threading.local()
        self._sessions: list[requests.Session] = []

    def count(self, number: int = 1) -> None:
        """Add to the requests sent so far."""
        with self._lock:
            self.requests += number

    def persist(self, action: Callable[[], T]) -> T:
        """The result of ``action``, tried again while it raises TransientError. Raises the last of those."""
        return persist(action, self.patience)

    def get(
        self,
        url: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        follow: bool = False,
    ) -> requests.Response:
        """One streamed answer of a status that no retry changes; the caller closes it.

        Messages name ``url`` without ``query``. Raises TransientError, SourceError for what is no URL.
        """
        self.count()
        shown = redact(url)
        timeout = (min(_CONNECT_SECONDS, self.timeout), self.timeout)
        try:
            answer = self._session().get(
                url, params=query, headers=headers, stream=True, timeout=timeout, allow_redirects=follow
            )
        except requests.RequestException as error:
            # The type alone: the text has the whole URL in it.
            kind, lost = type(error).__name__, not isinstance(error, ValueError)
        else:
            if answer.status_code not in TRANSIENT_STATUS:
                return answer
            answer.close()
            raise TransientError(
                f"{shown}: the server answered {answer.status_code} {answer.reason}",
                retry_after(answer.headers.get("Retry-After")),
            )
        if lost:
            raise TransientError(f"{shown}: no connection ({kind})")
        raise SourceError(f"{shown}: is no URL that can be asked ({kind}); correct imagery.url")

    def read(self, url: str, query: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and whole body of an answer; redirects are not followed. Raises as :meth:`get`."""
        with self.get(url, query=query) as answer:
            try:
                return answer.status_code, answer.content
            except requests.RequestException as error:
                reason = type(error).__name__
        raise TransientError(f"{redact(url)}: the answer broke off ({reason})")

    def store(self, answer: requests.Response, path: Path, size: int | None, etag: str = "") -> None:
        """Write an answer's body to ``path``, which is there whole or not at all.

        ``size`` in bytes and ``etag`` are what it must have; an ETag that is no MD5 is not looked at. Raises
        TransientError for another body than that, DiskError.
        """
        part = path.with_name(f"{path.name}.{threading.get_ident()}.part")
        digest, written, broke = hashlib.md5(usedforsecurity=False), 0, ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                try:
                    for chunk in answer.iter_content(_CHUNK):
                        digest.update(chunk)
                        written += file.write(chunk)
                except requests.RequestException as error:
                    broke = type(error).__name__
            wrong = broke or _difference(written, size, digest.hexdigest(), etag)
            if not wrong:
                part.replace(path)
                return
            part.unlink()
        except OSError as error:
            raise DiskError(f"{path}: cannot be written ({error.strerror or error}); free some disk") from error
        raise TransientError(f"the file came short or changed ({wrong})")

    def close(self) -> None:
        """Let all connections go."""
        with self._lock:
            sessions, self._sessions = self._sessions, []
            self._own = threading.local()
        for session in sessions:
            session.close()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = requests.Session()
            session.auth = no_login
            session.headers["Accept-Encoding"] = "identity"  # sizes are of the file
            with self._lock:
                self._sessions.append(session)
        return session


def _difference(written: int, size: int | None, md5: str, etag: str) -> str:
    if size is not None and written != size:
        return f"{written} bytes, expected {size}"
    expected = etag.strip('"').lower()
    return f"md5 {md5}, expected {expected}" if _MD5.fullmatch(expected) and md5 != expected else ""
