"""One case, run and judged: what must hold whatever the input is."""

import os
import shutil
import signal
import socket
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import MAX_MESSAGE, TilewrightError
from tests.fuzz.case import Case, Kind
from tests.fuzz.server import Here
from tests.support.memory import Peak

CPU_SECONDS = 5.0  # of a case; a machine that others use as well makes no failure
WALL_SECONDS = 30.0
MESSAGE_LINES = 25
SECRET = "what-no-message-may-show"
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Of an event the argument that is the place, and the descriptor of the folder that it is relative to.
_CHANGES = {"os.remove": (0, 1), "os.rename": (0, 2), "os.rmdir": (0, 1), "os.mkdir": (0, 2), "os.symlink": (1, 2)}


class OverTimeError(BaseException):
    """No ``except Exception`` may take it for a fault of the input."""


class Watch:
    """What this process does to the world outside a case's folder, by Python's own audit events."""

    def __init__(self, root: Path, here: Here) -> None:
        self.seen: list[str] = []
        self._root, self._on = str(root), False
        self._port = int(here.url.rpartition(":")[2])
        sys.addaudithook(self._hear)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Take note of what is done meanwhile."""
        self.seen.clear()
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open" and isinstance(args[2], int) and args[2] & _WRITES:
            self._place(event, args[0])
        elif event in _CHANGES and args[_CHANGES[event][1]] == -1:
            self._place(event, args[_CHANGES[event][0]])
        elif event == "socket.getaddrinfo" and not str(args[0]).startswith("127."):
            raise socket.gaierror(socket.EAI_NONAME, "names lead nowhere here")
        elif event == "socket.connect" and args[1] != ("127.0.0.1", self._port):
            self.seen.append(f"connects to {args[1]}")
        elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
            self.seen.append(f"runs {str(args[0])[:80]}")

    def _place(self, event: str, path: Any) -> None:
        if isinstance(path, int) or os.fsdecode(path) == os.devnull:
            return
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - resolve() would call back here
        if not full.startswith((self._root, "/dev/shm")):
            self.seen.append(f"{event} {full}")


def lay(folder: Path, case: Case, here: Here) -> None:
    """A fresh folder with the files of a case."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(here.filled(data))


def judged(kind: Kind, case: Case, folder: Path, here: Here, watch: Watch) -> tuple[str, str]:
    """What is wrong with what the program made of a case, "" where nothing is; and what it said.

    A crash of the process, and what never returns to Python, is for the parent to see.
    """
    lay(folder, case, here)
    peak, asked, told = Peak(), here.asked, ""
    with warnings.catch_warnings(record=True) as noisy:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of odc-geo, as in pyproject.toml
        try:
            with watch.on(), _timed():
                kind.door(folder, case, here)
        except TilewrightError as error:
            told = str(error)
            wrong = _message(kind, told)
        except kind.also as error:
            told = str(error)
            wrong = "" if len(told) < 200 and told.isprintable() else "a long reason"
        except OverTimeError as error:
            wrong = f"took over {error}\n{traceback.format_exc()}"
        except Exception as error:  # noqa: BLE001 - that there is none is what is tested
            wrong = f"{type(error).__name__} instead of a TilewrightError\n{traceback.format_exc()[-3000:]}"
        else:
            wrong = ""
    if wrong:
        return wrong, told
    if (grown := peak.mib()) > kind.grows:
        return f"took {grown} MiB of memory, over {kind.grows}", told
    if here.asked > asked:
        return "asked the server that nobody named", told
    if watch.seen:
        return f"left its folder: {'; '.join(watch.seen[:3])}", told
    if noisy:
        one = noisy[0]
        return f"warned: {one.category.__name__} {str(one.message)[:200]} at {one.filename}:{one.lineno}", told
    return "", told


def _message(kind: Kind, told: str) -> str:
    """What is wrong with a message."""
    if not any(name in told for name in kind.names):
        return f"the message names none of {', '.join(kind.names)}"
    if len(told) > MAX_MESSAGE:
        return f"the message has {len(told):,} characters"
    if told.count("\n") >= MESSAGE_LINES:
        return f"the message has {told.count(chr(10)) + 1} lines"
    if "Traceback" in told or 'File "' in told:
        return "the message holds a traceback"
    if SECRET in told:
        return "the message tells what another file holds"
    if any(unicodedata.category(one) in ("Cc", "Cs") for one in told.replace("\n", "")):
        return "the message has control characters"
    return ""


@contextmanager
def _timed() -> Iterator[None]:
    def over(number: int, _: Any) -> None:
        raise OverTimeError(f"{CPU_SECONDS} s of a processor" if number == signal.SIGPROF else f"{WALL_SECONDS} s")

    signal.signal(signal.SIGPROF, over)
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
