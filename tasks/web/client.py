"""Requests of everything that is not a tile: counted, and with no secret in what is said, logged or raised.

:meth:`Client.get` is the one place that sends them (osmnx, pystac-client and GDAL send their own).
"""

import logging
import threading
from collections.abc import Callable, Container, Mapping
from typing import Self, TypeVar

import requests

from tasks.errors import SourceError, TilewrightError
from tasks.secrets import redact
from tasks.web.retry import TRANSIENT_STATUS, RetryPolicy, TransientError, asked_pause, persist

T = TypeVar("T")
_CONNECT_SECONDS = 15.0


def without_secrets(record: logging.LogRecord) -> bool:
    """A filter for what a library logs, without tokens: urllib3 at level DEBUG path and query of every request."""
    record.msg, record.args = redact(record.getMessage()), ()
    return True


class Client:
    """HTTP for one purpose. Any thread may ask; each has connections of its own, which :meth:`close` lets go."""

    def __init__(
        self,
        policy: RetryPolicy,
        timeout: float,
        error: type[TilewrightError] = SourceError,
        advice: str = "correct imagery.url",
        *,
        login: bool = False,
    ) -> None:
        """``timeout``: seconds without a byte, after which a connection is lost.

        ``error`` and ``advice`` tell of a URL that cannot be asked. ``login``: send what the user's .netrc has.
        """
        logging.getLogger("urllib3.connectionpool").addFilter(without_secrets)
        self.policy, self.timeout, self.requests = policy, timeout, 0
        self._error, self._advice, self._login = error, advice, login
        self._lock, self._own = threading.Lock(), threading.local()
        self._sessions: list[requests.Session] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let all connections go."""
        with self._lock:
            sessions, self._sessions = self._sessions, []
            self._own = threading.local()
        for session in sessions:
            session.close()

    def count(self, number: int = 1) -> None:
        """Add to the requests sent so far."""
        with self._lock:
            self.requests += number

    def persist(self, action: Callable[[], T]) -> T:
        """The result of ``action``, tried again while it raises TransientError. Raises the last of those."""
        return persist(action, self.policy)

    def get(
        self,
        url: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        follow: bool = False,
        whole: bool = False,
        transient: Container[int] = TRANSIENT_STATUS,
        shown: str = "",
    ) -> requests.Response:
        """One answer: streamed, for the caller to close, or ``whole``, with its body in ``content``.

        ``follow``: redirects. Messages say ``shown``, by default ``url`` without secrets and ``query``. Raises
        TransientError for an answer that is lost or of a status in ``transient``, and for what is no URL the
        client's own error.
        """
        shown, lost = shown or redact(url), "no connection"
        timeout = (min(_CONNECT_SECONDS, self.timeout), self.timeout)
        self.count()
        try:
            answer = self._session().get(
                url, params=query, headers=headers, stream=True, timeout=timeout, allow_redirects=follow
            )
            if answer.status_code in transient:
                answer.close()
                said = f"{answer.status_code} {answer.reason}"
                raise TransientError(f"{shown}: the server answered {said}", asked_pause(answer.headers))
            if whole:
                lost = "the answer broke off"
                with answer:
                    _ = answer.content  # which keeps it
            return answer
        except (requests.TooManyRedirects, ValueError) as error:
            why = type(error).__name__
            failure: Exception = self._error(f"{shown}: is no URL that can be asked ({why}); {self._advice}")
        except requests.RequestException as error:
            failure = TransientError(f"{shown}: {lost} ({type(error).__name__})")
        raise failure  # here, so that the library's exception, which has the whole URL in it, is not its context

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = requests.Session()
            session.auth = None if self._login else lambda request: request  # keeps out the login of the user's .netrc
            session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are of the file
            with self._lock:
                self._sessions.append(session)
        return session
