"""How much memory this process took at most."""

import re
from pathlib import Path

_MIB = 1 << 10  # kB


class Peak:
    """The growth of this process's memory since this was made, at its highest. Linux alone."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
        self._before = _highest()

    def mib(self) -> int:
        """In MiB."""
        return (_highest() - self._before) // _MIB


def _highest() -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])
