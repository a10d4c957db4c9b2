"""The command line in a process of its own, and what a user is told when something is wrong."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.forks import REPOSITORY, Forks

Ended = subprocess.CompletedProcess[str]


def tilewright_started(*words: str, **environment: str) -> Ended:
    """``tilewright WORDS`` as a user starts it, from the start of the interpreter on."""
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env={**os.environ, **environment}
    )


class Tilewright:
    """``tilewright WORDS`` in a process that has done its imports; the rest is as :func:`tilewright_started`."""

    def __init__(self, forks: Forks) -> None:
        self.forks = forks

    def __call__(self, *words: str, **environment: str) -> Ended:
        with tempfile.TemporaryDirectory() as folder:
            stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
            process = self.forks.start(
                "flows.cli:main",
                *words,
                environment={**os.environ, **environment},
                stdout=stdout,
                stderr=stderr,
            )
            code = process.wait()
            return Ended(words, code, stdout.read_text(), stderr.read_text())


def assert_told(result: Ended, *parts: str, code: int = 1) -> None:
    """One message on stderr, no traceback, nothing on stdout."""
    told = " ".join(result.stderr.split())
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert told.startswith("error: ")
    for part in parts:
        assert part in told
