"""Waiting for a server that a test started."""

import subprocess
from pathlib import Path

import pytest

from infra import processes


def wait_until_it_answers(url: str, server: "subprocess.Popen[bytes]", log: Path, seconds: float = 120.0) -> None:
    """Until ``url`` answers; the test fails with the log's end when the server dies or takes too long."""
    if not processes.comes_up(url, server, seconds):
        pytest.fail(f"the server at {url} did not start; its log ends:\n{processes.tail(log)}")
