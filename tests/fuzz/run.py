"""Runs kinds of cases, each in a child process, so that one that crashes or never ends is found and named."""

import faulthandler
import json
import mmap
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tests.fuzz import judge
from tests.fuzz.case import Case
from tests.fuzz.judge import SECRET, Watch, judged
from tests.fuzz.kinds import KINDS, case_of
from tests.fuzz.server import Here

ADDRESS_SPACE = 8 << 30  # bytes that a child may have beyond what it begins with
PIECE = 2500  # cases of one child: memory that builds up over cases goes with it
_KEPT = 20  # failures of a kind that are written down


@dataclass
class Outcome:
    """What came of the cases of a kind."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    kind: str
    numbers: range


@dataclass
class _Child:
    piece: _Piece
    pid: int
    pipe: int
    at: mmap.mmap  # the number of the case that it is at
    text: bytes = b""


def shares(cases: int, kinds: Sequence[str]) -> dict[str, int]:
    """So many cases of each kind."""
    whole = sum(KINDS[name].share for name in kinds)
    return {name: max(1, round(cases * KINDS[name].share / whole)) for name in kinds}


def run(counts: dict[str, int], seed: int, jobs: int, failed: Path) -> dict[str, Outcome]:
    """Run so many cases of each kind; what a failing case was made of is written to a folder in ``failed``."""
    outcomes = {name: Outcome() for name in counts}
    waiting = [
        _Piece(name, range(first, min(first + PIECE, count)))
        for name, count in counts.items()
        for first in range(0, count, PIECE)
    ]
    waiting.sort(key=lambda piece: KINDS[piece.kind].share * len(piece.numbers))
    with tempfile.TemporaryDirectory(prefix="tilewright-fuzz-") as scratch:
        children: dict[int, _Child] = {}
        while waiting or children:
            while waiting and len(children) < jobs:
                child = _begin(waiting.pop(), seed, Path(scratch))
                children[child.pipe] = child
            for pipe in select.select(list(children), [], [])[0]:
                child = children[pipe]
                if data := os.read(pipe, 1 << 16):
                    child.text += data
                    continue
                del children[pipe]
                waiting += _ended(child, outcomes[child.piece.kind], seed, failed)
    return outcomes


def _begin(piece: _Piece, seed: int, scratch: Path) -> _Child:
    at = mmap.mmap(-1, 8)
    at[:8] = piece.numbers.start.to_bytes(8, "little")
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(piece, pid, reading, at)
    status = 1
    try:
        os.close(reading)
        with os.fdopen(writing, "w") as report:
            _work(piece, seed, Path(tempfile.mkdtemp(dir=scratch)), at, report)
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def _work(piece: _Piece, seed: int, scratch: Path, at: mmap.mmap, report: TextIO) -> None:
    """The child: all cases of a piece, and lines of JSON about them."""
    log = os.open(scratch / "stderr", os.O_RDWR | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    kind, here = KINDS[piece.kind], Here()
    empty, folder = _empty(scratch), scratch / "case"
    (scratch / "outside").mkdir()
    (scratch / "outside" / "secret.txt").write_text(SECRET)
    watch = Watch(folder, here)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in piece.numbers:
        case = case_of(piece.kind, seed, number)
        at[:8] = number.to_bytes(8, "little")
        if number == piece.numbers.start:  # what its libraries take to be loaded and to begin with does not count
            with _guarded():
                judged(kind, case, folder, here, watch)
            resource.setrlimit(resource.RLIMIT_AS, (_size() + ADDRESS_SPACE,) * 2)
        began = time.monotonic()
        with _guarded():
            wrong, told = judged(kind, case, folder, here, watch)
        took = time.monotonic() - began
        if (left := _taken_out(empty)) and not wrong:
            wrong = f"left behind {', '.join(left[:5])}"
        print(json.dumps([number, took, bool(told), wrong, told[:4000] if wrong else ""]), file=report)


@contextmanager
def _guarded() -> Iterator[None]:
    """What never returns to Python, where it could be interrupted, ends the process."""
    faulthandler.dump_traceback_later(2 * judge.WALL_SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _taken_out(folders: Sequence[Path]) -> list[str]:
    """What was in folders that are to be empty, and is no longer."""
    found = [path for folder in folders for path in folder.iterdir()]
    for path in found:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return [f"{path.parent.name}/{path.name}" for path in found]


def _empty(scratch: Path) -> list[Path]:
    """Folders that stay empty: where this process is, its home, its temporary files."""
    found = [scratch / name for name in ("cwd", "home", "tmp")]
    for one in found:
        one.mkdir()
    os.chdir(found[0])
    os.environ |= {"HOME": str(found[1]), "XDG_CACHE_HOME": str(found[1] / ".cache"), "TMPDIR": str(found[2])}
    os.environ |= {"MLHUB_API_KEY": "a-key"}
    tempfile.tempdir = None
    return found


def _size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _ended(child: _Child, outcome: Outcome, seed: int, failed: Path) -> Iterator[_Piece]:
    """Take down what a child reported; the cases after one that ended it are still to be run."""
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    piece, last = child.piece, child.piece.numbers.start - 1
    for line in child.text.decode().splitlines():
        try:
            last, took, refused, wrong, told = json.loads(line)
        except ValueError:  # cut short when the process ended
            break
        outcome.cases, outcome.refused = outcome.cases + 1, outcome.refused + refused
        outcome.seconds, outcome.slowest = outcome.seconds + took, max(outcome.slowest, took)
        if wrong:
            _fail(outcome, piece.kind, seed, last, wrong, told, failed)
    if status:
        at = int.from_bytes(child.at[:8], "little")
        number = os.WTERMSIG(status)
        how = f"was killed by {signal.Signals(number).name}" if number else "never came to an end, or left the process"
        _fail(outcome, piece.kind, seed, at, f"the process {how}", "", failed)
        outcome.cases += 1
        if at + 1 < piece.numbers.stop:
            yield _Piece(piece.kind, range(at + 1, piece.numbers.stop))


def _fail(outcome: Outcome, kind: str, seed: int, number: int, wrong: str, told: str, failed: Path) -> None:
    name = f"{kind}:{seed}:{number}"
    if len(outcome.failures) >= _KEPT:
        outcome.failures.append(f"{name}: {wrong.splitlines()[0]}")
        return
    folder = failed / name.replace(":", "-")
    write_case(folder, case_of(kind, seed, number))
    (folder / "what.txt").write_text(f"{wrong}\n\n{told}\n", errors="replace")
    shown = f"\n    {told[:300]!r}" if told else ""
    outcome.failures.append(
        f"{name}: {wrong}{shown}\n    its files: {folder}; again: python -m tests.fuzz --again {name}"
    )


def write_case(folder: Path, case: Case) -> None:
    """Write the files of a case."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if case.words:
        (folder / "words.txt").write_text("\n".join(map(repr, case.words)))


def again(name: str) -> tuple[str, str]:
    """Run one case in this process: what is wrong with what came of it, and what was said."""
    kind, seed, number = name.split(":")
    with tempfile.TemporaryDirectory(prefix="tilewright-fuzz-") as folder:
        scratch = Path(folder)
        (scratch / "outside").mkdir()
        (scratch / "outside" / "secret.txt").write_text(SECRET)
        os.environ |= {"MLHUB_API_KEY": "a-key"}
        here = Here()
        case = case_of(kind, int(seed), int(number))
        faulthandler.enable()
        return judged(KINDS[kind], case, scratch / "case", here, Watch(scratch / "case", here))


def summary(outcomes: dict[str, Outcome]) -> str:
    """A line for each kind, and for all."""
    lines = [
        f"{name:12} {one.cases:7,} cases, {one.refused:7,} refused, {len(one.failures):3} failed, "
        f"{1000 * one.seconds / max(1, one.cases):6.1f} ms each, slowest {one.slowest:5.2f} s"
        for name, one in outcomes.items()
    ]
    whole: Counter[str] = Counter()
    for one in outcomes.values():
        whole.update(cases=one.cases, failed=len(one.failures))
    return "\n".join([*lines, f"{'all':12} {whole['cases']:7,} cases, {whole['failed']} failed"])
