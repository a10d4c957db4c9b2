"""Processes that are forked from one that has everything imported, for tests that start many.

Most of what a command of ours takes is its imports. A child that is forked after them is a process of its own all the
same: it has its own memory, environment, folder, output and exit code, can be killed, and ends as any Python process.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

REPOSITORY = Path(__file__).parents[2]
# Icechunk 2 starts threads when it is imported, which a child lacks, so that every call of its own hangs there: before
# a fork nothing may import it, and what others need longest for is imported alone.
ICECHUNK_FORKS = int(version("icechunk").split(".")[0]) < 2
PRELOADED = (
    ("flows.cli", "flows.build", "tasks.views.export", "tests.support.builds")
    if ICECHUNK_FORKS
    else ("flows.cli", "prefect.flow_engine", "geopandas", "rasterio", "osmnx", "odc.stac", "zarr")
)


class Forks:
    """The process that is forked: started at the first use, and its children killed at the end."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.communicate()  # it ends where its input does
            self._server = None

    def load(self, *modules: str) -> None:
        """Have the children find these modules imported as well, where they may be."""
        if ICECHUNK_FORKS:
            self._ask("load", modules=modules)

    def start(
        self,
        call: str,
        *words: str,
        environment: Mapping[str, str] | None = None,
        stdout: Path | str = os.devnull,
        stderr: Path | str = os.devnull,
    ) -> "Fork":
        """Start a process that calls ``call`` (``module:function``) in the checkout, with ``words`` as ``sys.argv``.

        environment: this process's own by default.
        """
        answer = self._ask(
            "start",
            call=call,
            words=words,
            environment=dict(os.environ if environment is None else environment),
            stdout=str(stdout),
            stderr=str(stderr),
        )
        return Fork(int(answer["pid"]), self)

    def ended(self, pid: int, wait: bool) -> int | None:
        """The exit code of a child, minus the signal's number when one ended it; None while it runs."""
        answer: int | None = self._ask("ended", pid=pid, wait=wait)["code"]
        return answer

    def _ask(self, question: str, **what: Any) -> dict[str, Any]:
        if self._server is None:
            # Prefect's logger takes its level when it is imported: the one that the command line sets before.
            environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
            command = [sys.executable, "-m", __name__, *PRELOADED]
            self._server = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({"question": question, **what}) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
        except BaseException:  # a test that ran out of time: the next one must not get its answer
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.communicate()
            self._server = None
            raise
        return answer


@dataclass(frozen=True)
class Fork:
    """A process that was started."""

    pid: int
    forks: Forks

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.forks.ended(self.pid, wait=False)

    def wait(self) -> int:
        """Its exit code once it has ended."""
        code = self.forks.ended(self.pid, wait=True)
        assert code is not None
        return code

    def kill(self) -> None:
        """``kill -9``; it is to be waited for afterwards."""
        os.kill(self.pid, signal.SIGKILL)  # until it is waited for, no other process has this number


def serve() -> dict[str, Any] | None:
    """Answer questions to the end of the input: None then, and in a child what it is to do."""
    running: dict[int, int | None] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if asked["question"] == "load":
            for module in asked["modules"]:
                importlib.import_module(module)
        elif asked["question"] == "start":
            assert threading.active_count() == 1, "a thread would not be there in the child"
            gc.freeze()  # children would look through all that is imported when they end
            pid = os.fork()
            if pid == 0:
                return dict(asked)
            running[pid] = None
            answer["pid"] = pid
        else:
            pid = asked["pid"]
            if running[pid] is None:
                found, status = os.waitpid(pid, 0 if asked["wait"] else os.WNOHANG)
                running[pid] = os.waitstatus_to_exitcode(status) if found else None
            answer["code"] = running[pid]
        print(json.dumps(answer), flush=True)  # noqa: T201
    for pid in (pid for pid, code in running.items() if code is None):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return None


def become(asked: dict[str, Any]) -> None:
    """Turn this child into the process that was asked for, and do what it is to do."""
    for number, path in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(asked["environment"])
    import prefect.context
    from prefect.logging.configuration import setup_logging

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    prefect.context.refresh_global_settings_context()
    setup_logging()
    module, _, function = asked["call"].partition(":")
    sys.argv = [module, *asked["words"]]
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    for preloaded in sys.argv[1:]:
        importlib.import_module(preloaded)
    do = serve()
    if do is not None:
        become(do)
