"""What a sample is: a window of pixels, on the ground or in a scene.

A tile of the slippy map is a window with an EPSG:3857 georeference; so is a cell of any grid, in its own CRS. A chip
that exists already is a whole scene, a window of a scene a part of one; both may have a georeference or none.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tasks.geo.georeference import Georeference

SHARD_WINDOWS = 256
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Window:
    """One sample to be: some pixels of one scene, or of whatever covers a cell of a grid."""

    name: str  # the sample's id: unique in the dataset, of letters, digits and ./-_@
    scene: str  # the scene or chip that it is cut from; for a cell of a grid, the cell's name
    group: str  # what a split by block or group keeps together
    column: int  # of the upper left pixel in the scene; negative where the window is padded; 0 for a cell
    row: int
    width: int  # pixels
    height: int
    georeference: Georeference | None = None
    item: str = ""  # the one item that this sample is of; "" to select among all
    rank: int = 0  # of several samples from one window: this is of the (rank+1)-th best item


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work: some hundred windows that lie together."""

    name: str  # fit for a file name
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """All windows that there are, cut into shards."""

    shards: tuple[Shard, ...]
    left_out: dict[str, int]  # what could not become a candidate, by why

    def windows(self) -> Iterator[Window]:
        """Every window, shard by shard."""
        for shard in self.shards:
            yield from shard.windows

    def __len__(self) -> int:
        return sum(len(shard.windows) for shard in self.shards)


class Place(NamedTuple):
    """Where a window lies among its like, in units of its own width and height."""

    plane: str  # places on different planes are not near each other
    x: float
    y: float  # southwards


def place_of(window: Window) -> Place:
    """The window's place: in its scene, or on the grid of its CRS for a cell of one."""
    lies = window.georeference
    if window.name.partition("@")[0] != window.scene or lies is None:
        return Place(window.scene, window.column / window.width, window.row / window.height)
    width, height = lies.transform[0] * window.width, -lies.transform[4] * window.height
    return Place(lies.crs, lies.transform[2] / width, -lies.transform[5] / height)


def only(shards: Iterable[Shard], names: set[str]) -> list[Shard]:
    """``shards`` with only the windows of these names, and without those that have none left."""
    cut = (Shard(shard.name, tuple(one for one in shard.windows if one.name in names)) for shard in shards)
    return [shard for shard in cut if shard.windows]


def in_order(windows: Sequence[Window]) -> tuple[Shard, ...]:
    """Shards of the windows as they come, named by their numbers."""
    starts = enumerate(range(0, len(windows), SHARD_WINDOWS))
    return tuple(Shard(f"{number}", tuple(windows[at : at + SHARD_WINDOWS])) for number, at in starts)


def safe_name(text: str) -> str:
    """``text`` with everything but letters, digits and ``.-_`` replaced by ``_``: fit for a sample's name."""
    return _PLAIN.sub("_", text)


def of_item(window: Window, item: str) -> Window:
    """The sample of one item of a window: ``name@item``."""
    return replace(window, name=f"{window.name}@{item}", item=item)


def ranked(window: Window, count: int) -> list[Window]:
    """The samples of the ``count`` best items of a window: ``name@0``, ``name@1``, ...; itself when there is one."""
    return [window] if count == 1 else [replace(window, name=f"{window.name}@{n}", rank=n) for n in range(count)]
