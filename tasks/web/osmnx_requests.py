"""Requests as osmnx writes them. It sends none: :class:`tasks.web.client.Client` does, with its bounds.

osmnx hands its ``requests_kwargs`` to requests, which calls the ``auth`` among them with the request that is about to
be sent. That call takes the request past osmnx.
"""

import socket
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import requests

_HEADERS = ("User-Agent", "Referer", "Accept-Language", "Content-Type")  # how a body is encoded is the client's matter
_LOCK = threading.Lock()  # osmnx's settings are the process's


class _WrittenError(Exception):
    """Takes a request past osmnx, whose work is done."""


def written_request(ask: Callable[[], object], **settings: Any) -> requests.PreparedRequest:
    """The request that osmnx would send while ``ask`` runs under these ``settings`` of its own.

    Everything is put back after: the settings, and the name look-up that osmnx patches. Raises what ``ask`` raises
    before it asks.
    """
    import osmnx

    # No cache: it is a folder of the current directory. No name look-up behind the user's back.
    settings = {"requests_kwargs": {"auth": _take}, "use_cache": False, "doh_url_template": None, **settings}
    with _LOCK:
        before, look_up = dict(vars(osmnx.settings)), socket.getaddrinfo
        vars(osmnx.settings).update(settings)
        try:
            ask()
        except _WrittenError as written:
            request: requests.PreparedRequest = written.args[0]
            return request
        finally:
            vars(osmnx.settings).update(before)
            socket.getaddrinfo = look_up
    raise AssertionError("osmnx does not go on without an answer")


def own_headers(request: requests.PreparedRequest) -> dict[str, str]:
    """The headers by which osmnx introduces itself, and says what a body is."""
    return {name: str(request.headers[name]) for name in _HEADERS if name in request.headers}


def _take(request: requests.PreparedRequest) -> NoReturn:
    raise _WrittenError(request)
