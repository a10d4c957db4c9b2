"""How far the words of a server may send us: to public addresses, and to the private ones that the user named.

A link, a redirect or an asset of a remote catalogue is written by whoever runs that server. Followed blindly it would
make this machine ask its own network: a cloud's metadata service, a router, a database. The hosts of URLs that
the recipe's author wrote may lie anywhere; every other one must lead to public addresses only.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel

from tasks.errors import SourceError
from tasks.secrets import redact

MAX_ADDRESSES = 8  # of one name that are looked at and tried
_URL = re.compile(r"https?://[^\s\"'<>]+", re.IGNORECASE)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Reach:
    """The hosts (names or addresses, any port) that may be private, because the user wrote them down."""

    named: frozenset[str] = frozenset()  # in URLs of the recipe and of the environment
    allowed: frozenset[str] = frozenset()  # in limits.private_hosts
    anywhere: bool = False  # nothing is refused

    @classmethod
    def of(cls, recipe: BaseModel, urls: Iterable[str] = ()) -> Self:
        """The reach of a recipe: hosts of all URLs in it and of ``urls`` (presets, the environment's)."""
        texts = [*_texts(recipe.model_dump()), *urls]
        hosts = (host_of(url) for text in texts for url in _URL.findall(text))
        limits = getattr(recipe, "limits", None)
        private = getattr(limits, "private_hosts", ())
        return cls(frozenset(filter(None, hosts)), frozenset(_plain(host) for host in private))

    def naming(self, *urls: str) -> Self:
        """This reach, and the hosts of ``urls`` as if the recipe named them."""
        return replace(self, named=self.named | frozenset(filter(None, map(host_of, urls))))

    def trusts(self, host: str) -> bool:
        """Whether ``host`` may lie in a private network."""
        return self.anywhere or _plain(host) in self.named or _plain(host) in self.allowed

    def check(self, url: str) -> None:
        """See that ``url`` leads to where it may, all addresses of its host considered.

        A name that cannot be resolved passes: asking it will fail. Raises SourceError.
        """
        if (host := host_of(url)) and not self.trusts(host):
            try:
                self.addresses(host, 0, url)
            except OSError:
                return

    def check_address(self, url: str) -> None:
        """As :meth:`check` for a URL whose host is an address; names are looked at when they are looked up."""
        host = host_of(url)
        with suppress(ValueError):  # a name
            ipaddress.ip_address(host.partition("%")[0])
            self.admit(host, host, url)

    def addresses(self, host: str, port: int, url: str = "") -> list[str]:
        """The IP addresses of ``host``, all of which may be asked. Raises OSError without any, SourceError.

        ``url``: named in messages; default: host and port. Connecting to these, and not to the name again, leaves no
        moment in which the name could come to mean another address.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self.trusts(host):
            for address in addresses:
                self.admit(host, address, url or f"http://{host}:{port}")
        return addresses[:MAX_ADDRESSES]

    def admit(self, host: str, address: str, url: str) -> None:
        """See that ``host`` may have ``address``. Raises SourceError, which names ``url``."""
        if self.trusts(host) or _plain(address) in self.allowed or not is_private(address):
            return
        raise SourceError(
            f"{redact(url)}: leads to a private address ({address}), which the recipe does not name; if it is meant, "
            f"add {host} to limits.private_hosts"
        )


ANYWHERE = Reach(anywhere=True)


def host_of(url: str) -> str:
    """The host of ``url`` in lower case, without brackets and final dot; empty when there is none."""
    try:
        return _plain(urlsplit(url).hostname or "")
    except ValueError:
        return ""


def is_private(address: str) -> bool:
    """Whether an IP address is no public one: private, loopback, link-local, shared, reserved, multicast, unspecified.

    An IPv6 address that stands for an IPv4 one (mapped, NAT64, 6to4, Teredo) is as private as that.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        inner += [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)] if ip in _NAT64 else []
        if embedded := [one for one in inner if one is not None]:
            return any(not one.is_global or one.is_multicast for one in embedded)
    return not ip.is_global or ip.is_multicast


def _plain(host: str) -> str:
    return host.strip().strip("[]").rstrip(".").lower()


def _texts(value: Any) -> Iterator[str]:
    """All strings in mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
