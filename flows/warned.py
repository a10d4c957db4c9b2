"""Where the program's warnings go: to the terminal, and to the log of a flow run.

Whatever room has something to say while it works (a server that makes it wait, labels that look wrong) says it to the
logger ``tilewright``.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

_LOG = logging.getLogger("tilewright")


class _To(logging.Handler):
    """Hands on each record's message."""

    def __init__(self, say: Callable[[int, str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.levelno, record.getMessage())


def show_warnings(console: Console) -> None:
    """Print them as lines on ``console``, for the rest of the process, and nowhere else."""

    def say(level: int, message: str) -> None:
        name = logging.getLevelName(level).lower()
        console.print(Text.assemble((f"{name}:", "yellow"), " ", message), soft_wrap=True)

    _LOG.handlers = [_To(say)]
    _LOG.propagate = False


@contextmanager
def warnings_in(log: "logging.Logger | logging.LoggerAdapter[Any]") -> Iterator[None]:
    """Send them to the log of a flow run as well, whatever thread they come from."""
    handler = _To(lambda level, message: log.log(level, "%s", message))
    _LOG.addHandler(handler)
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
