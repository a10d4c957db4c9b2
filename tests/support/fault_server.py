"""A server on loopback that does wrong whatever a server can do wrong: the first part of a path is the fault.

    with FaultServer(folder) as faults:
        get(f"{faults.url}/never/any/path")              # never answers
        get(faults.redirect("http://169.254.169.254/"))  # leads there
        faults.pages["/never/good"] = said(b"{}")        # but this one path below it is answered as it should be
        assert faults.canary.asked == []                 # nobody came where nobody may come

What each fault says is in :mod:`tests.support.fault_answers`. Every answer ends its connection, and no connection
outlives ``LIFE_SECONDS``, so that a client without a bound fails its test and does not hang it. What is sent for ever
is sent from a few kilobytes: the server may live in the process whose memory is measured.
"""

import asyncio
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.fault_answers import ANSWERING, DRIPPING, ENDLESS, RESET, SENT, Asked, said

LIFE_SECONDS = 20.0  # of a connection
DROP_SECONDS = 0.05  # between two drops
FAULTS = (*SENT, *RESET, *ENDLESS, *DRIPPING, *ANSWERING)
CONNECTIONS = ("tls-for-http", "http-for-tls", "tls-self-signed", "tls-silent", "refused")  # what is wrong below HTTP
_READY_SECONDS = 10.0
_BURST = 1 << 16  # bytes sent at once of what has no end
_HEAD = 1 << 20  # bytes of a request's head
_HELLO = b"\x16"  # how TLS begins
# How a connection ends: the client goes, sends what is no request, or the server is closed.
_ENDED = (OSError, EOFError, asyncio.LimitOverrunError, ValueError, asyncio.CancelledError)

Page = bytes | Callable[[Asked], bytes | None]  # a whole answer, or what makes one; None: the fault


class Canary:
    """A server to which nobody may bring a secret, and to some of whose names nobody may come at all."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Of the host that the tests' recipes name, on another port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def unnamed(self) -> tuple[str, ...]:
        """URLs of hosts that no recipe names; those behind which nothing listens are of the world's private nets."""
        hosts = ["127.0.0.2", "localhost", "[::1]", "[::ffff:127.0.0.2]", "0.0.0.0", "2130706434", "0x7f.2", "127.2"]
        listening = [f"http://{host}:{self.port}/private" for host in hosts]
        private = [
            "169.254.169.254",
            "10.255.255.1",
            "192.168.255.1",
            "172.16.0.1",
            "100.64.0.1",
            "[fd00::1]",
            "[fe80::1]",
        ]
        return *listening, *(f"http://{host}/latest/meta-data/" for host in private)

    @property
    def heard(self) -> str:
        """All that it was told, heads and bodies."""
        return "\n".join(asked.raw.decode("latin-1") for asked in self.asked)


class FaultServer:
    """Answers on three ports while the context is open: HTTP, HTTPS with a certificate of its own, and the canary."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is for the certificate."""
        self.asked: list[Asked] = []
        self.pages: dict[str, Page] = {}
        self.canary = Canary()
        self.port = self.tls_port = self.silent_port = 0
        self._folder, self._ready, self._loop = folder, threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    @property
    def url(self) -> str:
        """Of HTTP, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def at(self, fault: str) -> str:
        """The URL of a fault, or of what is asked in the wrong protocol."""
        if fault == "tls-for-http":
            return f"http://127.0.0.1:{self.tls_port}/empty"
        if fault == "http-for-tls":
            return f"https://127.0.0.1:{self.port}/empty"
        if fault == "tls-self-signed":
            return f"https://127.0.0.1:{self.tls_port}/empty"
        if fault == "tls-silent":
            return f"https://127.0.0.1:{self.silent_port}"
        if fault == "refused":
            return "http://127.0.0.1:9"
        assert fault in FAULTS, fault
        return f"{self.url}/{fault}"

    def redirect(self, target: str) -> str:
        """A URL that leads to ``target``, whatever is put behind it."""
        return f"{self.url}/redirect-to/{quote(target, safe='')}"

    def forget(self) -> None:
        """What was asked, and the pages."""
        self.asked.clear()
        self.canary.asked.clear()
        self.pages.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_READY_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        servers = self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        for server in servers:
            server.close()
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _listen(self) -> list[asyncio.Server]:
        plain, tls, silent, canary = (_listening("127.0.0.1", 0) for _ in range(4))
        self.port, self.tls_port, self.silent_port = (one.getsockname()[1] for one in (plain, tls, silent))
        self.canary.port = canary.getsockname()[1]
        others = [_listening(host, self.canary.port) for host in ("127.0.0.2", "::1")]
        play, canary_play = self._serving(self._play), self._serving(self._canary)
        return [
            await asyncio.start_server(play, sock=plain, limit=_HEAD),
            await asyncio.start_server(play, sock=tls, limit=_HEAD, ssl=_self_signed(self._folder)),
            await asyncio.start_server(_silent, sock=silent),
            *[await asyncio.start_server(canary_play, sock=one, limit=_HEAD) for one in (canary, *others)],
        ]

    def _serving(
        self, answer: Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]
    ) -> Callable[..., Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(*_ENDED):
                async with asyncio.timeout(LIFE_SECONDS):
                    if (asked := await _read(reader)) is not None:
                        await answer(asked, writer)
                    else:
                        writer.write(said(b"", "400 Bad Request"))
                    await writer.drain()
            writer.close()

        return serve

    async def _canary(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.canary.asked.append(asked)
        writer.write(said(b"what nobody may have", kind="text/plain"))

    async def _play(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asked)
        page = self.pages.get(asked.path)
        found = page(asked) if callable(page) else page
        name = asked.fault
        if found is None and name in ANSWERING:
            found = ANSWERING[name](asked, self.canary.url)
        if found is None and name in SENT:
            found = SENT[name]
        if found is not None:
            writer.write(found if asked.method != "HEAD" else found.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        elif name in RESET:
            writer.write(RESET[name])
            await writer.drain()
            await asyncio.sleep(DROP_SECONDS)  # so that what was sent is read before the reset takes it away
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif name in ENDLESS:
            start, more = ENDLESS[name]
            writer.write(start)
            burst = more * (_BURST // len(more))
            while True:
                writer.write(burst)
                await writer.drain()
                await asyncio.sleep(0)  # drain gives way to nobody while the client takes all
        elif name in DRIPPING:
            start, drop = DRIPPING[name]
            writer.write(start)
            while True:
                await asyncio.sleep(DROP_SECONDS)
                writer.write(drop)
                await writer.drain()
        else:
            writer.write(said(b"no such fault", "404 Not Found"))


async def _silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a connection, and let it wait."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(LIFE_SECONDS)
    writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    """A request; None for what is no HTTP."""
    first = await reader.readexactly(1)
    if first == _HELLO:
        return None
    raw = first + await reader.readuntil(b"\r\n\r\n")
    start, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, target, _ = start.split(" ", 2)
    return Asked(method, target, headers, body, raw + body)


def _listening(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    return made


def _self_signed(folder: Path) -> ssl.SSLContext:
    """For 127.0.0.1, by nobody whom anybody trusts."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    )
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    path = folder / "self-signed.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signed = made.add_extension(host, critical=True).sign(key, hashes.SHA256())
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
