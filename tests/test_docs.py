"""What the documentation says of the code is what the code says."""

import re
from pathlib import Path

import pytest

from tasks.versions.schema import SCHEMA_VERSION, table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/architecture.md", "docs/security.md", "benchmarks/README.md")


def test_the_architecture_lists_the_arrays_of_a_version() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert f"Schema {SCHEMA_VERSION}, groups" in text
    assert table() in text


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:tasks|flows|training|infra|datasets|tests|benchmarks|docs)/[\w./-]*)`", text)
    linked = re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in linked if not (ROOT / page).parent.joinpath(name).exists()]
    assert missing == []


def test_every_limit_of_the_security_page_is_in_its_module() -> None:
    """Each constant that a row names is defined in a module of the row, each key is a recipe's."""
    schema = (ROOT / "datasets/recipe.schema.json").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in (ROOT / "docs/security.md").read_text(encoding="utf-8").splitlines()]
    checked = 0
    for _, _, names, modules in (row for row in rows if len(row) == 4):
        paths, folder = [], ""
        for name in re.findall(r"`([\w/]+\.py)`", modules):
            folder = name.rpartition("/")[0] or folder
            paths.append(ROOT / (name if "/" in name else f"{folder}/{name}"))
        code = "".join(path.read_text(encoding="utf-8") for path in paths)
        for name in re.findall(r"`([A-Z_]{4,})`", names):
            assert re.search(rf"^{name}(:[^=]+)? = ", code, re.MULTILINE), f"{name} is not in {modules}"
            checked += 1
        for key in re.findall(r"`(?:limits|imagery|labels)\.(\w+)`", names):
            assert f'"{key}"' in schema
            checked += 1
    assert checked > 40
