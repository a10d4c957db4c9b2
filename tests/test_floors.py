"""Which room may import which: the rules of docs/architecture.md, read from the code's own imports."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the lowest floor up: a room imports from its own and from lower floors.
FLOORS = (
    "secrets",
    "errors",
    "atomic",
    "geo",
    "recipe",
    "web",
    "samples",
    "raster",
    "state",
    "labels",
    "imagery",
    "versions",
    "views",
    "build",
)
# All that training may read of the rest: a version, configuration files, and how a picture is made.
FOR_TRAINING = (
    "tasks.errors",
    "tasks.secrets",
    "tasks.recipe.yaml",
    "tasks.versions.read",
    "tasks.versions.schema",
    "tasks.views.picture",
)
PACKAGES = {
    "tasks": ("tasks",),
    "training": ("training", "tasks"),
    "flows": ("flows", "tasks", "training", "infra"),
    "infra": ("infra", "tasks"),
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def imports() -> dict[str, set[str]]:
    """By module the modules of ours that it imports, wherever in the file, for types alone included."""
    known = dict(modules())
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        taken: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                taken |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                taken |= {
                    f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module
                    for alias in node.names
                }
        found[name] = taken
    return found


def ours(taken: set[str]) -> set[str]:
    return {name for name in taken if name.partition(".")[0] in (*PACKAGES, "tests", "benchmarks")}


def test_there_are_modules_to_look_at() -> None:
    assert len(imports()) > 120
    assert "tasks.errors" in imports()["tasks.build.stages"]


def test_rooms_of_tasks_import_downwards() -> None:
    rooms = {path.stem for path in (ROOT / "tasks").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == set(FLOORS)
    wrong = []
    for name, taken in imports().items():
        parts = name.split(".")
        if parts[0] != "tasks" or len(parts) == 1:
            continue
        for other in ours(taken):
            room = other.split(".")[1] if other.startswith("tasks.") else ""
            if room not in FLOORS or FLOORS.index(room) > FLOORS.index(parts[1]):
                wrong.append(f"{name} -> {other}")
    assert wrong == []


def test_packages_import_one_way() -> None:
    wrong = [
        f"{name} -> {other}"
        for name, taken in imports().items()
        for other in ours(taken)
        if other.partition(".")[0] not in PACKAGES[name.partition(".")[0]]
    ]
    assert wrong == []


def test_training_reads_versions_and_nothing_else() -> None:
    wrong = [
        f"{name} -> {other}"
        for name, taken in imports().items()
        if name.startswith("training")
        for other in ours(taken)
        if other.startswith("tasks") and other not in FOR_TRAINING
    ]
    assert wrong == []


def test_torch_is_used_in_training_alone() -> None:
    heavy = {"torch", "lightning", "torchmetrics", "mlflow", "safetensors"}
    wrong = [
        f"{name} -> {other}"
        for name, taken in imports().items()
        if not name.startswith("training") and name != "infra.demo"  # the demo asks MLflow what was registered
        for other in taken
        if other.partition(".")[0] in heavy
    ]
    assert wrong == []


def test_nothing_imports_in_a_circle() -> None:
    try:
        list(TopologicalSorter({name: ours(taken) for name, taken in imports().items()}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("module", "kept_out"),
    [
        ("training.module", ("shapely", "rasterio", "tasks.recipe.model", "prefect")),
        ("tasks.versions.read", ("shapely", "rasterio", "pydantic", "torch", "prefect")),
        ("tasks.build.line", ("torch", "prefect", "osmnx", "pystac_client")),
        ("flows.cli", ("torch", "prefect", "rasterio", "shapely")),
    ],
)
def test_an_import_brings_no_more_than_it_needs(module: str, kept_out: tuple[str, ...]) -> None:
    script = f"import sys, {module}\nprint(*(name for name in {kept_out!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == []
