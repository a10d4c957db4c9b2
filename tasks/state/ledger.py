"""The ledger: for every candidate what happened to it, and why.

Two verdicts are recorded of a sample, one by its labels and one about its image; what has become of it (its state)
follows from them (:mod:`tasks.state.transitions`). Every write is one transaction with its reasons, so a run can be
killed anywhere and continued from what the ledger says.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from tasks.state.transitions import Image, Standing, State


@dataclass(frozen=True, slots=True)
class Measured:
    """What the labels of a sample said. ``mask`` (see :mod:`tasks.state.masks`) is given for samples that pass.

    A mask stays for as long as labels are not measured again, also when another filter rejects the sample.
    """

    name: str
    reason: str = ""  # of the rejection, one of tasks.state.transitions.LABEL_REASONS; "" when the sample passes
    class_fractions: tuple[float, ...] = ()  # of all pixels, in the recipe's order
    building_fraction: float | None = None  # None where the dataset has no class for buildings
    mask: bytes | None = None
    mask_sha256: str = ""

    @property
    def passes(self) -> bool:
        """Whether the sample's imagery is wanted."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Fetched:
    """What asking for a sample's image came to."""

    name: str
    image: Image  # staged, rejected, absent or failed
    reason: str = ""
    attempts: int = 0
    bytes: int | None = None  # of the staged file
    etag: str | None = None
    sha256: str | None = None  # of the staged file
    nodata_fraction: float | None = None
    fetched_at: int | None = None  # Unix seconds
    cloud_fraction: float | None = None
    acquired_at: int | None = None  # Unix seconds
    origin: str = ""  # item or scene that the image is from
    note: str = ""  # how its values were made


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample with labels that pass and a staged image: what a version is made of."""

    name: str
    mask_sha256: str
    sha256: str  # of the staged image
    nodata_fraction: float
    fetched_at: int
    class_fractions: tuple[float, ...] = ()
    building_fraction: float | None = None
    cloud_fraction: float | None = None
    acquired_at: int | None = None
    origin: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a filter judges of a candidate: both verdicts on it, and the fractions that they are from."""

    name: str
    standing: Standing
    measured: bool  # its class fractions are those of the labels asked about
    class_fractions: tuple[float, ...]  # empty where there is no label to judge
    has_mask: bool
    nodata_fraction: float | None  # None where nobody knows
    has_image: bool  # its image was staged, whatever became of it


@dataclass(frozen=True, slots=True)
class RunState:
    """What one run leaves to the next besides the samples."""

    identity: Mapping[str, object] = field(default_factory=dict)  # of the recipe that the ledger belongs to
    imagery_key: str = ""  # changes when a staged image would not be what is asked for now
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # of the files that were read, by scene
    labels_key: str = ""  # what the labels in the work directory were asked for; "" once a version has them
    labels_since: float = 0.0  # Unix seconds


class Ledger(AbstractContextManager["Ledger", None], Protocol):
    """An open ledger: a context manager, one for each thread. All of its methods raise StoreError and DiskError."""

    def set_candidates(self, names: Iterable[str]) -> None:
        """Make exactly these the candidates. What is known of others stays, out of sight."""

    def record_measured(self, found: Sequence[Measured], key: str) -> None:
        """Record what the labels said, and the masks of samples that pass, as measured for ``key``."""

    def record_fetched(self, outcomes: Iterable[Fetched]) -> None:
        """Record what became of requested images; attempts add up over runs."""

    def judge(self, standings: Mapping[str, Standing]) -> None:
        """Record how samples stand by name, where another filter has judged them."""

    def measure_again(self, names: Iterable[str]) -> None:
        """The labels of these samples are to be measured again, whatever they were measured for."""

    def rename_key(self, former: str, key: str) -> None:
        """What was measured for the key ``former`` counts as measured for ``key``, which says the same otherwise."""

    def forget_images(self, names: Iterable[str]) -> None:
        """The staged files of these samples are gone or damaged: their images are to be asked for again."""

    def forget_answers(self, names: Iterable[str]) -> None:
        """What is asked for has changed: whatever the answer was, these samples are to be asked for again."""

    def retry_failed(self) -> None:
        """Have candidates whose image failed asked for again."""

    def assign_splits(self, splits: Mapping[str, str], units: Mapping[str, str]) -> None:
        """Record splits, and what they keep together, of samples that have none yet."""

    def names(self, *states: State) -> list[str]:
        """Candidates in any of ``states``, sorted."""

    def names_by_reason(self, state: State, reason: str) -> list[str]:
        """Candidates in ``state`` whose reason begins with ``reason``, sorted."""

    def known(self) -> list[str]:
        """Every sample there ever was, sorted; candidates or not."""

    def answered(self) -> bool:
        """Whether the source gave an answer to any sample there ever was, be it an image or that there is none."""

    def unmeasured(self, key: str) -> set[str]:
        """Candidates whose labels were not measured for this key."""

    def recorded(self, key: str) -> Iterator[Recorded]:
        """Of every candidate, what filters judge; ``key`` is of the labels that fractions are to be from."""

    def class_fractions(self, *states: State) -> list[tuple[str, tuple[float, ...]]]:
        """Name and class fractions of the candidates in any of ``states``, sorted by name."""

    def mask(self, name: str) -> bytes:
        """The mask of a sample that passed. Raises StoreError when the ledger has none."""

    def samples(self) -> list[Sample]:
        """Every candidate that can be in a version, sorted by name."""

    def splits(self) -> dict[str, tuple[str, str]]:
        """Unit and split of every sample that ever got a split, candidate or not; the unit is "" in old ledgers."""

    def counts(self) -> dict[State, int]:
        """Number of candidates in each state."""

    def reasons(self, state: State) -> dict[str, int]:
        """Number of candidates in ``state`` by reason, most frequent first."""

    def notes(self) -> dict[str, int]:
        """Number of staged candidates by how their values were made."""

    def measured(self) -> int:
        """Number of candidates whose labels were measured."""

    def building_fractions(self) -> list[float]:
        """Of every measured candidate that has one."""

    def mean_bytes(self) -> float | None:
        """Mean length of the staged files, None when there is none."""

    def run_state(self) -> RunState:
        """What the last run left."""

    def set_run_state(self, state: RunState) -> None:
        """Leave this to the next run."""
