"""Labels that are rasters on the pixel grids of scenes or cells: one file for each, read window by window."""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import LabelError, WindowReadError
from tasks.labels.footprints import LabelReport
from tasks.labels.nearest import places
from tasks.labels.protocol import RawLabels, rim
from tasks.raster.files import Pixels, Rasters
from tasks.raster.found import matching
from tasks.raster.grids import Header, difference, out_of, reach
from tasks.raster.scene import Asset, LocalAsset, Scene
from tasks.recipe.sources import ProvidedLabels, RasterLabels
from tasks.recipe.yaml import is_file
from tasks.samples.window import Window
from tasks.secrets import redact

_Recipe = RasterLabels | ProvidedLabels
WITHOUT = "scene without a label raster"
UNFETCHED = "label raster cannot be fetched"
THREADS = 4
BLOCK_PIXELS = 16 << 20  # of a raster on another grid, read at once


class FileLabels(ABC):
    """What all label rasters have in common. Satisfies :class:`tasks.labels.protocol.Labels`."""

    windows: Sequence[Window] = ()  # all that labels were prepared for

    def __init__(self, labels: _Recipe, *, padding: int = 0, listed: Collection[int] = ()) -> None:
        """``padding``: pixels of a window's rim that have no label.

        ``listed`` are the values that the recipe's classes name: such a value is a label also where the file calls it
        nodata, as masks do whose background is 0.
        """
        self._labels, self._padding, self._listed = labels, padding, list(listed)
        self._rasters = Rasters(LabelError)
        self._consensus = isinstance(labels, ProvidedLabels) and labels.min_consensus is not None
        self._aligned = isinstance(labels, RasterLabels) and labels.align == "nearest"

    @abstractmethod
    def _of(self, window: Window) -> RawLabels | None:
        """The labels of one window. Raises LabelError, WindowReadError."""

    def read(self, windows: Sequence[Window]) -> Iterator[RawLabels | WindowReadError | None]:
        """The labels of each window; None where there are none and ``labels.missing`` is ``skip``.

        Band 1, or three bands of uint8 as colours; the consensus is band 2. Missing are pixels outside the raster, the
        rim of padding, and those that the file itself calls nodata or transparent. Raises LabelError for a raster of
        no use; a part that cannot be read is that window's error.
        """
        for window in windows:
            try:
                yield self._of(window)
            except WindowReadError as error:
                yield error

    def close(self) -> None:
        """Close all files."""
        self._rasters.close()

    def _skip(self, why: str) -> None:
        """Go on without labels. Raises LabelError when ``labels.missing`` is not ``skip``."""
        if self._labels.missing == "error":
            raise LabelError(why)

    def _bands(self, header: Header) -> tuple[list[int], int | None]:
        """The bands to read, and how many hold data where the file's word for it does not count."""
        colours = _colours(header)
        if self._consensus and (colours or header.bands < 2):
            raise LabelError(
                f"{header.name}: has no consensus band (band 2 of 2 or more), which labels.min_consensus needs; "
                "leave labels.min_consensus out"
            )
        # The second of two bands may be called alpha; it is the consensus, which says nothing about nodata.
        return ([1, 2, 3], None) if colours else ([1, 2] if self._consensus else [1], header.bands)

    def _raw(self, header: Header, pixels: Pixels, beyond: NDArray[np.bool_]) -> RawLabels:
        """Labels from the pixels of a window of :meth:`_bands`; ``beyond`` (y, x): where the raster does not reach."""
        colours = _colours(header)
        missing = beyond | rim(beyond.shape, self._padding)
        if pixels.missing is not None and colours:
            missing |= pixels.missing.all(axis=0)
        elif pixels.missing is not None:
            missing |= pixels.missing[0] & ~np.isin(pixels.values[0], self._listed)
        values = pixels.values if colours else _whole(header, pixels.values[0], missing)
        consensus = np.clip(pixels.values[1], 0, 100).astype(np.uint8) if self._consensus else None
        if missing.any():
            values = np.where(missing, values.dtype.type(0), values)
        return RawLabels(values, missing, consensus, header.name)

    def _nearest(
        self, path: Path, header: Header, window: Window, beyond: NDArray[np.bool_] | None = None
    ) -> RawLabels | None:
        """What lies under the centres of a window's pixels in a raster with a place; None where it does not reach it.

        ``beyond`` (y, x): pixels that are not of the window's scene and have no label. Raises LabelError where the
        raster does not reach the window, unless ``labels.missing`` is ``skip``.
        """
        assert header.georeference is not None
        found, last = places(window, header.georeference), np.array([[[header.width - 1]], [[header.height - 1]]])
        nearest = np.clip(found, 0, last)
        off = (found != nearest).any(axis=0)
        if off.all():
            self._skip(
                f"{window.name}: {header.name} does not reach it; take a map of the whole area, a smaller area, or set "
                "labels.missing: skip"
            )
            return None
        if beyond is not None:
            off |= beyond
        return self._raw(header, Pixels(*self._at(path, header, *nearest.astype(np.intp))), off)

    def _at(
        self, path: Path, header: Header, x: NDArray[np.intp], y: NDArray[np.intp]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """A raster's pixels at columns and rows (y, x): values, and where they are none, (band, y, x)."""
        columns, rows = np.arange(x.min(), x.max() + 1), np.arange(y.min(), y.max() + 1)
        if len(columns) * len(rows) > BLOCK_PIXELS and len(x) > 1:  # a raster much finer than the window
            middle = len(x) // 2
            halves = self._at(path, header, x[:middle], y[:middle]), self._at(path, header, x[middle:], y[middle:])
            values, missing = (np.concatenate(parts, axis=1) for parts in zip(*halves, strict=True))
            return values, missing
        block = self._rasters.read(path, header.name, columns, rows, *self._bands(header))
        missing = np.zeros(block.values.shape, dtype=np.bool_) if block.missing is None else block.missing
        return block.values[:, y - rows[0], x - columns[0]], missing[:, y - rows[0], x - columns[0]]


class GridLabels(FileLabels):
    """A raster for each scene or cell, on its pixel grid."""

    _without: str  # that there is none, and what to do; {scene} stands for the scene's name

    @abstractmethod
    def _asset(self, scene: str) -> Asset | None:
        """The raster of a scene or cell; None where there is none. Raises LabelError."""

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:  # noqa: ARG002 - assets know their folders
        """Fetch the rasters of these windows' scenes where they are not here, and say which they are.

        Raises LabelError for a scene without its label, unless ``labels.missing`` is ``skip``.
        """
        self.windows = windows
        assets = {name: self._asset(name) for name in sorted({window.scene for window in windows})}
        there = {name: asset for name, asset in assets.items() if asset is not None}
        without = [name for name in assets if name not in there]
        if without:
            more = f" ({len(without)} such scenes)" if without[1:] else ""
            self._skip(self._without.replace("{scene}", without[0]) + more)
        where = self._labels.path if isinstance(self._labels, RasterLabels) else "of the collection"
        return report_of(where, there, len(without))

    def _of(self, window: Window) -> RawLabels | None:
        asset = self._asset(window.scene)
        if asset is None:
            self._skip(self._without.replace("{scene}", window.scene))
            return None
        path = asset.path()
        header = self._rasters.header(path, asset.name)
        if self._aligned and header.georeference and window.georeference:
            return self._nearest(path, header, window, self._beyond(window))
        self._check(header, window)
        at = reach(window, header.width, header.height)
        bands, count = self._bands(header)
        return self._raw(header, self._rasters.read(path, asset.name, at.columns, at.rows, bands, count), at.beyond)

    def _check(self, header: Header, window: Window) -> None:
        """Raise LabelError for a raster of another grid."""

    def _beyond(self, window: Window) -> NDArray[np.bool_] | None:
        """(y, x) True where the window lies outside its scene; None where it is all inside."""


class SceneLabels(GridLabels):
    """The label rasters of scenes."""

    _without = "labels: scene {scene} has no label raster; add it, or set labels.missing: skip"

    def __init__(
        self, scenes: Callable[[], Sequence[Scene]], labels: _Recipe, *, padding: int = 0, listed: Collection[int] = ()
    ) -> None:
        """``scenes`` is asked once, when the first label is."""
        super().__init__(labels, padding=padding, listed=listed)
        self._ask, self._scenes, self._lock = scenes, dict[str, Scene](), threading.Lock()

    def _asset(self, scene: str) -> Asset | None:
        return self._scene(scene).labels

    def _scene(self, name: str) -> Scene:
        with self._lock:
            if not self._scenes:
                self._scenes = {one.name: one for one in self._ask()}
        found = self._scenes.get(name)
        if found is None:
            raise LabelError(f"labels: there is no scene {name} any more; run plan again")
        return found

    def _beyond(self, window: Window) -> NDArray[np.bool_] | None:
        size = self._scene(window.scene).size
        return None if size is None else out_of(window, *size)


class CellLabels(GridLabels):
    """Files for cells and tiles, each on exactly its cell's pixels."""

    def __init__(self, pattern: Path, labels: RasterLabels, *, listed: Collection[int] = ()) -> None:
        """pattern: with {scene} for the cell's name, which of a tile is z/x/y."""
        super().__init__(labels, listed=listed)
        self._pattern, self._found = pattern, dict[str, Path | None]()
        self._without = (
            f"labels.path: {{scene}} has no label raster; {pattern} does not exist. Put it there, correct labels.path, "
            "or set labels.missing: skip"
        )

    def _asset(self, scene: str) -> Asset | None:
        if scene not in self._found:
            self._found[scene] = raster_of(self._pattern, scene)
        path = self._found[scene]
        return None if path is None else LocalAsset(path)

    def _check(self, header: Header, window: Window) -> None:
        cell = Header(window.scene, window.width, window.height, 1, 1, "uint8", window.georeference)
        if differs := difference(cell, header):
            raise LabelError(
                f"{differs}. Write it on the pixels of its cell, set labels.align: nearest, or give one raster of the "
                "whole area (labels.path without {scene})"
            )


def raster_of(pattern: Path, scene: str) -> Path | None:
    """The file that ``labels.path`` means for a scene or cell, None when there is none.

    ``*`` stands for anything within a name. Raises LabelError when that makes it mean several files.
    """
    if "*" not in str(pattern):
        path = Path(str(pattern).replace("{scene}", scene))
        return path if is_file(path) else None
    found = sorted(islice(matching(pattern, scene), 2))
    if len(found) > 1:
        raise LabelError(
            f"labels.path: {pattern} means {found[0]} and {found[1]}{scene and f' for {scene}'}; each scene has one "
            "label raster. Write a narrower path, or move one of them away"
        )
    return found[0] if found else None


def report_of(where: str, assets: Mapping[str, Asset], without: int = 0) -> LabelReport:
    """The report on the label rasters of these names, and on scenes ``without`` one. Raises LabelError.

    Its sha256 is over names and contents.
    """
    with ThreadPoolExecutor(THREADS, "labels") as pool:
        found = list(pool.map(_identity, assets.values()))
    contents = "".join(f"{name} {content}\n" for name, (content, _) in zip(assets, found, strict=True))
    unread = sum(not content for content, _ in found)
    newest = max((changed for _, changed in found), default=0.0)
    return LabelReport(
        source=redact(f"rasters {where}"),
        timestamp=datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds"),
        read=len(assets) + without,
        kept=len(assets) - unread,
        dropped={reason: n for reason, n in ((WITHOUT, without), (UNFETCHED, unread)) if n},
        sha256=hashlib.sha256(contents.encode()).hexdigest(),
    )


def _colours(header: Header) -> bool:
    return header.colours >= 3 and header.dtype == "uint8"


def _whole(header: Header, values: NDArray[np.generic], missing: NDArray[np.bool_]) -> NDArray[np.generic]:
    """Class values as integers; files hold them as floating numbers at times."""
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind != "f":
        raise LabelError(f"{header.name}: holds {header.dtype} values; expected whole numbers, which are classes")
    whole = np.where(missing, 0, values)
    wrong = (whole != np.rint(whole)) | (np.abs(whole) >= 2**31)
    if wrong.any():
        raise LabelError(
            f"{header.name}: holds {header.dtype} values that are not whole numbers, or none of a class, such as "
            f"{whole[wrong][0]:g}; expected classes. Where it means no label, name it as the file's nodata value "
            "(rio edit-info --nodata ...)"
        )
    return whole.astype(np.int32)


def _identity(asset: Asset) -> tuple[str, float]:
    """SHA-256 of the contents and the time of the last change; "" where the file cannot be fetched now."""
    try:
        path = asset.path()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_mtime
    except WindowReadError:  # its windows will fail, and are recorded then
        return "", 0.0
    except OSError as error:
        raise LabelError(f"{asset.name}: cannot be read ({error.strerror or error})") from None
