"""Reading parts of raster files: a few open files for each thread, little memory, one way to say what went wrong.

GDAL's handles must not be shared between threads, so each thread opens its own. GDAL keeps what it decoded in one
cache for the process; it is held small, because windows are read row by row and come to the same blocks soon.
"""

import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as PixelWindow

from tasks.errors import SourceError, TilewrightError, WindowReadError
from tasks.geo.georeference import Georeference, corners
from tasks.samples.window import Window
from tasks.secrets import redact

CACHE_BYTES = 128 << 20  # of GDAL, for decoded blocks: two rows of windows of a 9000 px RGB scene, for each thread
OPEN_FILES = 24  # for each thread: the bands of a scene at a date, with layers and labels
# What data sets come in. A VRT is none of them: it could make GDAL read other files, or URLs.
DRIVERS = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG")


class Header(NamedTuple):
    """What a file says about itself."""

    name: str
    width: int  # pixels
    height: int
    bands: int  # alpha counted
    colours: int  # bands without alpha
    dtype: str  # of the first band
    georeference: Georeference | None  # None without a CRS or a transform


class Pixels(NamedTuple):
    """Part of a raster."""

    values: NDArray[Any]  # (band, y, x), of the file's type
    missing: NDArray[np.bool_] | None  # (band, y, x): nodata by the file's word, NaN or infinite; None: nowhere


class _Reader(DatasetReader):  # type: ignore[misc]
    """A dataset that does not warn about a file without a georeference: that is no fault here.

    Threads must not change warning filters, and a warning for each of a thousand chips helps nobody.
    """

    def _has_gcps_or_rpcs(self) -> bool:
        return True


class Rasters:
    """Raster files that stay open for a while. Any thread may read; ``fault`` is raised for files of no use."""

    def __init__(self, fault: type[TilewrightError] = SourceError) -> None:
        self._fault = fault
        self._local = threading.local()
        self._open: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._lock = threading.Lock()

    def header(self, path: Path, name: str) -> Header:
        """What the file at ``path``, called ``name`` in messages, says about itself. Raises ``fault``."""
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            dataset = self._opened(path, name)
            georeference = None
            if dataset.crs and dataset.transform != Affine.identity():
                georeference = Georeference(_crs_name(dataset.crs.to_wkt()), tuple(dataset.transform)[:6])
            colours = len(_data_bands(dataset, None))
            return Header(name, dataset.width, dataset.height, dataset.count, colours, dataset.dtypes[0], georeference)

    def read(
        self,
        path: Path,
        name: str,
        columns: NDArray[np.intp],
        rows: NDArray[np.intp],
        bands: Sequence[int] | None = None,
        count: int | None = None,
        nodata: float | None = None,
    ) -> Pixels:
        """The pixels at ``columns`` (x) and ``rows`` (y), which may repeat and run backwards but lie in the raster.

        bands: which, counted from 1 among those that hold data; default: all of them.
        count: how many bands hold data, when it is known. Four-band files often call their infrared band alpha; a
        band that is counted holds data, one that is not is the mask.
        nodata: the value that means no data where the file names none.
        Raises WindowReadError when they cannot be read, ``fault`` when the file cannot be opened.
        """
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            dataset = self._opened(path, name)
            left, top = int(columns.min()), int(rows.min())
            width, height = int(columns.max()) - left + 1, int(rows.max()) - top + 1
            window = PixelWindow(left, top, width, height)
            held = _data_bands(dataset, count)
            wanted = held if bands is None else [held[band - 1] for band in bands]
            try:
                values = dataset.read(wanted, window=window)
                missing = _missing(dataset, wanted, values, nodata)
                if len(held) < dataset.count or _has_mask_file(dataset):
                    masked = np.broadcast_to(dataset.dataset_mask(window=window) == 0, values.shape)
                    missing = masked if missing is None else missing | masked
            except (RasterioError, MemoryError) as error:
                detail = redact(" ".join(str(error).split())[:160])
                place = f"columns {left}-{left + width}, rows {top}-{top + height}"
                raise WindowReadError(f"{name}: {place} cannot be read ({detail})") from None
        down, along = rows - top, columns - left
        if np.array_equal(down, np.arange(height)) and np.array_equal(along, np.arange(width)):
            return Pixels(values, missing)
        down, along = np.ix_(down, along)
        return Pixels(values[:, down, along], None if missing is None else missing[:, down, along])

    def close(self) -> None:
        """Close every file of every thread."""
        with self._lock:
            for dataset in list(self._open):
                dataset.close()

    def _opened(self, path: Path, name: str) -> Any:
        files: dict[Path, _Reader] | None = getattr(self._local, "files", None)  # the one that was used last, last
        if files is None:
            files = self._local.files = {}
        dataset = files.pop(path, None)
        if dataset is None or dataset.closed:
            dataset = self._open_anew(path, name)
        files[path] = dataset
        while len(files) > OPEN_FILES:
            files.pop(next(iter(files))).close()
        return dataset

    def _open_anew(self, path: Path, name: str) -> _Reader:
        try:
            dataset = _Reader(str(path), driver=list(DRIVERS))
        except (RasterioError, OSError) as error:
            what = "does not exist" if not path.exists() else "is no raster that can be opened"
            detail = redact(" ".join(str(error).split())[:160])
            raise self._fault(
                f"{name}: {what} ({detail}); expected a GeoTIFF, PNG, JPEG or JPEG 2000 file. "
                "Fetch the file again, or take it out of the folder"
            ) from None
        with self._lock:
            self._open.add(dataset)
        return dataset


def mirrored(start: int, length: int, extent: int) -> NDArray[np.intp]:
    """Indices (length,) of an axis of ``extent`` pixels from ``start`` on, mirrored at its ends as np.pad does."""
    turned = np.arange(start, start + length, dtype=np.intp) % (2 * extent)
    return np.minimum(turned, 2 * extent - 1 - turned)


def outside(start: int, length: int, extent: int) -> NDArray[np.bool_]:
    """(length,) True where a window from ``start`` on lies beyond an axis of ``extent`` pixels."""
    at = np.arange(start, start + length)
    return (at < 0) | (at >= extent)


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
    beyond = outside(window.row, window.height, height)[:, None] | outside(window.column, window.width, width)[None, :]
    columns = mirrored(window.column, window.width, width)
    return Reach(columns, mirrored(window.row, window.height, height), beyond)


def scaled(indices: NDArray[np.intp], extent: int, other: int) -> NDArray[np.intp]:
    """The pixels, of ``other`` along the same ground as ``extent``, in which the centres of ``indices`` lie."""
    return np.asarray(np.minimum((2 * indices + 1) * other // (2 * extent), other - 1), dtype=np.intp)


def difference(one: Header, other: Header, same_size: bool = True) -> str | None:
    """In words how the grids of two files differ, None when they agree as far as both tell.

    Corners may lie a pixel apart, since files round them. Without ``same_size`` the same ground is enough.
    """
    if same_size and (one.width, one.height) != (other.width, other.height):
        return (
            f"{other.name} is {other.width}x{other.height} pixels, "
            f"{one.name} is {one.width}x{one.height}: they must have the same size"
        )
    a, b = one.georeference, other.georeference
    if a is None or b is None:
        return None
    if not _same_crs(a.crs, b.crs):
        return f"{other.name} is in {_short(b.crs)}, {one.name} is in {_short(a.crs)}: they must have the same CRS"
    to_pixels = ~Affine(*a.transform)
    near = max(1.0, one.width / other.width, one.height / other.height)
    apart = corners(b, other.width, other.height) - corners(a, one.width, one.height)
    for columns, rows in apart @ np.array([[to_pixels.a, to_pixels.d], [to_pixels.b, to_pixels.e]]):
        if abs(columns) > near or abs(rows) > near:
            off = f"{columns:.1f} columns and {rows:.1f} rows"
            return f"{other.name} does not lie where {one.name} does: a corner is {off} off"
    return None


def _data_bands(dataset: Any, count: int | None) -> list[int]:
    colours = [i for i, kind in zip(dataset.indexes, dataset.colorinterp, strict=True) if kind != ColorInterp.alpha]
    return list(dataset.indexes) if count == dataset.count or not colours else colours


def _has_mask_file(dataset: Any) -> bool:
    return all(MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in dataset.mask_flag_enums)


def _missing(
    dataset: Any, bands: Sequence[int], values: NDArray[Any], nodata: float | None
) -> NDArray[np.bool_] | None:
    missing = ~np.isfinite(values) if values.dtype.kind in "fc" else None
    for i, band in enumerate(bands):
        declared = dataset.nodatavals[band - 1]
        value = nodata if declared is None else declared
        if value is not None and _fits(value, values.dtype):
            missing = np.zeros(values.shape, dtype=bool) if missing is None else missing
            missing[i] |= values[i] == values.dtype.type(value)
    return missing


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind in "fc":
        return bool(np.isfinite(value))
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max) and float(value).is_integer()


@lru_cache(maxsize=64)
def _crs_name(wkt: str) -> str:
    crs = CRS.from_wkt(wkt)
    try:
        code = crs.to_epsg()
    except CRSError:
        code = None
    return f"EPSG:{code}" if code else wkt


@lru_cache(maxsize=64)
def _same_crs(one: str, other: str) -> bool:
    return one == other or bool(CRS.from_user_input(one) == CRS.from_user_input(other))


def _short(crs: str) -> str:
    return crs if crs.startswith("EPSG:") else crs[:60] + "..."
