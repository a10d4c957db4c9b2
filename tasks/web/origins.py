"""What may go along when a server sends a request on to another one: nothing that is secret."""

import re
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from tasks.secrets import is_secret_header, redact

_KEPT_HEADERS = ("accept", "accept-encoding", "content-type", "range", "user-agent")
_PORTS = {"http": 80, "https": 443}
_LONG = 6  # characters of a secret that count wherever they stand; a shorter one counts as a whole value only


def origin(url: str) -> str:
    """Scheme, host and port of ``url``: what a message may always show."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def same_origin(url: str, target: str) -> bool:
    """Whether two URLs lead to the same server; also from http to https of the same host, at their usual ports."""
    (scheme, host, port), other = _origin(url), _origin(target)
    return other == (scheme, host, port) or ((scheme, port) == ("http", 80) and other == ("https", host, 443))


def is_downgrade(url: str, target: str) -> bool:
    """Whether ``target`` gives up the encryption that ``url`` has."""
    return (urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower()) == ("https", "http")


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those headers that are about the file that is wanted, and fit for any server."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() in _KEPT_HEADERS or name.lower().startswith("if-")
    }


def secrets_of(url: str, headers: Mapping[str, str]) -> frozenset[str]:
    """What a request holds that no other server may learn: parts of its URL and values of headers that
    :mod:`tasks.secrets` knows as such."""
    parts = urlsplit(url)
    found = {value for name, value in parse_qsl(parts.query) if _hidden(f"?{name}={value}")}
    found |= {unquote(part) for part in parts.path.split("/") if _hidden(part)}
    found |= {unquote(part) for part in (parts.username, parts.password) if part}
    for name, value in headers.items():
        if is_secret_header(name) or _hidden(value):
            found |= {value, *value.split()[-1:]}
    return frozenset(filter(None, found))


def without_secrets_of(target: str, secrets: Collection[str]) -> str:
    """``target`` without the values of its query that are one of ``secrets``."""
    parts = urlsplit(target)
    query = parse_qsl(parts.query, keep_blank_values=True)
    kept = [(name, value) for name, value in query if not _holds(value, secrets)]
    return target if len(kept) == len(query) else parts._replace(query=urlencode(kept)).geturl()


def carries(target: str, secrets: Collection[str]) -> bool:
    """Whether one of ``secrets`` stands in ``target``."""
    return any(_holds(unquote(part), secrets) for part in re.split(r"[/?&#=]", target)) or _holds(
        unquote(target), [secret for secret in secrets if len(secret) >= _LONG]
    )


def _hidden(text: str) -> bool:
    return redact(text) != text


def _holds(text: str, secrets: Collection[str]) -> bool:
    return any(text == secret or (len(secret) >= _LONG and secret in text) for secret in secrets)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(scheme, 0)
