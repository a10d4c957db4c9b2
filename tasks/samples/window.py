"""What a sample is when it is no tile: a window of pixels, and what its sources owe.

A window is a chip that already exists, a part of a scene at a stride, or a cell of a grid laid over STAC items. It
may have a georeference or none. An imagery source says which windows there are and what was seen there when; a label
source gives the labels of the same pixels. Neither knows the ledger, the filter or the store.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import TilewrightError
from tasks.geo.georeference import Georeference
from tasks.labels.footprints import LabelReport

IMAGE_TYPES = ("uint8", "uint16", "int16", "float32")  # of images; all others become one of these
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")

__all__ = [
    "IMAGE_TYPES",
    "Chip",
    "Georeference",
    "Look",
    "RawLabels",
    "Shard",
    "Window",
    "WindowLabels",
    "WindowReadError",
    "WindowSource",
    "of_look",
    "ranked",
    "safe_name",
    "window_name",
]


@dataclass(frozen=True, slots=True)
class Window:
    """One sample to be: some pixels of one scene, or of whatever covers a cell of a grid."""

    name: str  # the sample's id: unique in the dataset, of letters, digits and ./-_@ (see window_name)
    scene: str  # the scene or chip that it is cut from; for a cell of a grid, the cell's name
    group: str  # what a split by group keeps together
    column: int  # of the upper left pixel in the scene; negative where the window is padded; 0 for a cell
    row: int
    width: int  # pixels
    height: int
    georeference: Georeference | None = None
    look: str = ""  # the one look that this sample is of; "" to choose among all
    rank: int = 0  # of several samples from one window: this is the (rank+1)-th best look


class Shard(NamedTuple):
    """The unit of work: some hundred windows that lie together."""

    name: str
    windows: tuple[Window, ...]


@dataclass(frozen=True, eq=False)
class Chip:
    """The pixels of a window as seen once."""

    image: NDArray[Any]  # (band, y, x): uint8, uint16, int16 or float32
    nodata: NDArray[np.bool_]  # (y, x): True where there is no data in any band
    note: str = ""  # how the values were made, such as the reflectance rule
    padded: NDArray[np.bool_] | None = None  # (y, x): True where the inside of the scene is mirrored; no nodata there


class Look(Protocol):
    """What was seen in one window at one time. Nothing is read before it is asked for; any thread may ask."""

    id: str  # of the item or scene
    acquired_at: int | None  # Unix seconds; None where nobody says

    def read(self) -> Chip:
        """The recipe's bands. Raises WindowReadError, SourceError, CredentialError."""
        ...

    def layer(self, name: str) -> NDArray[Any] | None:
        """A layer about the pixels on the window's own grid (y, x), by nearest neighbour; None when there is none.

        name: ``cloudmask``, ``CLD`` or ``SCL``. Raises as :meth:`read`.
        """
        ...


class WindowSource(Protocol):
    """Imagery for windows. Making one does no I/O; any thread may ask it."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands of every image."""
        ...

    @property
    def requests(self) -> int:
        """Sent over HTTP so far."""
        ...

    def windows(self) -> list[Window]:
        """Every window, sorted so that neighbours stand together. Raises SourceError, AreaError."""
        ...

    def looks(self, window: Window) -> Sequence[Look]:
        """All that was seen there, best guess first (least cloudy by its metadata, else oldest first).

        A window with ``look`` has that one only. Empty when nothing covers the window. Raises as :meth:`Look.read`.
        """
        ...

    @property
    def left_out(self) -> Mapping[str, int]:
        """What has no window or look that could have had one, counted by why."""
        ...

    def states(self) -> Mapping[str, str]:
        """A text for each scene that changes with its image files on this machine; empty where there are none."""
        ...

    def close(self) -> None:
        """Let files and connections go."""
        ...


@dataclass(frozen=True, eq=False)
class RawLabels:
    """Labels of a window as their source has them."""

    values: NDArray[Any]  # (y, x) integers, or (3, y, x) uint8 RGB colours
    missing: NDArray[np.bool_] | None = None  # (y, x): True where the source has no label, as in padding
    consensus: NDArray[np.uint8] | None = None  # (y, x): 0 to 100


class WindowLabels(Protocol):
    """Labels for windows; any thread may read."""

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:
        """Get ready for these windows; ``work`` is a folder for downloads. Raises LabelError."""
        ...

    def read(self, window: Window) -> RawLabels | None:
        """The labels of a window, None where the source has none and the recipe allows it. Raises LabelError."""
        ...


class WindowReadError(TilewrightError):
    """One window could not be read, also not at a further attempt. It is recorded as failed and the run goes on.

    The message is short and without URLs' tokens: it becomes the ledger's reason.
    """


def window_name(scene: str, row: int | None = None, column: int | None = None) -> str:
    """``scene`` for a whole chip, ``scene/row-column`` for a window at that pixel."""
    return scene if row is None or column is None else f"{scene}/{row}-{column}"


def safe_name(text: str) -> str:
    """``text`` with everything but letters, digits and ``.-_`` replaced by ``_``: fit for a sample's name."""
    return _PLAIN.sub("_", text)


def of_look(window: Window, look: str) -> Window:
    """The sample of one look of a window: ``name@look``."""
    return replace(window, name=f"{window.name}@{look}", look=look)


def ranked(window: Window, count: int) -> list[Window]:
    """The samples of the ``count`` best looks of a window: ``name@0``, ``name@1``, ...; itself when there is one."""
    return [window] if count == 1 else [replace(window, name=f"{window.name}@{n}", rank=n) for n in range(count)]
