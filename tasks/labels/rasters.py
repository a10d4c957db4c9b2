"""Labels that are rasters on the grids of their scenes: one file for each scene, read window by window."""

import hashlib
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.errors import LabelError
from tasks.labels.footprints import LabelReport
from tasks.raster.files import Header, Pixels, Rasters, reach
from tasks.raster.scene import Asset, Scene
from tasks.recipe.windows import ProvidedLabels, RasterLabels
from tasks.samples.window import RawLabels, Window, WindowReadError
from tasks.secrets import redact

NO_LABEL = "scene without a label raster"
UNREAD = "label raster cannot be fetched"
THREADS = 4


class SceneLabels:
    """The label rasters of scenes; a :class:`tasks.samples.window.WindowLabels`."""

    def __init__(
        self,
        scenes: Sequence[Scene],
        labels: RasterLabels | ProvidedLabels,
        *,
        padding: int = 0,
        listed: Collection[int] = (),
    ) -> None:
        """Labels of ``scenes``. ``padding``: pixels of a window's rim that have no label.

        ``listed`` are the values that the recipe's classes name: such a value is a label also where the file calls it
        nodata, as masks do whose background is 0.
        """
        self._scenes = {scene.name: scene for scene in scenes}
        self._labels = labels
        self._padding = padding
        self._listed = frozenset(listed)
        self._rasters = Rasters(LabelError)
        self._consensus = isinstance(labels, ProvidedLabels) and labels.min_consensus is not None

    def prepare(self, windows: Sequence[Window], work: Path) -> LabelReport:  # noqa: ARG002 - assets know their folders
        """Fetch the rasters of these windows' scenes where they are not here, and say which they are.

        The report's sha256 is over scenes and contents. Raises LabelError for a scene without its label, unless
        ``labels.missing`` is ``skip``.
        """
        names = sorted({window.scene for window in windows})
        assets = {name: self._scene(name).labels for name in names}
        without = [name for name, asset in assets.items() if asset is None]
        if without and self._labels.missing == "error":
            raise LabelError(self._without(without[0]) + (f" ({len(without)} such scenes)" if without[1:] else ""))
        there = {name: asset for name, asset in assets.items() if asset is not None}
        with ThreadPoolExecutor(THREADS, "labels") as pool:
            found = list(pool.map(_identity, there.values()))
        digest = hashlib.sha256()
        for name, (content, _) in zip(there, found, strict=True):
            digest.update(f"{name} {content}\n".encode())
        unread = sum(not content for content, _ in found)
        newest = max((changed for _, changed in found), default=0.0)
        where = self._labels.path if isinstance(self._labels, RasterLabels) else "of the collection"
        return LabelReport(
            source=redact(f"rasters {where}"),
            timestamp=datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds"),
            read=len(names),
            kept=len(there) - unread,
            repaired=0,
            dropped={reason: n for reason, n in ((NO_LABEL, len(without)), (UNREAD, unread)) if n},
            incomplete=0,
            requests=0,
            sha256=digest.hexdigest(),
        )

    def read(self, window: Window) -> RawLabels | None:
        """The labels of a window; None where its scene has none and ``labels.missing`` is ``skip``.

        Band 1, or three bands of uint8 as colours; the consensus is band 2. Missing are pixels outside the scene, the
        rim of padding, and those that the file itself calls nodata or transparent. Raises LabelError for a raster of
        no use, WindowReadError for a part that cannot be read.
        """
        asset = self._scene(window.scene).labels
        if asset is None:
            if self._labels.missing == "error":
                raise LabelError(self._without(window.scene))
            return None
        path = asset.path()
        header = self._rasters.header(path, asset.name)
        at = reach(window, header.width, header.height)
        colours = header.colours >= 3 and header.dtype == "uint8"
        if self._consensus and (colours or header.bands < 2):
            raise LabelError(
                f"{asset.name}: has no consensus band (band 2 of 2 or more), which labels.min_consensus needs; "
                "leave labels.min_consensus out"
            )
        bands = [1, 2, 3] if colours else [1, 2] if self._consensus else [1]
        # The second of two bands may be called alpha; it is the consensus, which says nothing about nodata.
        pixels = self._rasters.read(path, asset.name, at.columns, at.rows, bands, None if colours else header.bands)
        missing = at.beyond | self._rim(window) | self._unlabelled(pixels, colours)
        values = pixels.values if colours else self._whole(header, pixels.values[0], missing)
        consensus = np.clip(pixels.values[1], 0, 100).astype(np.uint8) if self._consensus else None
        if missing.any():
            values = np.where(missing, values.dtype.type(0), values)
        return RawLabels(values, missing, consensus)

    def close(self) -> None:
        """Close all files."""
        self._rasters.close()

    def _scene(self, name: str) -> Scene:
        scene = self._scenes.get(name)
        if scene is None:
            raise LabelError(f"labels: there is no scene {name} any more; run plan again")
        return scene

    def _without(self, scene: str) -> str:
        return f"labels: scene {scene} has no label raster; add it, or set labels.missing: skip"

    def _rim(self, window: Window) -> NDArray[np.bool_]:
        rim = np.zeros((window.height, window.width), dtype=bool)
        if self._padding:
            rim[:] = True
            rim[self._padding : -self._padding, self._padding : -self._padding] = False
        return rim

    def _unlabelled(self, pixels: Pixels, colours: bool) -> NDArray[np.bool_]:
        if pixels.missing is None:
            return np.zeros(pixels.values.shape[1:], dtype=np.bool_)
        if colours:
            return np.asarray(pixels.missing.all(axis=0))
        known = np.isin(pixels.values[0], list(self._listed)) if self._listed else False
        return np.asarray(pixels.missing[0] & ~np.asarray(known))

    def _whole(self, header: Header, values: NDArray[np.generic], missing: NDArray[np.bool_]) -> NDArray[np.generic]:
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
    except WindowReadError:  # its windows will fail, and are recorded then
        return "", 0.0
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_mtime
    except OSError as error:
        raise LabelError(f"{asset.name}: cannot be read ({error.strerror or error})") from None
