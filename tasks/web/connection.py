"""Connections of requests and urllib3 with an end to every wait, and to no address that may not be asked.

A socket's own timeout starts anew with each byte, so a server that sends one now and then holds a reader for ever. Here
every single wait for bytes, of headers and body alike, ends at the deadline of the request that it is for.
"""

import http.client
import io
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from tasks.web.reach import Reach

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_SECONDS = 15.0  # for one address of a host


class Deadline:
    """When one request must have ended: ``seconds`` from now, or from when its body brought ``rate`` bytes for each.

    With ``rate`` 0 bytes make no difference.
    """

    def __init__(self, seconds: float, rate: float = 0.0) -> None:
        self.seconds, self.rate = seconds, rate
        self._received = 0  # since the last renewal
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left. Raises TimeoutError when there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not within {self.seconds:g} s")
        return left

    @property
    def is_over(self) -> bool:
        """Whether there are none left."""
        return time.monotonic() >= self._until

    def received(self, size: int) -> None:
        """So many bytes of the body have come."""
        self._received += size
        if self.rate and self._received >= self.rate * self.seconds:
            self._received, self._until = 0, time.monotonic() + self.seconds


@dataclass(frozen=True)
class Asking:
    """What a connection must know of the request that it is for."""

    deadline: Deadline
    reach: Reach


class _Current(threading.local):
    """What this thread is asking just now; nothing between requests."""

    asking: Asking


CURRENT = _Current()


class _TimedBytes(io.RawIOBase):
    """The bytes of a socket, each wait for which ends at a deadline."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, deadline: Deadline) -> None:
        super().__init__()
        self._sock, self._raw, self._deadline = sock, raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        self._sock.settimeout(self._deadline.left())
        return self._raw.readinto(buffer)

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose status line, headers and body come before the deadline, or not at all."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw: Any = self.fp.detach()  # a BufferedReader of the socket's
        self.fp = io.BufferedReader(_TimedBytes(sock, raw, CURRENT.asking.deadline))


def _connect(connection: HTTPConnection, host: str) -> socket.socket:
    """A socket to one of the addresses of ``host``, looked at before the first is asked. Raises as urllib3 does."""
    asking = CURRENT.asking
    try:
        # A proxy is the user's own.
        addresses = [host] if connection.proxy else asking.reach.addresses(host, connection.port)
        for last, address in enumerate(addresses, 1 - len(addresses)):
            seconds = min(CONNECT_SECONDS, asking.deadline.left())
            try:
                place = (address, connection.port)
                return create_connection(place, seconds, connection.source_address, connection.socket_options)
            except OSError:
                if not last:
                    raise
        raise OSError("the name has no address")
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, "no connection in time") from error
    except OSError as error:
        raise NewConnectionError(connection, str(error)) from error


class _Http(HTTPConnection):
    response_class = _Answer

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._dns_host)


class _Https(HTTPSConnection):
    response_class = _Answer

    def _new_conn(self) -> socket.socket:
        return _connect(self, self._dns_host)


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _take_over(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(*args, **kwargs)
        if type(manager) is ProxyManager:  # one for SOCKS has connections of its own
            _take_over(manager)
        return manager


def _take_over(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


class BoundedSession(requests.Session):
    """A session for one thread, whose requests are sent while ``CURRENT.asking`` says what bounds them."""

    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - as requests names it
        """None: requests would read the whole body of a redirect, however long, before it looks where it leads."""
        return
