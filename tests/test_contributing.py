"""CONTRIBUTING.md is followed as it is written, in a copy of the checkout.

What a fenced block is for stands in its info string. ``file=PATH`` is a new file; with ``diff`` it is a change of one,
whose hunks have no line numbers: their context and the lines that go must stand in the file together, once, so that a
block whose place is gone fails. ``run`` are commands. ``tilewright build`` and ``train`` do what their flows do, but
without Prefect; everything else is as a reader has it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tasks.versions.read import open_version
from tasks.versions.schema import SPLITS
from tests.support.versions import stored

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COPIED = ("tasks", "training", "flows", "infra", "datasets", "tests")
COPIED += ("Makefile", "pyproject.toml", *(path.name for path in ROOT.glob("constraints*.txt")))
# The command line, but for the two commands that would start a Prefect server.
TILEWRIGHT = """\
import argparse, dataclasses, json, sys
from flows import cli

parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("what")
parser.add_argument("--config")
parser.add_argument("--set", action="append", default=[])
if sys.argv[1] == "build":
    from flows.jobs import job_of
    from tasks.build import line

    given = parser.parse_args()
    summary = line.build(job_of(given.what, None, given.set))
    print(json.dumps(dataclasses.asdict(summary)))
elif sys.argv[1] == "train":
    from training.config import load_config
    from training.train import train

    given = parser.parse_args()
    result = train(given.what, load_config(given.config, given.set), config_name=given.config)
    print(json.dumps(dataclasses.asdict(result)))
else:
    cli.main()
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of the page."""

    line: int
    info: str  # after the word for the language
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that it makes or changes; empty where it is no such thing."""
        return self.info.removeprefix("file=") if self.info.startswith("file=") else ""


def blocks_of(page: str) -> dict[str, list[Block]]:
    """The blocks of the page by the heading that they stand under."""
    found: dict[str, list[Block]] = defaultdict(list)
    heading = ""
    for match in re.finditer(r"^## (.*)$|^```(\w*) ?(.*)\n((?:(?!```).*\n)*)```$", page, re.MULTILINE):
        if match[1]:
            heading = match[1]
        else:
            found[heading].append(Block(page.count("\n", 0, match.start()) + 1, match[3], match[2], match[4]))
    return found


def patched(text: str, diff: str, where: str) -> str:
    """``text`` after a diff whose hunks tell their places by their lines alone."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = [(line[:1], line[1:] + "\n") for line in hunk.splitlines()]
        assert {sign for sign, _ in lines} <= {"", " ", "-", "+"}, f"{where}: a line that begins with no sign"
        before = "".join(rest for sign, rest in lines if sign != "+")
        after = "".join(rest for sign, rest in lines if sign != "-")
        assert before.strip(), f"{where}: a hunk without a line that tells its place"
        count = f"\n{text}".count(f"\n{before}")
        assert count == 1, f"{where}: these lines stand there {count} times, not once:\n{before}"
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text


class Checkout:
    """A copy of this checkout, changed step by step; its own code runs in it, with this environment's packages."""

    def __init__(self, folder: Path) -> None:
        """Copies the code, and makes the programs of an environment that is active."""
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "continued")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy2(ROOT / name, folder / name)
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/tilewright.py").write_text(TILEWRIGHT)
        for name, start in {
            "python": sys.executable,
            "tilewright": f"{sys.executable} {folder}/.venv/tilewright.py",
            "ruff": f"{sys.executable} -m ruff",
        }.items():
            program = folder / ".venv/bin" / name
            program.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
            program.chmod(0o755)
        (folder / ".venv/installed").touch()  # as make has it

    def run(self, commands: str, where: str = "") -> str:
        """What shell commands say on stdout; the test fails when one fails."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        environment["PATH"] = f"{self.folder}/.venv/bin:{environment['PATH']}"
        environment |= {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        command = ["bash", "-euo", "pipefail", "-c", commands]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=240)
        if done.returncode:
            pytest.fail(f"{where}: failed\n{commands}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def follow(self, heading: str) -> str:
        """Do what the blocks under a heading say; what the last commands said on stdout."""
        said = ""
        for block in blocks_of(PAGE)[heading]:
            where, path = f"CONTRIBUTING.md:{block.line}", self.folder / block.file
            if block.info == "run":
                said = self.run(block.text, where)
            elif block.language == "diff":
                path.write_text(patched(path.read_text(), block.text, f"{where}: {block.file}"))
            else:
                assert block.file, f"{where}: a block that says neither file= nor run"
                assert not path.exists(), f"{where}: {block.file} exists already"
                path.parent.mkdir(exist_ok=True)
                path.write_text(block.text)
        return said


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The copy that all how-tos change, one after the other."""
    made = Checkout(tmp_path_factory.mktemp("contributing") / "checkout")
    script = "import flows, infra, tasks, tests, training; print(flows, infra, tasks, tests, training)"
    modules = made.run(f"python -c '{script}'")
    assert modules.count(f"from '{made.folder}/") == 5, modules  # and not from the checkout that is installed
    return made


@pytest.fixture(scope="module")
def source(checkout: Checkout) -> str:
    """What the first how-to's commands said."""
    return checkout.follow("A new imagery source")


def test_a_new_imagery_source(checkout: Checkout, source: str) -> None:
    summary = json.loads(source.splitlines()[-1])
    assert (summary["version"], summary["failed"], summary["absent"]) == ("v1", 0, 0)
    assert f"# {summary['accepted']} samples in stores/noise" in PAGE
    samples = stored(checkout.folder / "stores/noise")
    assert len(samples) == summary["accepted"]
    assert {one.split for one in samples.values()} == set(SPLITS)
    assert {(one.image.shape, one.image.dtype.name, one.origin) for one in samples.values()} == {
        ((3, 64, 64), "uint8", "noise")
    }
    assert len({one.image.tobytes() for one in samples.values()}) == len(samples)
    assert set(np.unique([one.mask for one in samples.values()])) == {0, 1}
    assert '"const": "noise"' in (checkout.folder / "datasets/recipe.schema.json").read_text()


def test_a_new_mlhub_layout(checkout: Checkout) -> None:
    summary = json.loads(checkout.follow("A new MLHub layout").splitlines()[-1])
    assert f"# {summary['accepted']} samples in stores/vines" in PAGE
    samples = stored(checkout.folder / "stores/vines")
    assert sorted(samples) == sorted(path.name.removeprefix("vines_") for path in checkout.folder.glob("data/vines/*"))
    assert {(one.image.shape, one.image.dtype.name) for one in samples.values()} == {((2, 64, 64), "uint16")}
    assert {one.origin for one in samples.values()} == {f"{name}_20190606" for name in samples}


@pytest.mark.usefixtures("source")
def test_a_new_network(checkout: Checkout) -> None:
    result = json.loads(checkout.follow("A new network").splitlines()[-1])
    assert (result["dataset"], result["epochs"], result["model_version"]) == ("noise", 1, "1")
    assert np.isfinite(result["dice"])
    assert open_version(str(checkout.folder / "stores/noise")).snapshot == result["snapshot"]


def test_linters_and_rules_have_nothing_to_say(checkout: Checkout) -> None:
    names = {block.file for blocks in blocks_of(PAGE).values() for block in blocks if block.file.endswith(".py")}
    there = " ".join(sorted(name for name in names if (checkout.folder / name).exists()))
    checkout.run(f"ruff check {there}; ruff format --check {there}")
    checkout.run("python -m pytest tests/test_floors.py -k 'not brings'")


def test_what_the_page_names_is_there() -> None:
    made = {block.file for blocks in blocks_of(PAGE).values() for block in blocks}
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`((?:[a-z_.]+/)+[a-z_]*(?:\.\w+)?)`", prose)) | set(re.findall(r"\]\(([^)]+)\)", prose))
    assert "docs/architecture.md" in named
    assert "tests/test_floors.py" in named
    outside = {"../shared/data", "data/"}
    yet_to_write = {name for name in named if re.fullmatch(r"tests/.*test_(noise|unpooled)\.py", name)}
    assert [name for name in sorted(named - made - outside - yet_to_write) if not (ROOT / name).exists()] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = {word for line in re.findall(r"\bmake ((?:[a-z]+ ?)+)", PAGE) for word in line.split()}
    assert {"venv", "lint", "test", "schema"} <= asked & targets


def test_a_block_whose_place_is_gone_fails() -> None:
    assert patched("a\nb\nc\n", " a\n-b\n+d\n@@\n c\n+e\n", "here") == "a\nd\nc\ne\n"
    for diff in (" a\n c\n+d\n", "-x\n", "+d\n"):
        with pytest.raises(AssertionError, match="here: "):
            patched("a\nb\nc\n", diff, "here")
    with pytest.raises(AssertionError, match="stand there 2 times"):
        patched("a\nb\na\n", " a\n+c\n", "here")
