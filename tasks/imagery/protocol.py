"""What imagery owes. A :class:`Source` lists windows and fetches shards of them into staging. A slippy map is one with
a batch fetcher of its own; every other is a :class:`Catalogue` of acquisitions behind one adapter
(:mod:`tasks.imagery.per_window`), which selects, reads and stages window by window.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SourceError
from tasks.raster.scene import Scene
from tasks.samples.window import Candidates, Shard, Window
from tasks.state.ledger import Fetched
from tasks.state.staging import ImageShape, Staging

IMAGE_TYPES = ("uint8", "uint16", "int16", "float32")  # of images; all others become one of these
Record = Callable[[Sequence[Fetched]], None]  # takes a batch of outcomes, in the caller's thread


@dataclass(frozen=True)
class Price:
    """What asking for imagery would take."""

    requests: int  # of a slippy map; windows to read elsewhere
    bytes: int
    dollars: float | None = None  # None where requests are not billed
    seconds: float | None = None  # None where nobody can say


class Imagery(Protocol):
    """What sources and catalogues both owe. Making one does no I/O but to look up tokens; any thread may ask it.

    One process opens one, and closes it.
    """

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands of every image."""

    @property
    def requests(self) -> int:
        """Sent over HTTP so far, as far as they can be counted."""

    def scenes(self) -> Sequence[Scene]:
        """The scenes that windows are cut from, with their label rasters; none where samples are cells."""

    def fingerprints(self) -> Mapping[str, str]:
        """A text for each scene that changes with its image files on this machine; empty where there are none."""

    def close(self) -> None:
        """Let files and connections go."""


class Source(Imagery, Protocol):
    """Windows, and their images."""

    @property
    def key(self) -> str:
        """Changes when a staged image would not be what is asked for now; "" where it never does."""

    def former_key(self, max_nodata_fraction: float) -> str:
        """What ``key`` was to programs that rejected images over this share of nodata while they asked for them."""

    @property
    def shape(self) -> ImageShape | None:
        """Of every image; None where each tells its own."""

    def check(self) -> None:
        """See that imagery may be asked for, without asking. Raises TermsError, CredentialError, RecipeError."""

    def candidates(self) -> Candidates:
        """Every window, cut into shards of neighbours. Raises SourceError, AreaError."""

    def fetch(self, shard: Shard, staging: Staging, record: Record) -> None:
        """Ask for the images of a shard and stage them.

        ``record`` gets every outcome exactly once, in batches, also when this raises: SourceError or CredentialError
        when the source would refuse every window alike, DiskError.
        """

    def price(self, pending: Sequence[Window], staged: int, mean_bytes: float | None) -> Price:
        """What asking for ``pending`` would take, where ``staged`` are there already, of ``mean_bytes`` each."""

    def terms(self) -> Mapping[str, str] | None:
        """How the user accepted the source's terms; None where there are none to accept. Raises TermsError."""


@dataclass(frozen=True, eq=False)
class Chip:
    """The pixels of a window in one acquisition."""

    image: NDArray[Any]  # (band, y, x): uint8, uint16, int16 or float32
    nodata: NDArray[np.bool_]  # (y, x): True where there is no data in any band
    note: str = ""  # how the values were made, such as the reflectance rule
    padded: NDArray[np.bool_] | None = None  # (y, x): True where the inside of the scene is mirrored; no nodata there


def in_image_type(values: NDArray[Any], name: str, missing: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """``values`` in a type that images have; as they are where theirs is one.

    Whole numbers are kept exactly, whatever type holds them; float64 is rounded to the seven digits of float32, and
    what is too large for it becomes infinite. Raises SourceError, which begins with ``name``, for a whole number that
    float32 cannot hold, except where ``missing`` (of the values' shape): there is no data.
    """
    if values.dtype.name in IMAGE_TYPES:
        return values
    if values.dtype == np.int8:
        return values.astype(np.int16)
    with np.errstate(over="ignore"):
        made = values.astype(np.float32)
    lost = _lost(values, made)
    if missing is not None:
        lost &= ~missing
    if lost.any():
        raise SourceError(
            f"{name}: holds the {values.dtype.name} {values[lost][0]}, which no image can keep exactly (float32, "
            f"the largest type of images, has whole numbers up to {_WHOLE:,}); write the file with smaller numbers, or "
            "name the value as nodata if it stands for none"
        )
    return made


_WHOLE = 1 << 24  # float32 has every whole number up to here


def _lost(values: NDArray[Any], made: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where float32 has become another whole number."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(made) & (np.rint(values) == values)
            return np.asarray(whole & (made.astype(np.float64) != values))
    if values.dtype.kind not in "iu" or not values.size:
        return np.zeros(values.shape, dtype=np.bool_)
    if int(values.min()) >= -_WHOLE and int(values.max()) <= _WHOLE:  # nearly always
        return np.zeros(values.shape, dtype=np.bool_)
    # A number of at most 24 digits in base 2, from its first 1 to its last.
    wide = values if values.dtype.kind == "u" else np.abs(values.astype(np.int64))  # of the lowest int64 itself, again
    magnitude = wide.astype(np.uint64)
    lowest = magnitude & (~magnitude + np.uint64(1))
    return np.asarray((magnitude >> np.uint64(24)) >= np.maximum(lowest, 1))


class Acquisition(Protocol):
    """One window in one item. Nothing is read before it is asked for; any thread may ask."""

    id: str  # of the item or scene
    acquired_at: int | None  # Unix seconds; None where nobody says

    def read(self) -> Chip:
        """The recipe's bands. Raises WindowReadError, SourceError, CredentialError."""

    def layer(self, name: str) -> NDArray[Any] | None:
        """A layer about the pixels on the window's own grid (y, x), by nearest neighbour; None when there is none.

        name: ``cloudmask``, ``CLD`` or ``SCL``. Raises as :meth:`read`.
        """


class Catalogue(Imagery, Protocol):
    """Acquisitions of windows."""

    @property
    def remote(self) -> bool:
        """Whether windows are read from another machine, so that most of the time is waiting."""

    def windows(self) -> tuple[list[Window], dict[str, int]]:
        """Every window, neighbours together, and what has none that could have had one, counted by why.

        Raises SourceError, AreaError.
        """

    def acquisitions(self, window: Window) -> Sequence[Acquisition]:
        """All of a window, best guess first (least cloudy by its metadata, else oldest first).

        A window with ``item`` has that one only. Empty when nothing covers the window. Raises as
        :meth:`Acquisition.read`.
        """
