"""Labels that are rasters on the pixel grids of scenes or cells: one file for each, read window by window."""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.errors import LabelError, WindowReadError
from tasks.labels.footprints import LabelReport
from tasks.labels.protocol import RawLabels, rim
from tasks.raster.files import Header, Pixels, Rasters, difference, reach
from tasks.raster.scene import Asset, LocalAsset, Scene
from tasks.recipe.sources import ProvidedLabels, RasterLabels
from tasks.samples.window import Window
from tasks.secrets import redact

_Recipe = RasterLabels | ProvidedLabels
WITHOUT = "scene without a label raster"
UNFETCHED = "label raster cannot be fetched"
THREADS = 4


class FileLabels(ABC):
    """What all label rasters have in common. Satisfies :class:`tasks.labels.protocol.Labels`."""

    def __init__(self, labels: _Recipe, *, padding: int = 0, listed: Collection[int] = ()) -> None:
        """``padding``: pixels of a window's rim that have no label.

        ``listed`` are the values that the recipe's classes name: such a value is a label also where the file calls it
        nodata, as masks do whose background is 0.
        """
        self._labels, self._padding, self._listed = labels, padding, list(listed)
        self._rasters = Rasters(LabelError)
        self._consensus = isinstance(labels, ProvidedLabels) and labels.min_consensus is not None

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
        return RawLabels(values, missing, consensus)


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
        self._check(header, window)
        at = reach(window, header.width, header.height)
        bands, count = self._bands(header)
        return self._raw(header, self._rasters.read(path, asset.name, at.columns, at.rows, bands, count), at.beyond)

    def _check(self, header: Header, window: Window) -> None:
        """Raise LabelError for a raster of another grid."""


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
        with self._lock:
            if not self._scenes:
                self._scenes = {one.name: one for one in self._ask()}
        found = self._scenes.get(scene)
        if found is None:
            raise LabelError(f"labels: there is no scene {scene} any more; run plan again")
        return found.labels


class CellLabels(GridLabels):
    """Files for cells and tiles, each on exactly its cell's pixels."""

    def __init__(self, pattern: Path, labels: RasterLabels, *, listed: Collection[int] = ()) -> None:
        """pattern: with {scene} for the cell's name, which of a tile is z/x/y."""
        super().__init__(labels, listed=listed)
        self._pattern = str(pattern)
        self._without = (
            f"labels.path: {{scene}} has no label raster; {pattern} does not exist. Put it there, correct labels.path, "
            "or set labels.missing: skip"
        )

    def _asset(self, scene: str) -> Asset | None:
        path = Path(self._pattern.replace("{scene}", scene))
        return LocalAsset(path) if path.is_file() else None

    def _check(self, header: Header, window: Window) -> None:
        cell = Header(window.scene, window.width, window.height, 1, 1, "uint8", window.georeference)
        if differs := difference(cell, header):
            raise LabelError(
                f"{differs}. Write it on the pixels of its cell, or give one raster of the whole area (labels.path "
                "without {scene})"
            )


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
    whole = np.where(missing, 0, values) if values.dtype.kind == "f" else np.full(values.shape, 0.5)
    if not np.array_equal(whole, np.rint(whole)) or np.abs(whole).max(initial=0) >= 2**31:
        raise LabelError(f"{header.name}: holds {header.dtype} values that are not whole numbers; expected classes")
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
