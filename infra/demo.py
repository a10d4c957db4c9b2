"""``make demo``: sandbox, Prefect, a build and a training run on this machine, then nothing left running.

Everything it starts listens on 127.0.0.1 and writes under ``demo/`` (logs, Prefect's and MLflow's databases) and
``stores/`` (the dataset). The imagery, labels and token are synthetic.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import processes
from infra.sandbox.services.mapbox import SANDBOX_TOKEN
from tasks.errors import SandboxError, TilewrightError
from tasks.versions import read as store

ROOT = Path(__file__).resolve().parent.parent
STORE = "stores/osm-sandbox"
POOL = "tilewright"
SANDBOX_PORT = 8787  # the recipe's imagery and label addresses name it
PREFECT_PORTS = (4200, 4219)
START_SECONDS = 120.0


@dataclass
class Demo:
    """One run of the demonstration in the checkout ``root``: its console, environment and background processes."""

    root: Path
    console: Console
    port: int
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where logs and databases go."""
        return self.root / "demo"

    @property
    def page(self) -> str:
        """Address of Prefect's page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tracking(self) -> str:
        """MLflow's database, relative to the checkout."""
        return "sqlite:///demo/mlflow.db"

    def environment(self) -> dict[str, str]:
        """The caller's environment without its settings of these programs, and ours."""
        ours = ("PREFECT_", "MLFLOW_", "MAPBOX_", "TILEWRIGHT_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return inherited | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "DO_NOT_TRACK": "1",
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.page}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "MLFLOW_TRACKING_URI": self.tracking,
            "MAPBOX_API_URL": f"http://127.0.0.1:{SANDBOX_PORT}",
            "MAPBOX_ACCESS_TOKEN": SANDBOX_TOKEN,
        }

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show ``title`` while the step runs and one line with its time when it is done."""
        began = time.monotonic()
        with self.console.status(title):
            try:
                yield
            except BaseException:
                self.console.print(f"[red]✗[/] {title}  [dim]{time.monotonic() - began:.1f} s[/]")
                raise
        self.console.print(f"[green]✓[/] {title}  [dim]{time.monotonic() - began:.1f} s[/]")

    @contextmanager
    def background(self, name: str, *command: str) -> Iterator[None]:
        """Keep ``command`` running inside the block, and end it with all its children in every case."""
        self.running[name] = processes.start(command, self.root, self.environment(), self.log(name))
        try:
            yield
        finally:
            processes.stop(self.running.pop(name))

    def run(self, name: str, *command: str) -> None:
        """Run ``command`` to its end. Raises TilewrightError with the logs' last lines when it does not succeed."""
        process = processes.start(command, self.root, self.environment(), self.log(name))
        try:
            self.wait(lambda: process.poll() is not None, seconds=None)
        finally:
            processes.stop(process)
        if process.returncode != 0:
            # What a flow run says is in the worker's log.
            told = [self.excerpt(log) for log in (name, "worker") if log == name or log in self.running]
            raise TilewrightError("\n".join([f"`{' '.join(command)}` failed ({process.returncode}).", *told]))

    def wait(self, ready: Callable[[], bool], seconds: float | None = START_SECONDS) -> None:
        """Return once ``ready()``. Raises TilewrightError when a background process ends or the time is over."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not ready():
            for name, process in self.running.items():
                if process.poll() is not None:
                    raise TilewrightError(f"The {name} ended by itself. {self.excerpt(name)}")
            if deadline is not None and time.monotonic() > deadline:
                logs = "\n".join(self.excerpt(name) for name in self.running)
                raise TilewrightError(f"Not ready after {seconds:.0f} s.\n{logs}")
            time.sleep(0.2)

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.folder / "logs" / f"{name}.log"

    def excerpt(self, name: str) -> str:
        """Where a process's log is, and how it ends."""
        return f"The end of {self.log(name).relative_to(self.root)}:\n{processes.tail(self.log(name))}"


def check_sandbox_port() -> None:
    """Raise SandboxError when the sandbox's port is taken: the recipe names it, so there is no other."""
    if not processes.is_free(SANDBOX_PORT):
        raise SandboxError(
            f"Port {SANDBOX_PORT} of 127.0.0.1 is taken, and the sandbox's recipe needs it. End the program that holds "
            f"it (`ss -ltnp sport = :{SANDBOX_PORT}` names it), then run this again."
        )


def play(demo: Demo) -> None:
    """Build the sandbox's dataset through Prefect, train on it, and say where everything is."""
    began = time.monotonic()
    with ExitStack() as background:
        with demo.step("Sandbox: a synthetic region on loopback"):
            sandbox = ("tilewright", "sandbox", "--port", str(SANDBOX_PORT))
            background.enter_context(demo.background("sandbox", *sandbox))
            # Prefect's server needs longer; both start at once.
            server = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(demo.port))
            background.enter_context(demo.background("server", *server))
            demo.wait(lambda: processes.answers(f"http://127.0.0.1:{SANDBOX_PORT}/api/status"))
        with demo.step(f"Prefect server at {demo.page}"):
            demo.wait(lambda: processes.answers(f"{demo.page}/api/health"))
        with demo.step(f"Worker of the work pool {POOL}"):
            forget_unfinished_runs(demo)
            # Starting a worker of a given type makes the pool if need be.
            worker = ("prefect", "worker", "start", "--pool", POOL, "--type", "process")
            background.enter_context(demo.background("worker", *worker))
            demo.wait(lambda: processes.answers(f"{demo.page}/api/work_pools/{POOL}"))
        with demo.step("Deployments from prefect.yaml"):
            # Not --all: the nightly build of France would become due while a demo of another day runs.
            names = ("-n", "build-osm-sandbox", "-n", "train-osm-sandbox")
            demo.run("deploy", "prefect", "--no-prompt", "deploy", *names)
        for name in ("build-osm-sandbox", "train-osm-sandbox"):
            with demo.step(f"prefect deployment run {name} --watch"):
                demo.run(name, "prefect", "deployment", "run", name, "--watch")
        with demo.step("Worker, server and sandbox stopped"):
            background.close()
    demo.console.print(results(demo))
    demo.console.print(directions(demo), highlight=False, soft_wrap=True)
    demo.console.print(f"Done in {time.monotonic() - began:.0f} s.", highlight=False)


def forget_unfinished_runs(demo: Demo) -> None:
    """Delete what an interrupted demo left waiting, which the worker would start beside this one's runs."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import TERMINAL_STATES

    ended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))))
    with SyncPrefectClient(f"{demo.page}/api") as client:
        for run in client.read_flow_runs(flow_run_filter=ended):
            client.delete_flow_run(run.id)


def results(demo: Demo) -> Table:
    """The dataset's splits and what the model just registered reaches on its test split."""
    dataset = store.open_version(str(demo.root / STORE))
    table = Table("synthetic dataset and model", "", title_justify="left")
    table.add_row("version", f"{dataset.version} ({dataset.snapshot})")
    for split in ("train", "validation", "test"):
        table.add_row(f"{split} samples", f"{len(dataset.split(split)):,}")
    for name, value in registered_model(demo).items():
        table.add_row(name, value)
    return table


def registered_model(demo: Demo) -> dict[str, str]:
    """Name and version of the newest registered model, and the test metrics of its run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{demo.folder / 'mlflow.db'}")
    newest = max(client.search_model_versions(), key=lambda version: version.creation_timestamp)
    metrics = client.get_run(str(newest.run_id)).data.metrics
    return {"model": f"{newest.name} version {newest.version}"} | {
        name.replace("_", " "): f"{value:.3f}" for name, value in sorted(metrics.items()) if name.startswith("test")
    }


def directions(demo: Demo) -> str:
    """Where everything is, and the commands that show it again; nothing is running any more."""
    home = (demo.folder / "prefect").relative_to(demo.root)
    return f"""
Dataset  {STORE}
         .venv/bin/tilewright versions {STORE}
Pictures {STORE}.work/preview.png (samples), {STORE}.work/predictions.png (test samples)
Prefect  {demo.page} once started again:
         PREFECT_HOME=$PWD/{home} .venv/bin/prefect server start --host 127.0.0.1 --port {demo.port}
MLflow   http://127.0.0.1:5000 once started:
         .venv/bin/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri {demo.tracking}
Logs     {demo.log("worker").parent.relative_to(demo.root)}
"""


def main() -> NoReturn:
    """Run the demonstration; 0 on success, 1 with a message on failure, 130 or 143 when interrupted."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        # Only the first signal interrupts; the way out, which stops what runs, is short.
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, leave)
    console = Console(highlight=False)
    try:
        check_sandbox_port()
        play(Demo(ROOT, console, processes.free_port(*PREFECT_PORTS)))
    except TilewrightError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit:
        console.print("Interrupted; nothing is left running.")
        raise
    sys.exit(0)


if __name__ == "__main__":
    main()
