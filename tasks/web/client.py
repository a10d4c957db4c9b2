"""Requests of everything that is not a tile: counted, bounded, and with no secret in what is said, logged or raised.

:class:`Client` is the one place that sends them. Each has an end in seconds for all of it, in bytes as sent and as
unpacked, in redirects and in what it waits for, and leads to no private address that the user did not name.
"""

import io
import threading
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies

import requests
import urllib3

from tasks.errors import SourceError, TilewrightError
from tasks.secrets import guard_logs, redact
from tasks.web.answers import Answer, Stream
from tasks.web.connection import CONNECT_SECONDS, CURRENT, Asking, BoundedSession, Deadline
from tasks.web.failures import TLS_ADVICE, explain
from tasks.web.origins import (
    carries,
    is_downgrade,
    kept_headers,
    origin,
    same_origin,
    secrets_of,
    without_secrets_of,
)
from tasks.web.reach import ANYWHERE, Reach, host_of
from tasks.web.retry import PATIENCE, TRANSIENT_STATUS, Patience, RetryPolicy, TransientError, asked_pause, persist

if TYPE_CHECKING:
    from tasks.recipe.parts import Limits

T = TypeVar("T")
MAX_REDIRECTS = 5  # one after the other
LEAST_RATE = 1024  # bytes a second that a stream must bring to count as alive
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Bounds:
    """What one source may cost before it is given up."""

    answer_bytes: int = 256_000_000  # of one whole answer, as sent and as unpacked: limits.max_answer_mb
    download_bytes: int = 40_000_000_000  # of one streamed file, as sent and as unpacked: limits.max_download_gb
    patience: float = PATIENCE  # seconds that servers may make one client wait: limits.patience

    @classmethod
    def of(cls, limits: "Limits") -> Self:
        """As a recipe's ``limits`` have them."""
        return cls(round(limits.max_answer_mb * 1e6), round(limits.max_download_gb * 1e9), limits.patience)


USUAL = Bounds()


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
        limits: Bounds = USUAL,
        reach: Reach = ANYWHERE,
    ) -> None:
        """``timeout``: seconds for a whole request, from asking to the last byte; see :meth:`stream` for the other.

        ``error`` and ``advice`` tell of what no further attempt can mend. ``login``: send what the user's .netrc has.
        """
        guard_logs()  # urllib3 at level DEBUG logs path and query of every request
        self.policy, self.timeout, self.limits, self.reach, self.requests = policy, timeout, limits, reach, 0
        self.patience = Patience(limits.patience)
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
        """The result of ``action``, tried again while it raises TransientError. Raises the last of those.

        All calls share ``limits.patience`` for what servers ask them to wait.
        """
        return persist(action, self.policy, self.patience)

    def get(
        self,
        url: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        follow: bool = False,
        transient: Container[int] = TRANSIENT_STATUS,
        shown: str = "",
        seconds: float | None = None,
    ) -> Answer:
        """A whole answer, of any status that is not in ``transient``.

        ``seconds``: for this request, in place of the client's ``timeout``. ``follow``: redirects, as :meth:`stream`
        does; else one is an answer like others. Messages say ``shown``, by default ``url`` without secrets and
        ``query``. Raises TransientError for an answer that is lost, late or of a status in ``transient``, and the
        client's own error for one that is too long, for what is no URL, for TLS that fails and for redirects that lead
        nowhere; SourceError for a private address.
        """
        return self._whole(_Asked("GET", url, headers or {}, query), follow, transient, shown, seconds)

    def post(
        self,
        url: str,
        *,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        follow: bool = False,
        transient: Container[int] = TRANSIENT_STATUS,
        shown: str = "",
        seconds: float | None = None,
    ) -> Answer:
        """As :meth:`get`, with ``data`` as the request's body, which a redirect takes along (but for a 303)."""
        return self._whole(_Asked("POST", url, headers or {}, None, data), follow, transient, shown, seconds)

    def stream(
        self,
        url: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        follow: bool = True,
        transient: Container[int] = TRANSIENT_STATUS,
        shown: str = "",
    ) -> Stream:
        """An answer with its body to come, of any length up to ``limits.download_bytes``. Raises as :meth:`get`.

        It may take as long as it brings LEAST_RATE bytes a second, looked at every ``timeout`` seconds.

        Redirects are followed up to MAX_REDIRECTS. To another origin go neither login nor headers, but for those about
        the file that is wanted; what the request's own URL or headers hold of secrets is taken out of the target's
        query, and a target that still holds one is refused, as is one from https to http with secrets about.
        """
        # Sizes and ranges are of the file, not of something made of it on the way.
        asked = _Asked("GET", url, {"Accept-Encoding": "identity", **(headers or {})}, query)
        cap = _Cap(self.limits.download_bytes, "limits.max_download_gb")
        return self._open(asked, Deadline(self.timeout, LEAST_RATE), follow, transient, shown or redact(url), cap)

    def _whole(
        self, asked: "_Asked", follow: bool, transient: Container[int], shown: str, seconds: float | None
    ) -> Answer:
        asked = replace(asked, headers={"Accept-Encoding": "gzip", **asked.headers})
        deadline, cap = Deadline(seconds or self.timeout), _Cap(self.limits.answer_bytes, "limits.max_answer_mb")
        body = io.BytesIO()  # grows in place
        with self._open(asked, deadline, follow, transient, shown or redact(asked.url), cap) as stream:
            for chunk in stream.chunks():
                body.write(chunk)
        return Answer(stream.status, stream.reason, stream.headers, body.getvalue(), stream.url)

    def _open(
        self, asked: "_Asked", deadline: Deadline, follow: bool, transient: Container[int], shown: str, cap: "_Cap"
    ) -> Stream:
        """The answer at the end of all redirects."""
        seen: list[str] = []
        while True:
            answer = self._send(asked, deadline, shown)
            target = answer.headers.get("Location") if answer.status_code in _REDIRECTS else None
            if answer.status_code in transient:
                answer.close()
                said = f"{answer.status_code} {_reason(answer)}"
                raise TransientError(f"{shown}: the server answered {said}", asked_pause(answer.headers))
            if not follow or target is None:
                break
            answer.close()
            seen.append(asked.url)
            asked = self._redirected(asked, answer, target, shown, seen)
        return Stream(
            answer.status_code,
            _reason(answer),
            answer.headers,
            str(answer.url),
            _raw=answer.raw,
            _deadline=deadline,
            _shown=shown,
            _most=cap.most,
            _too_long=lambda: self._error(
                f"{shown}: the answer has more than {cap.most / 1e6:,.6g} MB, {cap.key}; raise it if that is meant, or "
                f"{self._advice}"
            ),
        )

    def _send(self, asked: "_Asked", deadline: Deadline, shown: str) -> requests.Response:
        """The answer to one request, its body still to come."""
        if getproxies():
            self.reach.check(asked.url)  # the connection will be the proxy's
        self.count()
        CURRENT.asking = Asking(deadline, self.reach)
        login = self._login and not asked.abroad
        try:
            return self._session().request(
                asked.method,
                asked.url,
                params=asked.query,
                data=asked.data,
                headers=asked.headers,
                stream=True,
                timeout=min(CONNECT_SECONDS, deadline.left()),
                allow_redirects=False,
                auth=None if login else _no_login,
            )
        except SourceError as error:  # of the reach, which knows the host alone
            why = str(error).partition(": ")[2]
            failure: Exception = SourceError(f"{shown}: {why}")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            found = explain(error, deadline)
            if isinstance(error, ValueError) and found.reason == type(error).__name__:
                failure = self._error(f"{shown}: is no URL that can be asked ({found.reason}); {self._advice}")
            elif found.final:
                failure = self._error(f"{shown}: {found.reason}; {TLS_ADVICE}, or {self._advice}")
            else:
                failure = TransientError(
                    f"{shown}: {'no answer' if found.connected else 'no connection'} ({found.reason})"
                )
        raise failure  # here, so that the library's exception, which has the whole URL in it, is not its context

    def _redirected(
        self, asked: "_Asked", answer: requests.Response, target: str, shown: str, seen: list[str]
    ) -> "_Asked":
        """The next request. Raises the client's error for a target that is not followed."""
        here = str(answer.url)
        try:
            target = urljoin(here, target)
            if urlsplit(target).scheme not in ("http", "https") or not host_of(target):
                raise ValueError("no http")
            stays = same_origin(here, target)
        except ValueError:
            raise self._error(
                f"{shown}: the server redirects to what is no http(s) URL ({redact(target)[:100]}); {self._advice}"
            ) from None
        if len(seen) > MAX_REDIRECTS:
            circle = "in a circle" if target in seen else "on and on"
            last = redact(target)[:200]
            raise self._error(
                f"{shown}: the server redirects {circle} ({MAX_REDIRECTS} times, at last to {last}); {self._advice}"
            )
        headers, secrets = asked.headers, asked.secrets | secrets_of(here, answer.request.headers)
        if not stays:
            if secrets and is_downgrade(here, target):
                raise self._error(
                    f"{shown}: the server redirects from https to {origin(target)}, which is not encrypted; "
                    f"{self._advice}"
                )
            headers, target = kept_headers(headers), without_secrets_of(target, secrets)
            if carries(target, secrets):
                raise self._error(
                    f"{shown}: the server redirects to {origin(target)} and would hand it the token; if you trust it, "
                    "give the URL of the server that answers"
                )
        method, data = ("GET", None) if answer.status_code == 303 else (asked.method, asked.data)
        return _Asked(method, target, headers, None, data, secrets, asked.abroad or not stays)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = BoundedSession()
            with self._lock:
                self._sessions.append(session)
        return session


class _Cap(NamedTuple):
    most: int  # bytes
    key: str  # of the recipe


@dataclass(frozen=True, repr=False)
class _Asked:
    """One request."""

    method: str
    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str] | None = None
    data: bytes | None = None
    secrets: frozenset[str] = frozenset()  # of it and of those that redirected to it
    abroad: bool = False  # at another origin than the first one's


def _reason(answer: requests.Response) -> str:
    """What the server says beside the status, fit for a message."""
    return redact(" ".join((answer.reason or "").split()))[:100]


def _no_login(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps out what the user's .netrc has."""
    return request
