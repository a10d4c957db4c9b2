"""What the documentation says of the code is what the code says."""

import re
from pathlib import Path

import pytest

from tasks.versions.schema import SCHEMA_VERSION, table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/architecture.md", "benchmarks/README.md")  # CONTRIBUTING.md has a test of its own


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
