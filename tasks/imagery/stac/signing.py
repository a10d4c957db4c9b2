"""Tokens for assets in the Planetary Computer's Azure storage: asked for late, one for each container, kept in memory.

Nothing here writes or logs a token, and a signed URL lives only as long as the read that it is for.
"""

import os
import re
import threading
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tasks.errors import CredentialError, SourceError
from tasks.secrets import find_secret, redact, remember_url
from tasks.web.client import USUAL, Bounds, Client
from tasks.web.retry import TRANSIENT_STATUS, RetryPolicy, TransientError, asked_pause

DEFAULT_SAS_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
BLOB_HOSTS = (".blob.core.windows.net",)  # hosts whose URLs are signed, by their ends
_OPEN_ACCOUNTS = ("ai4edatasetspublicassets",)  # thumbnails; the token service knows nothing of it
_QUERY = re.compile(r"[!-\"$-~]{1,4096}")  # printable, and without #
_PART = re.compile(r"[A-Za-z0-9$_-]{1,63}")  # an account or container: of the token service's URL
_MARGIN = 120.0  # seconds of life that a token must have left to be used


class _Token(NamedTuple):
    query: str
    until: float  # Unix seconds


class Signer:
    """Signs URLs; safe for threads.

    ``PC_SDK_SAS_URL`` overrides where tokens come from and ``PC_SDK_SUBSCRIPTION_KEY`` is sent along when it is set,
    as in Microsoft's own package.
    """

    def __init__(self, policy: RetryPolicy, timeout: float, limits: Bounds = USUAL) -> None:
        """``timeout``: seconds for one request."""
        self._client = Client(policy, timeout, advice="check PC_SDK_SAS_URL", limits=limits)
        self._tokens: dict[str, _Token] = {}
        self._lock = threading.Lock()

    @property
    def requests(self) -> int:
        """Sent to the token service so far."""
        return self._client.requests

    def close(self) -> None:
        """Let the connections to the token service go."""
        self._client.close()

    def signed(self, url: str) -> tuple[str, str]:
        """``url`` with the token of its container, and the token; the URL as it is, and ``""``, where none is needed.

        Raises CredentialError when the service refuses, SourceError when it does not answer.
        """
        if (container := _container(url)) is None:
            return url, ""
        with self._lock:  # one request for all threads that wait for the same container
            token = self._tokens.get(container)
            if token is None or token.until - time.time() < _MARGIN:
                token = self._tokens[container] = self._ask(container)
        return f"{url}{'&' if urlsplit(url).query else '?'}{token.query}", token.query

    def refused(self, url: str, query: str) -> None:
        """A read with the token ``query`` was refused: the next one takes a new token."""
        container = _container(url) or ""
        with self._lock:
            if container in self._tokens and self._tokens[container].query == query:  # else another thread was faster
                del self._tokens[container]

    def _ask(self, container: str) -> _Token:
        base, key = token_service(), find_secret("PC_SDK_SUBSCRIPTION_KEY")
        headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
        url = f"{base.rstrip('/')}/{container}"
        shown = redact(url)

        def once() -> _Token:
            # A redirect would take the key along.
            answer = self._client.get(url, headers=headers, transient=())
            if answer.status in TRANSIENT_STATUS:
                message = f"{shown}: the token service answered {answer.status}"
                raise TransientError(message, asked_pause(answer.headers))
            if answer.status in (401, 403):
                raise CredentialError(
                    f"{shown}: the token service refused ({answer.status}); check PC_SDK_SUBSCRIPTION_KEY, or unset it"
                )
            if answer.status != 200:
                raise SourceError(f"{shown}: the token service answered {answer.status}; check PC_SDK_SAS_URL")
            try:
                return _token(answer.json())
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
                raise SourceError(f"{shown}: expected JSON with token and msft:expiry; check PC_SDK_SAS_URL") from None

        try:
            token = self._client.persist(once)
        except TransientError as error:
            raise SourceError(f"{error}; gave up after {error.tried}, start again later to go on") from None
        if token.until - time.time() < _MARGIN:
            # Tokens that are expired when they come have been seen: use it once rather than ask for ever.
            token = token._replace(until=time.time() + _MARGIN + 1)
        remember_url(f"?{token.query}")
        return token


def token_service() -> str:
    """The URL of the token service."""
    return os.environ.get("PC_SDK_SAS_URL") or DEFAULT_SAS_URL


def _token(body: Any) -> _Token:
    """What the service gave. Raises ValueError, KeyError, TypeError, AttributeError, OverflowError."""
    query, until = body["token"].lstrip("?"), datetime.fromisoformat(body["msft:expiry"])
    if not _QUERY.fullmatch(query):
        raise ValueError("is no part of a URL")
    return _Token(query, (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp())


def _container(url: str) -> str | None:
    """``account/container`` of a URL that needs a token."""
    parts = urlsplit(url)
    host, path = parts.hostname or "", parts.path.strip("/").split("/")
    account = host.partition(".")[0]
    if not host.endswith(BLOB_HOSTS) or account in _OPEN_ACCOUNTS or len(path) < 2:
        return None
    if "sig=" in parts.query or not (_PART.fullmatch(account) and _PART.fullmatch(path[0])):
        return None
    return f"{account}/{path[0]}"
