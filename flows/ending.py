"""How a command ends when it is told to stop, and when something happens that nobody foresaw."""

import errno
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

from tasks.errors import DiskError, TilewrightError, UnforeseenError, shortened
from tasks.secrets import redact

GRACE_SECONDS = 10.0  # from the first signal on: a run that has not ended in order by then ends at once
_PREFECT_LOGGERS = ("prefect.engine", "prefect.flow_runs", "prefect.task_runs")
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_MAX_TRACEBACK = 1 << 20  # characters of a traceback that is kept
_MAX_TOLD = 300  # characters of an unforeseen error's own words


class Signals:
    """Ctrl-C and SIGTERM become a KeyboardInterrupt in the main thread, wherever Prefect puts its own handler.

    A run may be killed anywhere and continued, so nobody waits long for threads that hang on a server: after
    GRACE_SECONDS, or at a second signal, the process ends at once. To be entered in the main thread.
    """

    def __init__(self, advice: str) -> None:
        """``advice``: what a person is told to do next."""
        self._advice = advice
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        # Whoever handles a signal: Python writes its number here first.
        self._fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, or in the background of a script
                self._before[number] = signal.signal(number, _interrupt)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd)
        self._write.close()  # which ends the watch

    def leave(self) -> NoReturn:
        """Say what came and what to do next, and end the process now, whatever its threads do.

        The exit code is 128 and the signal's number, as shells have it.
        """
        number = self._number or signal.SIGINT
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            os.write(2, f"error: stopped by {signal.Signals(number).name}; {self._advice}\n".encode())
        os._exit(128 + number)

    def _watch(self) -> None:
        with self._read:
            while numbers := self._read.recv(64):
                for number in numbers:
                    if number not in self._before:
                        continue
                    if self._number is not None:
                        self.leave()
                    self._number = number
                    timer = threading.Timer(GRACE_SECONDS, self.leave)
                    timer.daemon = True
                    timer.start()


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def foreseen() -> Iterator[None]:
    """Let nothing but our own errors out: any other is kept as a file and told in one line (UnforeseenError).

    Around what Prefect runs, whose loggers would print a traceback of every error.
    """
    for name in _PREFECT_LOGGERS:
        logging.getLogger(name).addFilter(_without_traceback)
    try:
        yield
    except TilewrightError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is
        raise told(error) from None


def _without_traceback(record: logging.LogRecord) -> bool:
    """A filter that leaves our own errors their message alone."""
    if record.exc_info and isinstance(record.exc_info[1], TilewrightError):
        record.exc_info = record.exc_text = None
    return True


def told(error: Exception) -> TilewrightError:
    """What a person is told of an error that nobody foresaw; its traceback is in a file then."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"{error.filename or 'the disk'}: the disk is full; free space and run the same command again")
    # Redacted before it is cut: what is left of a token that was cut would not be known for one.
    said = shortened(redact(" ".join(f"{type(error).__name__}: {error}".split())), _MAX_TOLD).rstrip(": ")
    kept = _keep(error)
    where = f"the full traceback is in {kept}" if kept else "the traceback could not be written anywhere"
    return UnforeseenError(f"something unforeseen: {said}; {where}; run the same command again, or report it with that")


def _keep(error: Exception) -> Path | None:
    """The file that a traceback was written to, without secrets: in the user's state folder, or a temporary one."""
    text = redact("".join(traceback.format_exception(error)))[-_MAX_TRACEBACK:]
    head = f"{datetime.now(UTC).isoformat(timespec='seconds')} {redact(' '.join(sys.argv))}\n"
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
    for folder in (state / "tilewright" / "errors", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            path.write_text(head + text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return path
    return None
