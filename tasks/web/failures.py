"""What went wrong with a request, in words, from the exceptions of requests, urllib3, http.client and ssl."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import urllib3

from tasks.web.connection import CONNECT_SECONDS, Deadline

TLS_ADVICE = (
    "if the server is yours, name the file of its certificate authority in the environment variable REQUESTS_CA_BUNDLE"
    " (SSL_CERT_FILE for tiles)"
)
# A connection that ended in the midst, which another attempt may not meet.
_PASSING = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError, ssl.SSLWantReadError)


@dataclass(frozen=True)
class Failure:
    """A reason in a few words, without URL or secret."""

    reason: str
    connected: bool = True  # whether there was a connection
    final: bool = False  # no further attempt can do better


def explain(error: BaseException, deadline: Deadline) -> Failure:
    """The most telling of the exceptions that led to ``error``."""
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, ssl.SSLError):
            return Failure(tls_reason(one), connected=False, final=not is_passing(one))
        if isinstance(one, socket.gaierror):
            return Failure(f"no such host, says the name service: {one.strerror}", connected=False)
        if isinstance(one, http.client.RemoteDisconnected):
            return Failure("the server hung up without an answer")
        if isinstance(one, ConnectionRefusedError):
            return Failure("the connection was refused", connected=False)
        if isinstance(one, ConnectionError):
            return Failure("the connection was reset")
        if isinstance(one, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead):
            return Failure("it ended early")
    for one in chain:
        if isinstance(one, urllib3.exceptions.ConnectTimeoutError):
            seconds = min(CONNECT_SECONDS, deadline.seconds)
            return Failure(f"no connection within {seconds:g} s", connected=False)
        if isinstance(one, TimeoutError | urllib3.exceptions.ReadTimeoutError):
            return Failure(late(deadline))
        if isinstance(one, http.client.HTTPException | urllib3.exceptions.InvalidHeader):
            return Failure("the answer is no HTTP")
        if isinstance(one, OSError) and one.strerror:
            new = any(isinstance(other, urllib3.exceptions.NewConnectionError) for other in chain)
            return Failure(one.strerror, connected=not new)
    return Failure(type(error).__name__)


def late(deadline: Deadline) -> str:
    """What the end of a deadline says about the answer."""
    if deadline.rate:
        return f"less than {deadline.rate:,.0f} bytes a second came for {deadline.seconds:g} s"
    return f"not whole within {deadline.seconds:g} s"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that led to it: causes, contexts, and what the libraries put into arguments."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        waiting.extend(each for each in inner if isinstance(each, BaseException))


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may do better."""
    return isinstance(error, _PASSING)


def tls_reason(error: ssl.SSLError) -> str:
    """Why there is no connection, such as ``TLS failed: self-signed certificate``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message or "the certificate is not valid"
        return f"TLS failed: {said.rstrip('.')}"
    return f"TLS failed: {(error.reason or error.strerror or type(error).__name__).replace('_', ' ').lower()}"
