"""Windows of scenes: cut from the scenes' headers, read part by part, with the layers that say what is cloud."""

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tasks.errors import AreaError, LabelError, SourceError, WindowReadError
from tasks.geo.georeference import Georeference
from tasks.imagery.protocol import IMAGE_TYPES, Acquisition, Chip, in_image_type
from tasks.raster.files import MAX_READ_BYTES, Pixels, Rasters, bytes_of
from tasks.raster.grids import Header, difference, reach, scaled
from tasks.raster.scene import IMAGE, Asset, LocalAsset, Scene, SceneItem
from tasks.recipe.model import Recipe
from tasks.recipe.sources import MlhubImagery, RasterLabels, SceneImagery, ScenesImagery
from tasks.samples.groups import HELD_OUT, named_splits
from tasks.samples.patches import Placed, block_of, hold_out, place
from tasks.samples.window import Window, of_item, ranked, safe_name
from tasks.web.client import Client

HEADER_THREADS = 4


class _Listed(NamedTuple):
    scenes: list[Scene]  # by name
    usable: dict[str, Scene]  # with those items alone that have all bands, oldest first


class SceneCatalogue:
    """The windows of scenes and their items; a :class:`tasks.imagery.protocol.Catalogue`.

    Scenes are listed, or downloaded, once, when they are first needed. Bands come from an item's assets of their
    names, or from its one image file. Items that lack a band are left out.
    """

    def __init__(self, recipe: Recipe, find: Callable[[], Sequence[Scene]], client: Client | None = None) -> None:
        """Windows as ``recipe`` says, of the scenes that ``find`` finds; ``client`` is what fetches their files."""
        imagery = recipe.imagery
        assert isinstance(imagery, SceneImagery)
        self.bands = tuple(imagery.bands)
        self.remote = isinstance(imagery, MlhubImagery) and imagery.reader == "source-coop"
        self._imagery, self._splits, self._cap = imagery, recipe.splits, recipe.limits.max_tiles
        self._alignable = isinstance(recipe.labels, RasterLabels)
        self._aligned = isinstance(recipe.labels, RasterLabels) and recipe.labels.align == "nearest"
        self._file_bands = tuple(imagery.file_bands or imagery.bands)
        self._nodata = imagery.nodata if isinstance(imagery, ScenesImagery) else None
        self._find, self._client = find, client
        self._listed: _Listed | None = None
        self._images, self._labels = Rasters(SourceError), Rasters(LabelError)
        self._grids: dict[str, Header] = {}
        self._firsts: dict[str, Header] = {}  # of each scene its first image, where it was looked at
        self._typed: Header | None = None  # the image whose type all others must have
        self._checked: set[tuple[str, str]] = set()  # scene and file of which the grid was compared
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Nothing is open before it is asked for."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    @property
    def requests(self) -> int:
        """Sent over HTTP so far."""
        return self._client.requests if self._client else 0

    def windows(self) -> tuple[list[Window], dict[str, int]]:
        """Every window, scene by scene, date by date where each is a sample, row by row; and what has none, by why.

        Reads headers only: of the label raster where there is one, and of imagery that is on this machine. Raises
        SourceError when no scene has the bands, a file does not fit or two have not one type, LabelError when labels
        do not fit the imagery, AreaError when headers promise far more windows than ``limits.max_tiles``.
        """
        every, known = self._known()
        if not (usable := [scene for scene in known.values() if scene.items]):
            raise SourceError(self._no_bands())
        with ThreadPoolExecutor(HEADER_THREADS, "headers") as pool:
            grids = list(pool.map(self._grid, usable))
        left_out: Counter[str] = Counter()
        windows: list[Window] = []
        for scene, grid in zip(usable, grids, strict=True):
            if (first := self._firsts.get(scene.name)) and self._whole(scene.items[0]):
                self._one_type(first)
            self._see_room(scene, grid, len(windows))
            windows += self._cut(scene, grid, left_out)
        left_out["scenes without all bands"] = len(every) - len(usable)
        return windows, dict(+left_out)

    def scenes(self) -> list[Scene]:
        """All scenes, by name; with their sizes where labels are to be aligned to them."""
        known = self._known()
        if not self._aligned:
            return known.scenes
        return [
            self._sized(known.usable[scene.name]) if known.usable[scene.name].items else scene for scene in known.scenes
        ]

    def _sized(self, scene: Scene) -> Scene:
        grid = self._grid(scene)
        return replace(scene, size=(grid.width, grid.height))

    def acquisitions(self, window: Window) -> Sequence[Acquisition]:
        """The items of the window's scene that have all bands, oldest first. Raises SourceError, LabelError."""
        if (scene := self._known().usable.get(window.scene)) is None:
            raise SourceError(f"window {window.name}: there is no scene {window.scene} any more; run plan again")
        named = zip(scene.items, item_names(scene.items), strict=True)
        return [SceneAcquisition(self, window, scene, item) for item, name in named if window.item in ("", name)]

    def fingerprints(self) -> dict[str, str]:
        """Of every scene with images on this machine: their sizes and times."""
        found = {}
        for scene in self._known().scenes:
            assets = [asset for item in scene.items for asset in item.assets.values()]
            if files := sorted((str(one.file), _stat(one)) for one in assets if isinstance(one, LocalAsset)):
                text = " ".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
                found[scene.name] = hashlib.sha256(text.encode()).hexdigest()
        return found

    def close(self) -> None:
        """Let files and connections go."""
        self._images.close()
        self._labels.close()
        if self._client is not None:
            self._client.close()

    def _known(self) -> _Listed:
        with self._lock:
            if self._listed is None:
                scenes = sorted(self._find(), key=lambda scene: scene.name)
                self._listed = _Listed(scenes, {scene.name: self._usable(scene) for scene in scenes})
            return self._listed

    def _usable(self, scene: Scene) -> Scene:
        items = [item for item in scene.items if self._files(item)]
        items.sort(key=lambda item: (item.acquired_at is None, item.acquired_at or 0, item.id))
        return replace(scene, items=tuple(items))

    def _files(self, item: SceneItem) -> list[Asset]:
        """The files that hold the bands: one of each, or one of them all; none when a band is missing."""
        if self._single(item):
            return [item.assets[band] for band in self.bands]
        return [item.assets[IMAGE]] if IMAGE in item.assets and set(self.bands) <= set(self._file_bands) else []

    def _single(self, item: SceneItem) -> bool:
        return all(band in item.assets for band in self.bands)

    def _whole(self, item: SceneItem) -> bool:
        """Whether one file is the image, so that its type is the image's."""
        return len(self.bands) == 1 or not self._single(item)

    def _no_bands(self) -> str:
        if not (scenes := self._known().scenes):
            return "imagery: there are no scenes"
        if not (items := [item for scene in scenes for item in scene.items]):
            return (
                f"imagery: none of the {len(scenes)} scenes has an image, among them {scenes[0].name}; "
                "put the imagery where the labels are (of an MLHub dataset the source collection's files or archive)"
            )
        held = sorted({key for item in items for key in item.assets if key != IMAGE})
        if any(IMAGE in item.assets for item in items):
            held += self._file_bands
        lacking = ", ".join(band for band in self.bands if band not in held) or f"all of {', '.join(self.bands)}"
        return (
            f"imagery.bands: no image has {lacking}; there are {', '.join(held) or 'none'}. "
            "Name the bands of a file that holds several in imagery.file_bands"
        )

    def _grid(self, scene: Scene) -> Header:
        """Size and place of the scene: of its label raster where there is one, of its image where that is aligned."""
        if scene.name in self._grids:
            return self._grids[scene.name]
        first = self._files(scene.items[0])[0]
        try:
            image = None
            if scene.labels is None or isinstance(first, LocalAsset) or self._aligned:
                image = self._firsts[scene.name] = self._image_header(first.path(), first, scene.items[0])
            label = self._labels.header(scene.labels.path(), scene.labels.name) if scene.labels else None
        except WindowReadError as error:
            raise SourceError(f"scene {scene.name}: its size cannot be learnt ({error}); run the same again") from None
        aligned = self._aligned and image and image.georeference and label and label.georeference
        if image and label and not aligned and (unlike := difference(image, label)):
            raise LabelError(self._unlike_labels(scene, unlike, image, label))
        grid = image if self._aligned else label or image
        assert grid is not None
        if grid.georeference is None and image is not None:
            grid = grid._replace(georeference=image.georeference)
        self._grids[scene.name] = grid
        return grid

    def _image_header(self, path: Path, asset: Asset, item: SceneItem) -> Header:
        header, single = self._images.header(path, asset.name), self._single(item)
        if (1 if single else len(self._file_bands)) not in (header.bands, header.colours):
            what = "its name stands for one" if single else f"the recipe names {', '.join(self._file_bands)}"
            advice = "list the names of all its bands, in their order, in imagery.file_bands"
            if header.palette:
                advice = "its numbers stand for colours of a table; write those as bands (gdal_translate -expand rgb)"
            raise SourceError(f"{asset.name}: has {header.bands} bands, {what}; {advice}")
        return header

    def _one_type(self, header: Header) -> None:
        """See that an image has the type of those before it."""
        if self._typed is None:
            self._typed = header
        if image_type(header.dtype) != image_type(self._typed.dtype):
            raise SourceError(
                f"{header.name}: is {header.dtype}, {self._typed.name} is {self._typed.dtype}; all images of a dataset "
                "have one type. Convert one of them (rio convert --dtype ...), or take it out of imagery.images"
            )

    def _see_room(self, scene: Scene, grid: Header, before: int) -> None:
        """See that a header does not promise more windows, or more pixels in one of them, than there is room for."""
        patches = self._imagery.windows
        side = patches.size or max(grid.width, grid.height)
        across, down = (max(0, extent - side) // patches.step + 1 if patches.size else 1 for extent in grid[1:3])
        if before + across * down > 2 * self._cap:  # twice, for a holdout leaves some out
            raise AreaError(
                f"scene {scene.name} is {grid.width}x{grid.height} pixels, which makes {before + across * down:,} "
                f"windows or more, over limits.max_tiles {self._cap:,}; take fewer scenes or a larger stride, or raise "
                "limits.max_tiles"
            )
        width, height = (patches.size, patches.size) if patches.size else grid[1:3]
        first = self._firsts.get(scene.name)
        size = width * height * len(self.bands) * (bytes_of(first.dtype) if first else 1)
        if size > MAX_READ_BYTES:
            raise SourceError(
                f"scene {scene.name}: a window of {width}x{height} pixels takes {size >> 20:,} MiB, over "
                f"{MAX_READ_BYTES >> 20:,}; set imagery.windows.size to fewer pixels"
            )

    def _cut(self, scene: Scene, grid: Header, left_out: Counter[str]) -> list[Window]:
        patches, splits = self._imagery.windows, self._splits
        placed = place(grid.width, grid.height, patches)
        groups = [scene.group] * len(placed)
        if splits.by == "block":
            blocks = (block_of(one, patches, splits.block_side) for one in placed)
            groups = [f"{scene.name}/{row}-{column}" for row, column in blocks]
        elif splits.holdout and not named_splits([scene.name], splits.groups):
            sides = hold_out(placed, grid.width, grid.height, splits.holdout, splits.seed, scene.name)
            left_out["windows astride a holdout"] += sides.count(None)
            left_out["scenes too small for a holdout"] += True not in sides
            placed = [one for one, side in zip(placed, sides, strict=True) if side is not None]
            groups = [scene.name + HELD_OUT * side for side in sides if side is not None]
        windows = [_window(scene, grid, one, group) for one, group in zip(placed, groups, strict=True)]
        dates = self._imagery.dates
        if dates.pick == "all":
            return [of_item(window, name) for name in item_names(scene.items) for window in windows]
        return [one for window in windows for one in ranked(window, dates.count)[: len(scene.items)]]

    def _check(self, scene: Scene, grid: Header, path: Path, asset: Asset, item: SceneItem) -> None:
        """Once for each file: that it has the bands and the scene's grid."""
        if (scene.name, asset.name) in self._checked:
            return
        header = self._image_header(path, asset, item)
        if scene.labels is not None and scene.labels.name == grid.name:
            if unlike := difference(header, grid):
                raise LabelError(self._unlike_labels(scene, unlike, header, grid))
        elif unlike := difference(grid, header):
            raise SourceError(f"scene {scene.name}: {unlike}. All images of a scene must have one grid; take one out")
        if self._whole(item):
            self._one_type(header)
        self._checked.add((scene.name, asset.name))

    def _unlike_labels(self, scene: Scene, unlike: str, image: Header, label: Header) -> str:
        advice = "Warp the label raster onto the image's grid, or name the right file"
        if self._alignable and image.georeference and label.georeference:
            advice = "Set labels.align: nearest, warp the label raster onto the image's grid, or name the right file"
        return f"labels: scene {scene.name}: {unlike}. {advice}"

    def _read(self, window: Window, scene: Scene, item: SceneItem) -> Chip:
        grid = self._grid(scene)
        at = reach(window, grid.width, grid.height)
        held = 1 if self._single(item) else len(self._file_bands)
        bands = [1] if held == 1 else [self._file_bands.index(band) + 1 for band in self.bands]
        parts: list[Pixels] = []
        for asset in self._files(item):
            path = asset.path()
            self._check(scene, grid, path, asset, item)
            parts.append(self._images.read(path, asset.name, at.columns, at.rows, bands, held, self._nodata))
        return chip_of(parts, at.beyond, f"scene {scene.name}, image {item.id}")

    def _layer(self, window: Window, scene: Scene, asset: Asset) -> NDArray[Any]:
        grid = self._grid(scene)
        at = reach(window, grid.width, grid.height)
        path = asset.path()
        header = self._images.header(path, asset.name)
        if unlike := difference(grid, header, same_size=False):
            raise SourceError(f"scene {scene.name}: {unlike}. A layer must cover the ground of its scene")
        columns, rows = scaled(at.columns, grid.width, header.width), scaled(at.rows, grid.height, header.height)
        return self._images.read(path, asset.name, columns, rows, [1]).values.squeeze(axis=0)


class SceneAcquisition:
    """One window of one item of a scene; a :class:`tasks.imagery.protocol.Acquisition`."""

    def __init__(self, catalogue: SceneCatalogue, window: Window, scene: Scene, item: SceneItem) -> None:
        self.id, self.acquired_at = item.id, item.acquired_at
        self._catalogue, self._window, self._scene, self._item = catalogue, window, scene, item

    def read(self) -> Chip:
        """The recipe's bands; what lies outside the scene is mirrored.

        Raises WindowReadError, SourceError, LabelError when labels and image do not fit together.
        """
        return self._catalogue._read(self._window, self._scene, self._item)

    def layer(self, name: str) -> NDArray[Any] | None:
        """The layer's values (y, x) on the window's grid, None when the item has no such layer. Raises as read."""
        asset = self._item.assets.get(name)
        return None if asset is None else self._catalogue._layer(self._window, self._scene, asset)


def item_names(items: Sequence[SceneItem]) -> list[str]:
    """A name for each item of a scene that may stand in a sample's: its date where each has its own, else its id."""
    dates = [_day(item.acquired_at) for item in items]
    if len(set(dates)) == len(dates) and "" not in dates:
        return dates
    names = [safe_name(item.id) for item in items]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SourceError(f"imagery: two images of one scene are both named {twice[0]}; rename one")
    return names


def chip_of(parts: Sequence[Pixels], beyond: NDArray[np.bool_], name: str) -> Chip:
    """One chip of the parts' bands, of uint8, uint16, int16 or float32; complex numbers become their amplitude.

    A pixel of whole numbers has no data where all bands lack it, since 0 or 255 in one band may be a colour. A pixel
    of floating numbers has none where any band lacks it, and such values become 0. ``beyond`` (y, x) is mirrored.
    Raises SourceError, which begins with ``name``, for whole numbers that no image can keep.
    """
    values = [in_image_type(_plain(part.values), name, part.missing) for part in parts]
    image = in_image_type(values[0] if len(values) == 1 else np.concatenate(values), name)
    whole = image.dtype.kind != "f"
    if whole and any(part.missing is None for part in parts):
        nodata = np.zeros(beyond.shape, dtype=np.bool_)
    else:
        missing = np.concatenate([np.zeros(p.values.shape, bool) if p.missing is None else p.missing for p in parts])
        if not whole:
            missing |= ~np.isfinite(image)
            if missing.any():
                image = np.where(missing, np.float32(0), image)
        nodata = (missing.all(axis=0) if whole else missing.any(axis=0)) & ~beyond
    return Chip(image, nodata, padded=beyond if beyond.any() else None)


def image_type(dtype: str) -> str:
    """The type that images of a file's type are stored in; see :func:`tasks.imagery.protocol.in_image_type`."""
    return dtype if dtype in IMAGE_TYPES else "int16" if dtype == "int8" else "float32"


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return np.abs(values) if values.dtype.kind == "c" else values


def _window(scene: Scene, grid: Header, one: Placed, group: str) -> Window:
    georeference = None
    if grid.georeference is not None:
        a, b, c, d, e, f = grid.georeference.transform
        x, y = a * one.column + b * one.row + c, d * one.column + e * one.row + f
        georeference = Georeference(grid.georeference.crs, (a, b, x, d, e, y))
    name = scene.name if one.at is None else f"{scene.name}/{one.at[0]}-{one.at[1]}"  # of a window its row and column
    return Window(name, scene.name, group, one.column, one.row, one.width, one.height, georeference)


def seconds_of(day: str) -> int | None:
    """Unix seconds of the beginning of a day (YYYYMMDD), UTC; None when there is no such day."""
    try:
        return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _day(seconds: int | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d")


def _stat(asset: LocalAsset) -> os.stat_result:
    try:
        return asset.file.stat()
    except OSError as error:
        raise SourceError(f"{asset.name}: cannot be looked at ({error.strerror}); put it back, or run again") from None
