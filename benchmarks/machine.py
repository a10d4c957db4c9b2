"""What every benchmark needs: the machine it ran on, medians, tables, child processes, and the peers' environments."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def machine() -> str:
    """Cores, processor, system, Python and the load of the last minute, on one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f"load {os.getloadavg()[0]:.1f}"
    return f"{cores} cores, {_processor()}, {platform.system()}, Python {platform.python_version()}, {load}"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Tilewright and of installed packages."""
    return {package: version(package) for package in ("tilewright", *packages)}


def described(found: Mapping[str, str]) -> str:
    """Machine and versions as the line above a table."""
    return f"{machine()}; {', '.join(f'{name} {number}' for name, number in found.items())}"


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median with least and most, as a table cell; the value alone when there is one."""
    median = f"{statistics.median(values):,.{digits}f}"
    return median if len(values) == 1 else f"{median} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run_child(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Any:
    """Run a command in the checkout and return the JSON of its last line. Ends the program when it fails."""
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peer_python(peer: str, number: str, module: str, *more: str) -> Path | None:
    """The Python of a virtual environment that has a peer, or None, with a message, when it cannot be installed.

    The environment is under the system's temporary folder and stays there for the next run. ``module`` is what
    must be importable, ``more`` are packages that the peer needs but does not name.
    """
    folder = Path(tempfile.gettempdir()) / f"tilewright-bench-{peer}-{number}"
    python = folder / "bin" / "python"
    if not (python.exists() and _imports(python, module)):
        print(f"installing {peer} {number} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", f"{peer}=={number}", *more]
        if subprocess.run(command, stdout=sys.stderr).returncode or not _imports(python, module):
            print(f"{peer} {number} could not be installed; its figures are left out", file=sys.stderr)
            return None
    return python


def _imports(python: Path, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def _processor() -> str:
    """The processor's model, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
