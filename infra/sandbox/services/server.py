"""Running the sandbox: in the foreground for the command line, in a thread for tests."""

import asyncio
import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from aiohttp import web

from infra.sandbox.files.originals import how_to_serve
from infra.sandbox.services.app import PBF_NAME, Logged, Sandbox, Settings
from infra.sandbox.services.background import GRACE_SECONDS, BackgroundServer
from infra.sandbox.services.mapbox import SANDBOX_TOKEN
from infra.sandbox.services.mlhub import API_PATH, PROXY_PATH, SANDBOX_KEY
from infra.sandbox.services.stac_api import STAC_PATH
from tasks.errors import SandboxError


def serve(
    host: str = "127.0.0.1", port: int = 8787, *, seed: int = 0, faults: str | None = None, latency: float = 0.0
) -> None:
    """Serve the synthetic region until SIGINT or SIGTERM. ``latency`` is in seconds, for tiles.

    Raises SandboxError when the port is taken or cannot be opened, and for an unknown fault mix.
    """
    asyncio.run(_serve(host, port, Settings(seed, faults, latency)))


async def _serve(host: str, port: int, settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(
        (await asyncio.to_thread(Sandbox, settings)).application(), access_log=None, shutdown_timeout=GRACE_SECONDS
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
            raise SandboxError(
                f"port {port} of {host} {reason}; stop what listens there, or give the sandbox another port with --port"
            ) from error
        typer.echo(_welcome(f"http://{host}:{runner.addresses[0][1]}", settings))
        await stop.wait()
    finally:
        await runner.cleanup()


def _runner(sandbox: Sandbox) -> web.AppRunner:
    return web.AppRunner(sandbox.application(), access_log=None, shutdown_timeout=GRACE_SECONDS)


def _welcome(url: str, settings: Settings) -> str:
    trouble = f", fault mix {settings.faults!r}" if settings.faults else ""
    commands = "\n".join(f"  {command}" for command in how_to_serve(url))
    return f"""Tilewright sandbox: a synthetic region (seed {settings.seed}{trouble}) at {url}
  tiles     {url}/v4/synthetic.satellite/{{z}}/{{x}}/{{y}}.jpg
  overpass  {url}/api
  extract   {url}/{PBF_NAME}
  stac      {url}{STAC_PATH}
  mlhub     {url}{API_PATH} and, as Source Cooperative, {url}{PROXY_PATH}
To use it as Mapbox:
  export MAPBOX_API_URL={url}
  export MAPBOX_ACCESS_TOKEN={SANDBOX_TOKEN}
To build the datasets of chips and scenes from it (for --files see tilewright sandbox --help):
  export MLHUB_API_KEY={SANDBOX_KEY}
{commands}
Ctrl-C stops it."""


@dataclass(frozen=True)
class Running:
    """A sandbox that serves: ``url`` without a slash at its end; the Overpass base is ``url`` + ``/api``."""

    url: str
    sandbox: Sandbox

    @property
    def requests(self) -> list[Logged]:
        """The requests answered since the start or the last reset."""
        return list(self.sandbox.log.requests)

    def stats(self) -> dict[str, Any]:
        """Counts by endpoint and status, as ``/_stats`` gives them."""
        return self.sandbox.log.stats()


@contextmanager
def running(settings: Settings | None = None) -> Iterator[Running]:
    """The sandbox in a background thread on a free loopback port, while the context is open."""
    sandbox = Sandbox(settings or Settings())
    with BackgroundServer(lambda: _runner(sandbox)) as server:
        yield Running(server.url, sandbox)
