"""Windows of scenes: cut from the scenes' headers, read part by part, with the layers that say what is cloud."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import LabelError, SourceError
from tasks.raster.files import Header, Pixels, Rasters, difference, reach, scaled
from tasks.raster.scene import IMAGE, Asset, LocalAsset, Scene, SceneItem
from tasks.recipe.windows import MlhubImagery, ScenesImagery, WindowSplits
from tasks.samples.patches import Placed, place, reserve
from tasks.samples.window import (
    IMAGE_TYPES,
    Chip,
    Georeference,
    Look,
    Window,
    WindowReadError,
    of_look,
    ranked,
    safe_name,
    window_name,
)
from tasks.versions.splits import RESERVED, named_splits

HEADER_THREADS = 4


class SceneSource:
    """The windows of scenes and what was seen there; a :class:`tasks.samples.window.WindowSource`.

    Bands come from an item's assets of their names, or from its one image file. Items that lack a band are left out.
    """

    def __init__(
        self, scenes: Sequence[Scene], imagery: ScenesImagery | MlhubImagery, splits: WindowSplits | None = None
    ) -> None:
        """Windows of ``scenes`` as ``imagery`` says; ``splits`` may reserve a part of each for validation."""
        self.bands = tuple(imagery.bands)
        self.requests = 0  # files are fetched, where they are not here, by their assets
        self.left_out = 0  # windows astride the border of a reserved part
        self.unreserved = 0  # scenes that are too small for one
        self._imagery = imagery
        self._splits = splits or WindowSplits()
        self._file_bands = tuple(imagery.file_bands or imagery.bands)
        self._nodata = imagery.nodata if isinstance(imagery, ScenesImagery) else None
        self._scenes = {scene.name: scene for scene in scenes}
        self._items = {scene.name: self._usable(scene) for scene in scenes}
        self._images, self._labels = Rasters(SourceError), Rasters(LabelError)
        self._grids: dict[str, Header] = {}
        self._checked: set[tuple[str, str]] = set()  # scene and file of which the grid was compared
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Nothing is open before it is asked for."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def skipped(self) -> list[str]:
        """Scenes without an item that has all bands: they have no windows."""
        return [name for name, items in self._items.items() if not items]

    def windows(self) -> list[Window]:
        """Every window, scene by scene, date by date where each is a sample, row by row.

        Reads headers only: of the label raster where there is one, and of imagery that is on this machine. Raises
        SourceError when no scene has the bands or a file does not fit, LabelError when labels do not fit the imagery.
        """
        usable = [scene for _, scene in sorted(self._scenes.items()) if self._items[scene.name]]
        if not usable:
            raise SourceError(self._no_bands())
        with ThreadPoolExecutor(HEADER_THREADS, "headers") as pool:
            grids = list(pool.map(self._grid, usable))
        self.left_out = self.unreserved = 0
        return [window for scene, grid in zip(usable, grids, strict=True) for window in self._cut(scene, grid)]

    def looks(self, window: Window) -> Sequence[Look]:
        """The items of the window's scene that have all bands, oldest first. Raises SourceError, LabelError."""
        scene = self._scenes.get(window.scene)
        if scene is None:
            raise SourceError(f"window {window.name}: there is no scene {window.scene} any more; run plan again")
        names = look_names(self._items[scene.name])
        looks: list[Look] = [
            SceneLook(item.id, item.acquired_at, self, window, scene, item)
            for item, name in zip(self._items[scene.name], names, strict=True)
            if window.look in ("", name)
        ]
        return looks

    def close(self) -> None:
        """Close all files."""
        self._images.close()
        self._labels.close()

    def _usable(self, scene: Scene) -> list[SceneItem]:
        found = [item for item in scene.items if self._single(item) or self._file_is_enough(item)]
        return sorted(found, key=lambda item: (item.acquired_at is None, item.acquired_at or 0, item.id))

    def _single(self, item: SceneItem) -> bool:
        return all(band in item.assets for band in self.bands)

    def _file_is_enough(self, item: SceneItem) -> bool:
        return IMAGE in item.assets and set(self.bands) <= set(self._file_bands)

    def _no_bands(self) -> str:
        if not self._scenes:
            return "imagery: there are no scenes"
        items = [item for scene in self._scenes.values() for item in scene.items]
        if not items:
            return (
                f"imagery: none of the {len(self._scenes)} scenes has an image, among them {next(iter(self._scenes))}; "
                "put the imagery where the labels are (of an MLHub dataset the source collection's files or archive)"
            )
        held = sorted({key for item in items for key in item.assets if key != IMAGE})
        if any(IMAGE in item.assets for item in items):
            held += self._file_bands
        absent = [band for band in self.bands if band not in held]
        lacking = ", ".join(absent) if absent else f"all of {', '.join(self.bands)}"
        return (
            f"imagery.bands: no image has {lacking}; there are {', '.join(held) or 'none'}. "
            "Name the bands of a file that holds several in imagery.file_bands"
        )

    def _grid(self, scene: Scene) -> Header:
        """Size and place of the scene, by its label raster where there is one."""
        with self._lock:
            known = self._grids.get(scene.name)
        if known is not None:
            return known
        first = next(iter(self._files(self._items[scene.name][0])))
        try:
            image = None
            if scene.labels is None or isinstance(first, LocalAsset):
                image = self._image_header(first.path(), first, self._items[scene.name][0])
            label = self._labels.header(scene.labels.path(), scene.labels.name) if scene.labels else None
        except WindowReadError as error:
            raise SourceError(f"scene {scene.name}: its size cannot be learnt ({error}); run the same again") from None
        if image and label and (unlike := difference(image, label)):
            raise LabelError(_unlike_labels(scene, unlike))
        grid = label or image
        assert grid is not None
        if grid.georeference is None and image is not None:
            grid = grid._replace(georeference=image.georeference)
        with self._lock:
            self._grids[scene.name] = grid
        return grid

    def _files(self, item: SceneItem) -> list[Asset]:
        return [item.assets[band] for band in self.bands] if self._single(item) else [item.assets[IMAGE]]

    def _image_header(self, path: Path, asset: Asset, item: SceneItem) -> Header:
        header = self._images.header(path, asset.name)
        expected = 1 if self._single(item) else len(self._file_bands)
        if expected not in (header.bands, header.colours):
            what = (
                "its name stands for one" if self._single(item) else f"the recipe names {', '.join(self._file_bands)}"
            )
            raise SourceError(
                f"{asset.name}: has {header.bands} bands, {what}; "
                "list the names of all its bands, in their order, in imagery.file_bands"
            )
        return header

    def _cut(self, scene: Scene, grid: Header) -> list[Window]:
        placed = place(grid.width, grid.height, self._imagery.windows)
        splits = self._splits
        groups = [scene.group] * len(placed)
        if splits.reserve and not named_splits([scene.name], splits.groups):
            sides = reserve(placed, grid.width, grid.height, splits.reserve, splits.seed, scene.name)
            self.left_out += sides.count(None)
            self.unreserved += True not in sides
            placed = [one for one, side in zip(placed, sides, strict=True) if side is not None]
            groups = [scene.name + RESERVED * side for side in sides if side is not None]
        windows = [_window(scene, grid, one, group) for one, group in zip(placed, groups, strict=True)]
        dates, items = self._imagery.dates, self._items[scene.name]
        if dates.pick == "all":
            return [of_look(window, name) for name in look_names(items) for window in windows]
        return [one for window in windows for one in ranked(window, dates.count)[: len(items)]]

    def _check(self, scene: Scene, grid: Header, path: Path, asset: Asset, item: SceneItem) -> None:
        """Once for each file: that it has the bands and the scene's grid."""
        key = (scene.name, asset.name)
        if key in self._checked:
            return
        header = self._image_header(path, asset, item)
        unlike = difference(grid, header)
        if unlike and scene.labels is not None and scene.labels.name == grid.name:
            raise LabelError(_unlike_labels(scene, unlike))
        if unlike:
            raise SourceError(f"scene {scene.name}: {unlike}. All images of a scene must have one grid; take one out")
        self._checked.add(key)

    def _read(self, window: Window, scene: Scene, item: SceneItem) -> Chip:
        grid = self._grid(scene)
        at = reach(window, grid.width, grid.height)
        parts: list[Pixels] = []
        for asset in self._files(item):
            path = asset.path()
            self._check(scene, grid, path, asset, item)
            bands, count = ([1], 1) if self._single(item) else (self._positions(), len(self._file_bands))
            parts.append(self._images.read(path, asset.name, at.columns, at.rows, bands, count, self._nodata))
        return chip_of(parts, at.beyond)

    def _positions(self) -> list[int]:
        return [self._file_bands.index(band) + 1 for band in self.bands]

    def _layer(self, window: Window, scene: Scene, asset: Asset) -> NDArray[Any]:
        grid = self._grid(scene)
        at = reach(window, grid.width, grid.height)
        path = asset.path()
        header = self._images.header(path, asset.name)
        unlike = difference(grid, header, same_size=False)
        if unlike:
            raise SourceError(f"scene {scene.name}: {unlike}. A layer must cover the ground of its scene")
        columns, rows = scaled(at.columns, grid.width, header.width), scaled(at.rows, grid.height, header.height)
        layer: NDArray[Any] = self._images.read(path, asset.name, columns, rows, [1]).values[0]
        return layer


@dataclass(eq=False)
class SceneLook:
    """One item of a scene, seen through a window; a :class:`tasks.samples.window.Look`."""

    id: str
    acquired_at: int | None
    _source: SceneSource
    _window: Window
    _scene: Scene
    _item: SceneItem

    def read(self) -> Chip:
        """The recipe's bands; what lies outside the scene is mirrored.

        Raises WindowReadError, SourceError, LabelError when labels and image do not fit together.
        """
        return self._source._read(self._window, self._scene, self._item)

    def layer(self, name: str) -> NDArray[Any] | None:
        """The layer's values (y, x) on the window's grid, None when the item has no such layer. Raises as read."""
        asset = self._item.assets.get(name)
        return None if asset is None else self._source._layer(self._window, self._scene, asset)


def look_names(items: Sequence[SceneItem]) -> list[str]:
    """A name for each item of a scene that may stand in a sample's: its date where each has its own, else its id."""
    dates = [_day(item.acquired_at) for item in items]
    if len(set(dates)) == len(dates) and "" not in dates:
        return dates
    names = [safe_name(item.id) for item in items]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SourceError(f"imagery: two images of one scene are both named {twice[0]}; rename one")
    return names


def chip_of(parts: Sequence[Pixels], beyond: NDArray[np.bool_]) -> Chip:
    """One chip of the parts' bands, of uint8, uint16, int16 or float32; complex numbers become their amplitude.

    A pixel of whole numbers has no data where all bands lack it, since 0 or 255 in one band may be a colour. A pixel
    of floating numbers has none where any band lacks it, and such values become 0. ``beyond`` (y, x) is mirrored.
    """
    values = [_plain(part.values) for part in parts]
    image = values[0] if len(values) == 1 else np.concatenate(values)
    if image.dtype.name not in IMAGE_TYPES:
        image = image.astype(np.int16 if image.dtype == np.int8 else np.float32, copy=False)
    padded = beyond if beyond.any() else None
    if image.dtype.kind != "f" and any(part.missing is None for part in parts):
        return Chip(image, np.zeros(beyond.shape, dtype=np.bool_), padded=padded)
    missing = np.concatenate([np.zeros(p.values.shape, bool) if p.missing is None else p.missing for p in parts])
    if image.dtype.kind != "f":
        return Chip(image, missing.all(axis=0) & ~beyond, padded=padded)
    missing |= ~np.isfinite(image)
    if missing.any():
        image = np.where(missing, np.float32(0), image)
    return Chip(image, missing.any(axis=0) & ~beyond, padded=padded)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "c":
        values = np.abs(values)
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is nodata
        return values.astype(np.float32, copy=False)


def _window(scene: Scene, grid: Header, one: Placed, group: str) -> Window:
    georeference = None
    if grid.georeference is not None:
        a, b, c, d, e, f = grid.georeference.transform
        x, y = a * one.column + b * one.row + c, d * one.column + e * one.row + f
        georeference = Georeference(grid.georeference.crs, (a, b, x, d, e, y))
    name = window_name(scene.name, *(one.at or (None, None)))
    return Window(name, scene.name, group, one.column, one.row, one.width, one.height, georeference)


def _day(seconds: int | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d")


def _unlike_labels(scene: Scene, unlike: str) -> str:
    return f"labels: scene {scene.name}: {unlike}. Warp the label raster onto the image's grid, or name the right file"
