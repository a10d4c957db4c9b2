"""Pixel grids: whether two of them are the same, which pixels of one a window shows, and which of a coarser one.

All is pure: a raster is known by its :class:`Header`.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from tasks.errors import WindowReadError
from tasks.geo.georeference import Georeference, corners, transformer
from tasks.samples.window import Window

TOLERANCE = 0.01  # pixels: grids that lie closer are one, since files round the numbers that say where they lie
Transform = tuple[float, float, float, float, float, float]  # a, b, c, d, e, f as in rasterio.Affine


class Header(NamedTuple):
    """What a file says about itself."""

    name: str
    width: int  # pixels
    height: int
    bands: int  # alpha counted
    colours: int  # bands without alpha
    dtype: str  # of the first band
    georeference: Georeference | None  # None without a CRS or a transform
    transform: Transform | None = None  # also where there is no CRS, as in a world file
    palette: bool = False  # its numbers stand for the colours of a table


class Reach(NamedTuple):
    """The pixels of a scene that a window shows, its mirrored part included."""

    columns: NDArray[np.intp]  # (width,)
    rows: NDArray[np.intp]  # (height,)
    beyond: NDArray[np.bool_]  # (height, width): True outside the scene


def reach(window: Window, width: int, height: int) -> Reach:
    """What ``window`` shows of its scene of ``width`` x ``height`` pixels.

    Raises WindowReadError when it shows nothing of it.
    """
    right, bottom = window.column + window.width, window.row + window.height
    if right <= 0 or bottom <= 0 or window.column >= width or window.row >= height:
        raise WindowReadError(
            f"window {window.name} (columns {window.column} to {right}, rows {window.row} to {bottom}) lies outside "
            f"scene {window.scene}, which is {width}x{height} pixels; has the file been changed?"
        )
    columns = mirrored(window.column, window.width, width)
    return Reach(columns, mirrored(window.row, window.height, height), out_of(window, width, height))


def out_of(window: Window, width: int, height: int) -> NDArray[np.bool_]:
    """(height, width) of ``window``: True outside its scene of ``width`` x ``height`` pixels."""
    rows, columns = outside(window.row, window.height, height), outside(window.column, window.width, width)
    return np.asarray(rows[:, None] | columns[None, :])


def mirrored(start: int, length: int, extent: int) -> NDArray[np.intp]:
    """Indices (length,) of an axis of ``extent`` pixels from ``start`` on, mirrored at its ends as np.pad does."""
    turned = np.arange(start, start + length, dtype=np.intp) % (2 * extent)
    return np.minimum(turned, 2 * extent - 1 - turned)


def outside(start: int, length: int, extent: int) -> NDArray[np.bool_]:
    """(length,) True where a window from ``start`` on lies beyond an axis of ``extent`` pixels."""
    at = np.arange(start, start + length)
    return (at < 0) | (at >= extent)


def scaled(indices: NDArray[np.intp], extent: int, other: int) -> NDArray[np.intp]:
    """The pixels, of ``other`` along the same ground as ``extent``, in which the centres of ``indices`` lie."""
    return np.asarray(np.minimum((2 * indices + 1) * other // (2 * extent), other - 1), dtype=np.intp)


def difference(one: Header, other: Header, same_size: bool = True) -> str | None:
    """In words how the grids of two files differ, None when they agree as far as both tell.

    Corners may lie TOLERANCE apart. Without ``same_size`` the same ground is enough, and a corner may lie a pixel of
    the coarser of the two apart. A CRS may be told in other words, as long as the corners come to the same place.
    """
    if same_size and (one.width, one.height) != (other.width, other.height):
        return (
            f"{other.name} is {other.width}x{other.height} pixels, "
            f"{one.name} is {one.width}x{one.height}: they must have the same size"
        )
    a, b = _place(one), _place(other)
    if a is None or b is None:
        return None
    near = TOLERANCE if same_size else max(1.0, one.width / other.width, one.height / other.height)
    to_pixels = ~Affine(*a.transform)
    theirs, same = corners(b, other.width, other.height), not a.crs or not b.crs or _same_crs(a.crs, b.crs)
    if not same:
        theirs = _into(b.crs, a.crs, theirs)
    with np.errstate(invalid="ignore"):  # of corners that do not come to any place
        apart = theirs - corners(a, one.width, one.height)
        off = apart @ np.array([[to_pixels.a, to_pixels.d], [to_pixels.b, to_pixels.e]])
    if np.isfinite(off).all() and np.abs(off).max() <= near:
        return None
    if not same:
        return f"{other.name} is in {_short(b.crs)}, {one.name} is in {_short(a.crs)}: they must have the same CRS"
    columns, rows = off[np.hypot(*off.T).argmax()]
    place = f"{columns:.2f} columns and {rows:.2f} rows"
    return f"{other.name} does not lie where {one.name} does: a corner is {place} off"


def _place(header: Header) -> Georeference | None:
    """Where a raster lies, in the CRS "" when it does not say in which."""
    if header.georeference is not None or header.transform is None:
        return header.georeference
    return Georeference("", header.transform)


def _into(source: str, target: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) of one CRS in another; not finite where that cannot be told."""
    try:
        return np.column_stack(transformer(source, target).transform(points[:, 0], points[:, 1]))
    except ProjError:
        return np.full(points.shape, np.inf)


@lru_cache(maxsize=64)
def _same_crs(one: str, other: str) -> bool:
    try:
        return one == other or bool(CRS.from_user_input(one) == CRS.from_user_input(other))
    except CRSError:
        return False


def _short(crs: str) -> str:
    return crs if crs.startswith("EPSG:") else crs[:60] + "..."
