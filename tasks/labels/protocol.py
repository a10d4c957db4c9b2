"""What a label source owes: for a window the labels of the same pixels. It knows no ledger, filter or store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.errors import WindowReadError
from tasks.geo.tiles import Tile
from tasks.labels.footprints import Footprints, LabelReport
from tasks.samples.window import Window

ANSWERS = "answers"  # the folder, below the one for downloads, of answers of an unfinished run


@dataclass(frozen=True, eq=False)
class RawLabels:
    """Labels of a window as their source has them."""

    values: NDArray[Any]  # (y, x) integers, or (3, y, x) uint8 RGB colours; bool where footprints were drawn
    missing: NDArray[np.bool_] | None = None  # (y, x): True where the source has no label, as in padding
    consensus: NDArray[np.uint8] | None = None  # (y, x): 0 to 100
    name: str = ""  # of the file that they are from, for messages


def rim(shape: tuple[int, ...], padding: int) -> NDArray[np.bool_]:
    """bool ``shape`` (y, x): True on the outer ``padding`` pixels of a window, which have no label."""
    found = np.ones(shape, dtype=np.bool_)
    found[padding : shape[0] - padding, padding : shape[1] - padding] = False
    return found


class Labels(Protocol):
    """Labels for windows; any thread may read. Making one does no I/O."""

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:
        """Get ready for these windows; ``work`` is a folder for downloads. Raises LabelError.

        What is in ``work`` already is used and not asked for again: the caller removes it when it wants fresh labels.
        """

    def read(self, windows: Sequence[Window]) -> Iterator[RawLabels | WindowReadError | None]:
        """The labels of each window: None where the source has none and the recipe allows it, the error where they
        cannot be read just now. Raises LabelError for what ends the run.
        """

    def close(self) -> None:
        """Let files go."""


class FootprintSource(Protocol):
    """A place that footprints come from. Making one does no I/O, and one may be pickled."""

    def fetch(self, tiles: Sequence[Tile], work: Path) -> Footprints:
        """The buildings on any of ``tiles`` (of one zoom); ``work`` is a folder for downloads and caches.

        Answers in ``work / ANSWERS`` are taken as they are, so that a killed run goes on. A building whose bounding box
        touches a tile comes; fewer would be wrong masks. Raises LabelError when the source cannot be read or answers
        with less than it was asked for.
        """
