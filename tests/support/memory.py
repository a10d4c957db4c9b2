"""How much memory this process took at most."""

import re
from contextlib import suppress
from pathlib import Path

_KB_IN_MIB = 1 << 10
_OWN = Path("/proc/self")  # of Linux; elsewhere nothing is measured


class Peak:
    """The growth of this process's memory since this was made, at its highest."""

    def __init__(self) -> None:
        with suppress(OSError):  # where it may not be forgotten, growth up to the highest so far is not seen
            (_OWN / "clear_refs").write_text("5")
        self._before = _highest()

    def mib(self) -> int:
        """In MiB; 0 where nobody tells."""
        return (_highest() - self._before) // _KB_IN_MIB


def _highest() -> int:
    """In kB."""
    with suppress(FileNotFoundError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", (_OWN / "status").read_text(), re.MULTILINE):
            return int(found[1])
    return 0
