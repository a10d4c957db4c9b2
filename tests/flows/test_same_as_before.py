"""Datasets are the same as before the rebuild: ids, order, splits, images and masks against digests of that program."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.sandbox.services.server import Running, running
from tests.support.digests import CASES, Case, built, digest_of_inputs, environment

BEFORE: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "digests.json").read_text())


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Running]:
    with running() as server:
        yield server


def test_every_case_has_a_digest() -> None:
    assert [case.name for case in CASES] == list(BEFORE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_dataset_is_the_same_as_before(
    case: Case, tmp_path: Path, sandbox: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(sandbox.url).items():
        monkeypatch.setenv(name, value)
    found, given = built(case, tmp_path, sandbox.url)
    before = BEFORE[case.name]
    for key in ("counts", "dtype", "shape"):
        assert found[key] == before[key]
    differing = []
    for split, now in found["splits"].items():
        then = before["splits"][split]
        assert set(now["sample_id"]) == set(then["sample_id"]), f"other samples in {split}"
        assert now["sample_id"] == then["sample_id"], f"another order of {split}"
        assert now["masks"] == then["masks"], f"other masks in {split}"
        differing += [split] * (now["samples"] != then["samples"])
    if differing and digest_of_inputs(given) != before["inputs"]:
        pytest.skip("this machine draws other inputs than the one of the digests, so the images cannot be compared")
    assert not differing, f"other images in {' and '.join(differing)}"
    for key in ("mean", "std"):
        assert found[key] == pytest.approx(before[key], rel=1e-9)
