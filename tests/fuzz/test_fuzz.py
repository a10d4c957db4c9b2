"""Whatever is put in: the program goes on, or ends with a short message; and what watches over that sees what it must.

``make fuzz`` runs more cases, as does ``TILEWRIGHT_FUZZ_CASES`` here; ``TILEWRIGHT_FUZZ_SEED`` draws others.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES, SEED = (os.environ.get(f"TILEWRIGHT_FUZZ_{name}", usual) for name, usual in (("CASES", "2000"), ("SEED", "1")))

# Kinds that do what none may do. Bounds are short, for two of them run into one.
WRONG = """\
import ctypes, json, os, signal, socket, sys, time, warnings
from pathlib import Path

from tasks.errors import LabelError, RecipeError
from tests.fuzz import judge, run
from tests.fuzz.case import Case, Kind
from tests.fuzz.kinds import KINDS

judge.CPU_SECONDS, judge.WALL_SECONDS = 0.5, 1.5


def fail(message):
    raise RecipeError(message)


def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    time.sleep(60)


def busy():
    while True:
        pass


def nobody(here):
    socket.create_connection(("127.0.0.2", int(here.filled(b"127.0.0.2:CANRY")[-5:]))).close()
    time.sleep(0.1)


DOORS = {
    "right": lambda folder, here: fail("x.yaml: is wrong"),
    "crash": lambda folder, here: ctypes.string_at(0),
    "leaves": lambda folder, here: os._exit(3),
    "deaf": lambda folder, here: deaf(),
    "busy": lambda folder, here: busy(),
    "memory": lambda folder, here: bytearray(b"x" * (60 << 20)),
    "other": lambda folder, here: {}["x"],
    "nameless": lambda folder, here: fail("something is wrong"),
    "lines": lambda folder, here: fail("x.yaml" + "\\n" * 40),
    "traceback": lambda folder, here: fail("x.yaml: Traceback (most recent call last)"),
    "secret": lambda folder, here: fail("x.yaml: " + (folder / "../outside/secret.txt").read_text()),
    "writes": lambda folder, here: (folder.parent / "x.txt").write_text("x"),
    "litters": lambda folder, here: ctypes.CDLL(None).creat(b"litter", 0o600),
    "connects": lambda folder, here: nobody(here),
    "runs": lambda folder, here: os.system("true"),
    "warns": lambda folder, here: warnings.warn("x", RuntimeWarning),
}
for name, door in DOORS.items():
    make = lambda random: Case({"x.yaml": random.randbytes(9)})
    KINDS[name] = Kind(make, lambda folder, case, here, door=door: door(folder, here), ("x.yaml",), 1, grows=30)
found = run.run(dict.fromkeys(DOORS, 2), 1, 4, Path(sys.argv[1]))
print(json.dumps({name: one.failures for name, one in found.items()}))
"""
SEEN = {
    "crash": "was killed by SIGSEGV",
    "leaves": "left the process",
    "deaf": "never came to an end",
    "busy": "took over",
    "memory": "MiB of memory, over 30",
    "other": "KeyError instead of a TilewrightError",
    "nameless": "the message names none of x.yaml",
    "lines": "the message has 41 lines",
    "traceback": "the message holds a traceback",
    "secret": "the message tells what another file holds",
    "writes": "left its folder: open",
    "litters": "left behind cwd/litter",
    "connects": "asked the server that nobody named",
    "runs": "left its folder: runs",
    "warns": "warned: RuntimeWarning x",
}


def test_no_input_ends_in_anything_but_a_short_message(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.fuzz", "--cases", CASES, "--seed", SEED, "--json", str(report)]
    done = subprocess.run([*command, "--failed", "build/fuzz"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5000:]
    outcomes = json.loads(report.read_text())
    assert sum(outcome["cases"] for outcome in outcomes.values()) >= 0.99 * int(CASES)
    # A door that takes everything checks nothing, and one that takes nothing sees no more than the doormat.
    assert [kind for kind, outcome in outcomes.items() if not 0 < outcome["refused"] < outcome["cases"]] == []


def test_what_may_not_be_is_seen(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRONG, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    failures = json.loads(done.stdout)
    assert failures.pop("right") == []
    assert failures.keys() == SEEN.keys()
    for kind, words in SEEN.items():
        assert len(failures[kind]) == 2, kind
        assert words in failures[kind][0]
        assert (tmp_path / f"{kind}-1-0" / "x.yaml").is_file()
