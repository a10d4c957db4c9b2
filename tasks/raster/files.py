"""Reading parts of raster files: a few open files for each thread, little memory, one way to say what went wrong.

GDAL's handles must not be shared between threads, so each thread opens its own. GDAL keeps what it decoded in one
cache for the process; it is held small, because windows are read row by row and come to the same blocks soon.

Files come from anywhere. Only the drivers of the promised formats are asked, what lies beside a file is looked at
before GDAL sees it, and headers that ask for more memory than the bounds below are refused.
"""

import math
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.windows import Window as PixelWindow

from tasks.errors import SourceError, TilewrightError, WindowReadError
from tasks.geo.georeference import Georeference
from tasks.raster.grids import Header, Transform
from tasks.secrets import redact

CACHE_BYTES = 128 << 20  # of GDAL, for decoded blocks: two rows of windows of a 9000 px RGB scene, for each thread
OPEN_FILES = 24  # for each thread: the bands of a scene at a date, with layers and labels
MAX_BANDS = 1000  # of a file; GDAL takes milliseconds for each of more
MAX_PIXELS = 1 << 28  # of a PNG or JPEG, which is decoded from its beginning for every window
MAX_BLOCK_BYTES = 512 << 20  # of a tile or strip, which is decoded whole
MAX_READ_BYTES = 1 << 30  # of one window, all its bands
# What data sets come in. A VRT is none of them: it could make GDAL read other files, or URLs.
DRIVERS = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG")
_FROM_THE_BEGINNING = ("PNG", "JPEG")
_SETTINGS = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # it gives whatever is in memory for a PNG that was cut short
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",  # whatever a file says, nothing is asked for over the network
}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


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


class _Opened(NamedTuple):
    """A dataset, and what is asked of it once: after a failed read GDAL tells that failure again to other questions."""

    dataset: _Reader
    header: Header
    coloured: list[int]  # bands that are not alpha; all where there is no other
    nodata: tuple[float | None, ...]  # of every band
    masked: bool  # there is a mask beside the bands
    pixel_bytes: int  # of one band


class _UnfitError(Exception):
    """The header of a file that can be opened and is of no use; the text says why and what to do."""


class Rasters:
    """Raster files that stay open for a while. Any thread may read; ``fault`` is raised for files of no use."""

    def __init__(self, fault: type[TilewrightError] = SourceError) -> None:
        self._fault = fault
        self._local = threading.local()
        self._open: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._lock = threading.Lock()

    def header(self, path: Path, name: str) -> Header:
        """What the file at ``path``, called ``name`` in messages, says about itself. Raises ``fault``."""
        with rasterio.Env(**_SETTINGS):
            return self._opened(path, name).header._replace(name=name)

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
        left, top = int(columns.min()), int(rows.min())
        width, height = int(columns.max()) - left + 1, int(rows.max()) - top + 1
        with rasterio.Env(**_SETTINGS):
            opened = self._opened(path, name)
            held = list(range(1, opened.header.bands + 1)) if count == opened.header.bands else opened.coloured
            wanted = held if bands is None else [held[band - 1] for band in bands]
            place = f"columns {left}-{left + width}, rows {top}-{top + height}"
            if (size := width * height * len(wanted) * opened.pixel_bytes) > MAX_READ_BYTES:
                raise WindowReadError(f"{name}: {place} are {size >> 20} MiB, over {MAX_READ_BYTES >> 20}")
            try:
                values, missing = _read(opened, PixelWindow(left, top, width, height), held, wanted, nodata)
            except Exception as error:  # noqa: BLE001 - a damaged file makes libraries raise nearly anything
                self._local.files.pop(path)
                _close(opened.dataset)
                raise WindowReadError(f"{name}: {place} cannot be read ({_told(error)})") from None
        down, along = rows - top, columns - left
        if np.array_equal(down, np.arange(height)) and np.array_equal(along, np.arange(width)):
            return Pixels(values, missing)
        down, along = np.ix_(down, along)
        return Pixels(values[:, down, along], None if missing is None else missing[:, down, along])

    def close(self) -> None:
        """Close every file of every thread."""
        with self._lock:
            for dataset in list(self._open):
                _close(dataset)

    def _opened(self, path: Path, name: str) -> _Opened:
        files: dict[Path, _Opened] | None = getattr(self._local, "files", None)  # the one that was used last, last
        if files is None:
            files = self._local.files = {}
        opened = files.pop(path, None)
        if opened is None or opened.dataset.closed:
            opened = self._open_anew(path, name)
        files[path] = opened
        while len(files) > OPEN_FILES:
            _close(files.pop(next(iter(files))).dataset)
        return opened

    def _open_anew(self, path: Path, name: str) -> _Opened:
        dataset, what = None, "is no raster that can be opened"
        try:
            if not path.is_file():  # a pipe, which would be waited for, a folder, or nothing
                what = "is no file" if path.exists() else "does not exist"
                raise FileNotFoundError("no such file")
            _see_beside(path)
            dataset = _Reader(str(path), driver=list(DRIVERS))
            opened = _facts(dataset, name)
        except Exception as error:  # noqa: BLE001 - as above
            if dataset is not None:
                _close(dataset)
            if isinstance(error, _UnfitError):
                raise self._fault(f"{name}: {error}") from None
            raise self._fault(
                f"{name}: {what} ({_told(error)}); expected a GeoTIFF, PNG, JPEG or JPEG 2000 file. "
                "Fetch the file again, or take it out of the folder"
            ) from None
        with self._lock:
            self._open.add(dataset)
        return opened


def _see_beside(path: Path) -> None:
    """Raises _UnfitError where GDAL would take a file of any format for the mask or the overviews of this one."""
    for end in (".msk", ".ovr"):
        beside = path.with_name(path.name + end)
        if beside.exists() and not (beside.is_file() and _begins(beside) in _TIFF):
            raise _UnfitError(f"{beside.name} beside it is no TIFF, as a mask and overviews are; remove it")


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _facts(dataset: Any, name: str) -> _Opened:
    """Raises _UnfitError for a header that asks for too much, or says where pixels lie in numbers that cannot be."""
    width, height, count, driver = dataset.width, dataset.height, dataset.count, dataset.driver
    if count > MAX_BANDS or count < 1:
        raise _UnfitError(f"has {count} bands; expected 1 to {MAX_BANDS}. Write those that are needed to a file")
    if driver in _FROM_THE_BEGINNING and width * height > MAX_PIXELS:
        raise _UnfitError(f"{width}x{height} pixels are over {MAX_PIXELS:,}, the most for a {driver}; write a GeoTIFF")
    pixel_bytes = max(bytes_of(dtype) for dtype in dataset.dtypes)
    together = count if dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "PIXEL") == "PIXEL" else 1
    block = max(rows * columns for rows, columns in dataset.block_shapes) * pixel_bytes * together
    if driver == "GTiff" and block > MAX_BLOCK_BYTES:
        raise _UnfitError(
            f"its tiles or strips are {block >> 20} MiB each, over {MAX_BLOCK_BYTES >> 20}; write it with smaller ones "
            "(rio convert --co TILED=YES)"
        )
    kinds = dataset.colorinterp
    coloured = [band for band, kind in enumerate(kinds, 1) if kind != ColorInterp.alpha]
    masked = all(MaskFlags.per_dataset in f and MaskFlags.alpha not in f for f in dataset.mask_flag_enums)
    transform = _transform(dataset)
    crs = _crs_name(dataset)
    georeference = Georeference(crs, transform) if crs and transform else None
    palette = kinds[0] == ColorInterp.palette and not _gray(dataset)
    coloured = coloured or list(range(1, count + 1))
    header = Header(name, width, height, count, len(coloured), dataset.dtypes[0], georeference, transform, palette)
    return _Opened(dataset, header, coloured, dataset.nodatavals, masked, pixel_bytes)


def _transform(dataset: Any) -> Transform | None:
    """Where the pixels lie; None where they are counted only, from the upper or the lower edge."""
    found: Affine = dataset.transform
    values = tuple(float(value) for value in found)[:6]
    if found == Affine.identity() or values in ((1, 0, 0, 0, -1, 0), (1, 0, 0, 0, -1, dataset.height)):
        return None
    determinant = found.a * found.e - found.b * found.d
    if not (all(map(math.isfinite, values)) and math.isfinite(determinant) and abs(determinant) > 1e-30):
        raise _UnfitError(
            f"its georeference cannot be ({', '.join(f'{value:g}' for value in values)}); expected finite numbers and "
            "a pixel size. Correct it, or take it out (rio edit-info --unset-transform, or its world file)"
        )
    return values  # type: ignore[return-value]


def _crs_name(dataset: Any) -> str:
    try:
        crs = dataset.crs
        return _named(crs.to_wkt()) if crs else ""
    except Exception as error:  # noqa: BLE001 - damaged keys come as any error
        raise _UnfitError(
            f"its CRS cannot be read ({_told(error)}); fetch the file again, or give it a CRS (rio edit-info --crs ...)"
        ) from None


@lru_cache(maxsize=64)
def _named(wkt: str) -> str:
    crs = CRS.from_wkt(wkt)
    try:
        code = crs.to_epsg()
    except CRSError:
        code = None
    return f"EPSG:{code}" if code else wkt


def _gray(dataset: Any) -> bool:
    """Whether the palette holds no colour, as GDAL makes one for images of one bit."""
    return all(red == green == blue for red, green, blue, *_ in dataset.colormap(1).values())


def bytes_of(dtype: str) -> int:
    """Of one number of a type as GDAL names it."""
    return 4 if dtype == "complex_int16" else np.dtype(dtype).itemsize  # which NumPy does not have


def _read(
    opened: _Opened, window: PixelWindow, held: Sequence[int], wanted: Sequence[int], nodata: float | None
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    values = opened.dataset.read(wanted, window=window)
    missing = ~np.isfinite(values) if values.dtype.kind in "fc" else None
    for i, band in enumerate(wanted):
        declared = opened.nodata[band - 1]
        value = nodata if declared is None else declared
        if value is not None and _fits(value, values.dtype):
            missing = np.zeros(values.shape, dtype=bool) if missing is None else missing
            with np.errstate(invalid="ignore"):  # a NaN that signals is a value like others
                missing[i] |= values[i] == values.dtype.type(value)
    if len(held) < opened.header.bands or opened.masked:
        masked = np.broadcast_to(opened.dataset.dataset_mask(window=window) == 0, values.shape)
        missing = masked if missing is None else missing | masked
    return values, missing


def _fits(value: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind in "fc":
        return bool(np.isfinite(value))
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max) and float(value).is_integer()


def _close(dataset: Any) -> None:
    with suppress(Exception):  # of a damaged file; there is nothing left to lose
        dataset.close()


def _told(error: BaseException) -> str:
    """What a library says: the first cause, on one line, short."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = "".join(one if one.isprintable() else " " for one in str(error))
    return redact(" ".join(said.split()))[:160] or type(error).__name__
