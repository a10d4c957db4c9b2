"""The ledger in SQLite against one of plain dicts, through any sequence of calls."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tasks.errors import StoreError
from tasks.state.ledger import Fetched, Ledger, Measured, Recorded, RunState, Sample
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import LABEL_REASONS, Event, Image, Labels, Standing, State, after

NAMES = [f"scene {n}/0-{n}@2020" for n in range(5)]
KEYS = ["k1", "k2"]

some = st.lists(st.sampled_from(NAMES), unique=True)
fractions = st.floats(0, 1)
verdicts = st.builds(
    Measured,
    name=st.sampled_from(NAMES),
    reason=st.sampled_from(["", "", "", *LABEL_REASONS]),
    class_fractions=st.sampled_from([(), (0.25, 0.75), (0.1, 0.2, 0.7)]),
    building_fraction=st.none() | fractions,
    mask_sha256=st.sampled_from(["m1", "m2"]),
).map(lambda one: replace(one, mask=one.mask_sha256.encode() * 3 if one.passes else None))
answers = st.builds(
    Fetched,
    name=st.sampled_from(NAMES),
    image=st.sampled_from([image for image in Image if image is not Image.UNKNOWN]),
    attempts=st.integers(0, 3),
    bytes=st.integers(0, 1000),
    sha256=st.sampled_from(["s1", "s2"]),
    nodata_fraction=fractions,
    fetched_at=st.integers(0, 2**33),
    cloud_fraction=st.none() | fractions,
    acquired_at=st.none() | st.integers(-(2**33), 2**33),
    origin=st.sampled_from(["", "an item"]),
    note=st.sampled_from(["", "offset", "none"]),
).map(lambda one: replace(one, reason="" if one.image is Image.STAGED else f"it is {one.image}"))


@dataclass
class Known:
    """What the model knows of a sample."""

    candidate: bool = True
    standing: Standing = field(default_factory=Standing)
    measured: Measured | None = None
    key: str | None = None
    fetched: Fetched | None = None
    split: tuple[str, str] | None = None


class LedgerModel(RuleBasedStateMachine):
    """The model."""

    @initialize(names=some)
    def begin(self, names: list[str]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.ledger: Ledger = open_ledger(Path(self.folder.name) / "ledger.sqlite")
        self.samples: dict[str, Known] = {}
        self.run = RunState()
        self.set_candidates(names)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.__exit__(None, None, None)
            self.folder.cleanup()

    # ---- events --------------------------------------------------------------------------------

    @rule()
    def close_and_open(self) -> None:
        self.ledger.__exit__(None, None, None)
        self.ledger = open_ledger(Path(self.folder.name) / "ledger.sqlite")

    @rule(names=some)
    def set_candidates(self, names: list[str]) -> None:
        self.ledger.set_candidates(names)
        for known in self.samples.values():
            known.candidate = False
        for name in names:
            self.samples.setdefault(name, Known()).candidate = True

    @rule(found=st.lists(verdicts, unique_by=lambda one: one.name), key=st.sampled_from(KEYS))
    def record_measured(self, found: list[Measured], key: str) -> None:
        found = [one for one in found if one.name in self.samples]
        self.ledger.record_measured(found, key)
        for one in found:
            known = self.samples[one.name]
            event = Event.LABELS_REJECT if one.reason else Event.LABELS_ACCEPT
            known.standing = after(known.standing, event, one.reason)
            known.measured, known.key = one, key

    @rule(outcomes=st.lists(answers, max_size=6))  # of names that the ledger does not know, and one name twice
    def record_fetched(self, outcomes: list[Fetched]) -> None:
        self.ledger.record_fetched(iter(outcomes))
        for one in outcomes:
            if one.name in self.samples:
                known = self.samples[one.name]
                known.standing = after(known.standing, Event.IMAGE_ANSWERED, one.reason, one.image)
                known.fetched = one

    @rule(names=some, standing=st.builds(Standing, image=st.sampled_from(Image), labels=st.sampled_from(Labels)))
    def judge(self, names: list[str], standing: Standing) -> None:
        if standing.image is Image.STAGED:  # only what was staged can be so again
            names = [name for name in names if name in self.samples and self.samples[name].fetched]
        if standing.labels is not Labels.UNKNOWN:
            names = [name for name in names if name in self.samples and self.samples[name].measured]
        self.ledger.judge(dict.fromkeys(names, standing))
        for name in names:
            if name in self.samples:
                self.samples[name].standing = standing

    @rule(names=some)
    def measure_again(self, names: list[str]) -> None:
        self.ledger.measure_again(names)
        for name in names:
            if name in self.samples:
                self.samples[name].key = ""

    @rule()
    def rename_key(self) -> None:
        self.ledger.rename_key(*KEYS)
        for known in self.samples.values():
            known.key = KEYS[1] if known.key == KEYS[0] else known.key

    @rule(names=some)
    def forget_images(self, names: list[str]) -> None:
        self.ledger.forget_images(names)
        self.happens(Event.IMAGE_LOST, names)

    @rule(names=some)
    def forget_answers(self, names: list[str]) -> None:
        self.ledger.forget_answers(names)
        self.happens(Event.IMAGERY_CHANGED, names)

    @rule()
    def retry_failed(self) -> None:
        self.ledger.retry_failed()
        self.happens(Event.RETRY, [name for name, known in self.samples.items() if known.candidate])

    @rule(splits=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["train", "test"])), unit=st.booleans())
    def assign_splits(self, splits: dict[str, str], unit: bool) -> None:
        units = {name: f"unit of {name}" for name in splits} if unit else {}
        self.ledger.assign_splits(splits, units)
        for name, split in splits.items():
            if name in self.samples and self.samples[name].split is None:
                self.samples[name].split = (units.get(name, ""), split)

    @rule(key=st.sampled_from(KEYS), since=st.floats(0, 2**33), scenes=st.dictionaries(st.text(max_size=3), st.text()))
    def set_run_state(self, key: str, since: float, scenes: dict[str, str]) -> None:
        self.run = RunState({"zoom": 18, "key": key}, key, scenes, key, since)
        self.ledger.set_run_state(self.run)

    def happens(self, event: Event, names: list[str]) -> None:
        for name in names:
            if name in self.samples:
                self.samples[name].standing = after(self.samples[name].standing, event)

    # ---- what must be so -----------------------------------------------------------------------

    @invariant()
    def names_and_counts_agree(self) -> None:
        candidates = {name: known for name, known in self.samples.items() if known.candidate}
        assert self.ledger.known() == sorted(self.samples)
        counts = self.ledger.counts()
        for state in State:
            inside = {name: known for name, known in candidates.items() if known.standing.state is state}
            assert self.ledger.names(state) == sorted(inside)
            assert counts[state] == len(inside)
            reasons = [known.standing.reason for known in inside.values()]
            expected = {reason: reasons.count(reason) for reason in reasons}
            found = self.ledger.reasons(state)
            assert list(found.items()) == sorted(expected.items(), key=lambda one: (-one[1], one[0]))
        answers = {known.standing.image for known in self.samples.values()}
        assert self.ledger.answered() == bool(answers - {Image.UNKNOWN, Image.FAILED})
        assert self.ledger.measured() == sum(known.key is not None for known in candidates.values())
        for key in KEYS:
            assert self.ledger.unmeasured(key) == {name for name, known in candidates.items() if known.key != key}

    @invariant()
    def samples_agree(self) -> None:
        expected = []
        for name, known in sorted(self.samples.items()):
            one, image = known.measured, known.fetched
            if known.candidate and known.standing.state is State.STAGED:
                assert one is not None
                assert image is not None
                assert image.sha256 is not None
                assert image.nodata_fraction is not None
                assert image.fetched_at is not None
                labels = (one.class_fractions, one.building_fraction)
                about = (image.cloud_fraction, image.acquired_at, image.origin, image.note)
                stored = (image.sha256, image.nodata_fraction, image.fetched_at)
                expected.append(Sample(name, one.mask_sha256, *stored, *labels, *about))
        assert self.ledger.samples() == expected
        notes = [sample.note for sample in expected if sample.note]
        assert self.ledger.notes() == {note: notes.count(note) for note in notes}

    @invariant()
    def what_filters_judge_agrees(self) -> None:
        candidates = {name: known for name, known in sorted(self.samples.items()) if known.candidate}
        fractions = {
            name: known.measured.class_fractions if known.measured else () for name, known in candidates.items()
        }
        assert list(self.ledger.recorded(KEYS[0])) == [
            Recorded(
                name,
                known.standing,
                known.key == KEYS[0],
                fractions[name],
                bool(known.measured and known.measured.mask_sha256),
                known.fetched.nodata_fraction if known.fetched else None,
                bool(known.fetched and known.fetched.sha256),
            )
            for name, known in candidates.items()
        ]
        for state in State:
            inside = [(name, fractions[name]) for name, known in candidates.items() if known.standing.state is state]
            assert self.ledger.class_fractions(state) == inside

    @invariant()
    def masks_agree(self) -> None:
        for name in NAMES:
            one = self.samples[name].measured if name in self.samples else None
            if one is not None and one.mask is not None:
                assert self.ledger.mask(name) == one.mask
            else:
                with pytest.raises(StoreError, match="no mask of"):
                    self.ledger.mask(name)

    @invariant()
    def the_rest_agrees(self) -> None:
        assert self.ledger.run_state() == self.run
        assert self.ledger.splits() == {name: known.split for name, known in self.samples.items() if known.split}
        fractions = [
            known.measured.building_fraction for known in self.samples.values() if known.candidate and known.measured
        ]
        assert sorted(self.ledger.building_fractions()) == sorted(one for one in fractions if one is not None)
        lengths = [
            known.fetched.bytes
            for known in self.samples.values()
            if known.standing.state is State.STAGED and known.fetched and known.fetched.bytes is not None
        ]
        assert self.ledger.mean_bytes() == (pytest.approx(sum(lengths) / len(lengths)) if lengths else None)


LedgerModel.TestCase.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLedgerModel = LedgerModel.TestCase
