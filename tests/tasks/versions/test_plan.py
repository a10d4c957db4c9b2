"""Which sample stands in which slot, and what makes a version a new one."""

import dataclasses
import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.state.ledger import Sample
from tasks.versions.plan import BLOCK_SAMPLES, Row, content_hash, plan_version, slots
from tasks.versions.read import Previous, VersionInfo
from tasks.versions.schema import SPLITS, Layout
from tasks.versions.splits import hash_order

LAYOUT = Layout(("red",), "uint8", 16, 16, ("background", "building"))
names = st.lists(st.integers(0, 60).map(str), unique=True, max_size=40)
seeds = st.integers(0, 3)


def row(name: str, sha256: str = "s", mask_sha256: str = "m") -> Row:
    return Row(Sample(name, mask_sha256, sha256, 0.0, 0), "unit of " + name, None)


@given(names, names, seeds)
def test_slots_are_dense_stable_and_decided_by_names_alone(previous: list[str], now: list[str], seed: int) -> None:
    found = slots(previous, now, seed)
    assert sorted(found) == sorted(now)  # every sample once, and no gap
    assert found == slots(previous, reversed(now), seed) == slots(previous, set(now), seed)
    stayed = [(slot, name) for slot, name in enumerate(previous) if name in now]
    for slot, name in stayed:
        if slot < len(now):
            assert found[slot] == name  # nobody moves whose slot there is still
    moved = [name for slot, name in stayed if slot >= len(now)]
    newcomers = hash_order(set(now) - set(previous), seed)
    freed = [slot for slot, name in enumerate(found) if previous[slot : slot + 1] != [name]]
    assert [found[slot] for slot in freed] == [*newcomers, *reversed(moved)]  # newcomers lowest, then the very last


@given(names, seeds)
def test_a_first_version_is_in_the_order_of_the_hash(now: list[str], seed: int) -> None:
    assert slots([], now, seed) == hash_order(now, seed)


@given(names, names, seeds)
def test_a_version_of_the_same_samples_is_the_same(previous: list[str], now: list[str], seed: int) -> None:
    first = slots(previous, now, seed)
    assert slots(first, now, seed) == first


def test_slots_by_hand() -> None:
    assert slots("abcdef", "abcdef", 0) == list("abcdef")
    assert slots("abcdef", "acdef", 0) == list("afcde")  # the last one fills the gap
    assert slots("abcdef", "cdef", 0) == list("fecd")
    assert slots("abcdef", "abcd", 0) == list("abcd")
    assert slots("abcdef", "acdefx", 0) == list("axcdef")  # a newcomer does
    one, two = hash_order("xy", 0)
    assert slots("abcdef", "acefxy", 0) == ["a", one, "c", two, "e", "f"]
    assert slots("abc", "abcxy", 0) == ["a", "b", "c", one, two]
    assert slots("abcdef", "acfx", 0) == ["a", "x", "c", "f"]
    assert slots("abc", "", 0) == []


def test_newcomers_are_ordered_by_the_seed() -> None:
    many = [f"{i}" for i in range(30)]
    assert slots([], many, 1) != slots([], many, 2)


def rows_of(count: int) -> tuple[dict[str, Row], dict[str, str]]:
    rows = {f"{i}": row(f"{i}") for i in range(count)}
    return rows, {name: SPLITS[int(name) % 3] for name in rows}


def test_a_plan_goes_on_from_the_newest_version() -> None:
    rows, assigned = rows_of(12)
    first = plan_version(rows, assigned, Previous(), LAYOUT, 0, "recipe")
    assert (first.version, first.number, len(first), first.unchanged) == ("v1", 1, 12, False)
    assert [r.sample.name for r in first.rows["train"]] == hash_order(["0", "3", "6", "9"], 0)
    metadata = {"content_hash": first.content}
    newest = VersionInfo("v1", "snapshot", datetime.now(UTC), "", metadata)
    kept = {split: tuple(r.sample.name for r in members) for split, members in first.rows.items()}
    units = {split: tuple(r.unit for r in members) for split, members in first.rows.items()}
    previous = Previous(4, newest, kept, units)
    assert ("5", "unit of 5", "test") in list(previous.members())
    again = plan_version(dict(reversed(rows.items())), assigned, previous, LAYOUT, 0, "recipe")
    assert again.unchanged
    assert (again.rows, again.previous, again.version) == (first.rows, newest, "v4")
    gone = kept["train"][0]
    less = plan_version(rows, assigned, previous, LAYOUT, 0, "recipe", dropped={gone})
    assert not less.unchanged
    assert [r.sample.name for r in less.rows["train"]] == [kept["train"][3], *kept["train"][1:3]]
    assert less.units[gone] == f"unit of {gone}"  # the ledger is told of it all the same
    assert less.assigned == assigned
    assert not plan_version(rows, assigned, previous, LAYOUT, 0, "another recipe").unchanged


@pytest.mark.parametrize("count", [0, 1, 3 * BLOCK_SAMPLES, 3 * BLOCK_SAMPLES + 4])
def test_blocks_are_runs_of_whole_chunks_that_hold_every_sample(count: int) -> None:
    rows, assigned = rows_of(count)
    plan = pickle.loads(pickle.dumps(plan_version(rows, assigned, Previous(), LAYOUT, 0, "recipe")))
    for split in SPLITS:
        blocks = [block for block in plan.blocks if block.split == split]
        assert [s for block in blocks for s in block.samples] == [r.sample for r in plan.rows[split]]
        assert all(block.start % BLOCK_SAMPLES == 0 for block in blocks)
    assert BLOCK_SAMPLES % LAYOUT.samples_per_chunk == 0


def test_the_content_hash_sees_every_change() -> None:
    base = {"train": [row(f"{i}") for i in range(4)], "validation": [row("4"), row("5")], "test": [row("6")]}
    moved = {**base, "train": base["train"][1:], "test": [*base["test"], base["train"][0]]}
    other = {**base, "train": [row("0", sha256="t"), *base["train"][1:]]}
    mask = {**base, "train": [row("0", mask_sha256="n"), *base["train"][1:]]}
    hashes = {content_hash(one, "r") for one in (base, moved, other, mask)} | {content_hash(base, "q")}
    assert len(hashes) == 5
    assert content_hash({**base, "train": base["train"][::-1]}, "r") == content_hash(base, "r")
    later = [r._replace(sample=dataclasses.replace(r.sample, fetched_at=9)) for r in base["train"]]
    assert content_hash({**base, "train": later}, "r") == content_hash(base, "r")
