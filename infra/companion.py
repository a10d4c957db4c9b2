"""``python -m infra.companion PID ARGUMENTS``: ``python ARGUMENTS``, which ends when the process PID does, however.

On Linux the kernel sees to it (prctl(2), PR_SET_PDEATHSIG); elsewhere the program just runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become ``python ARGUMENTS``, a child of the process PID for as long as that lives."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before the kernel was told
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 - a list, and no shell


if __name__ == "__main__":
    main()
