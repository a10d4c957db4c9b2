"""From the recipe's area to candidate tiles."""

import hashlib
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from tasks.errors import AreaError
from tasks.geo.coverage import Codes, codes_of, distinct, named, tiles_of, tiles_over
from tasks.geo.quadtree import Squares
from tasks.geo.tiles import Tile
from tasks.recipe.model import Recipe
from tasks.recipe.parts import Area, TileCells
from tasks.samples.draw import sample_in, systematic_sample
from tasks.samples.shapes import area_shape
from tasks.samples.touched import Outlines, draw_touched, kept, touched_among, touched_in

MAX_LIST_BYTES = 256 << 20  # of a list of tiles: some 12 million lines
_READ_AT_ONCE = 16 << 20  # characters of a list
_NOT_PLAIN = re.compile(r"[^0-9/\n]")


@dataclass(frozen=True, eq=False)
class TileArea:
    """An area whose cells are tiles: a list of them, or a shape that they share more than a border with."""

    zoom: int
    listed: Squares | None
    shape: Any  # EPSG:4326; None for a list

    @property
    def name(self) -> str:
        """The same for the same area and zoom alone."""
        told = shapely.to_wkb(self.shape) if self.listed is None else codes_of(self.listed).tobytes()
        return hashlib.sha256(f"{self.zoom} ".encode() + told).hexdigest()

    def touched(self, outlines: Outlines) -> Codes:
        """The numbers of tiles around the area that a footprint touches; of a list of its own tiles alone."""
        if self.listed is None:
            return touched_in(self.shape, self.zoom, outlines)
        return touched_among(self.listed, self.zoom, outlines)


def tile_area(recipe: Recipe, work: Path) -> TileArea:
    """The area of ``recipe``, whose cells are tiles; ``work`` holds the polygon of a place once it was looked up.

    Raises AreaError when it is empty, or cannot be read or found.
    """
    area, made = recipe.area, recipe.cells
    if area is None or not isinstance(made, TileCells):
        raise TypeError("the recipe's cells are no tiles")
    check_sample(area, recipe.limits.max_tiles)
    if area.tiles is None:
        return TileArea(made.zoom, None, area_shape(recipe, work))
    cap = recipe.limits.max_tiles if area.sample is None else None
    return TileArea(made.zoom, read_tile_list(recipe.resolve(area.tiles), made.zoom, _zoom_key(recipe), cap), None)


def candidate_tiles(recipe: Recipe, work: Path) -> list[Tile]:
    """Every candidate tile of ``recipe``, whose cells are tiles: sorted, without duplicates.

    ``work`` holds the polygon of a place once it was looked up, and for a sample among buildings which tiles have one.
    Raises AreaError when the area is empty, cannot be read or found, or holds more than ``limits.max_tiles``.
    """
    place, area = tile_area(recipe, work), recipe.area
    assert area is not None
    if area.sample is None:
        chosen = place.listed
        if chosen is None:
            chosen = tiles_in(place.shape, place.zoom, recipe.limits.max_tiles, _zoom_key(recipe))
    elif area.among == "buildings":
        chosen = draw_touched(kept(work, place.name), place.shape, place.zoom, area.sample, area.seed)
    elif place.listed is not None:
        chosen = systematic_sample(place.listed, area.sample, area.seed)
    else:
        chosen = sample_in(place.shape, place.zoom, area.sample, area.seed)
    if not chosen.size:
        raise AreaError("the area is empty: no tile lies in it; check area in the recipe")
    return sorted(named(chosen, place.zoom))


def _zoom_key(recipe: Recipe) -> str:
    return "grid.zoom" if recipe.grid is not None else "imagery.cells.zoom"


def check_sample(area: Area, cap: int) -> None:
    """Raise AreaError where more cells are to be drawn than the recipe allows."""
    if area.sample is not None and area.sample > cap:
        raise AreaError(f"area.sample {area.sample:,} is over limits.max_tiles {cap:,}; lower one or raise the other")


def tiles_in(shape: Any, zoom: int, cap: int, zoom_key: str = "grid.zoom") -> Squares:
    """Tiles of ``zoom`` that share surface with ``shape``. Raises AreaError once more than ``cap`` are certain."""
    advice = f"take a smaller area, a lower {zoom_key} or area.sample, or raise limits.max_tiles"
    over_cap = f"the area holds about {{count}} tiles at zoom {zoom}, over limits.max_tiles {cap:,}; {advice}"
    return tiles_over(shape, zoom, cap, over_cap)


def read_tile_list(path: Path, zoom: int, zoom_key: str = "grid.zoom", cap: int | None = None) -> Squares:
    """Tiles of a text file with one z/x/y a line, each once; empty lines and ``#`` comments are skipped.

    Raises AreaError naming file and line, and for a list of more than ``cap``.
    """
    codes, number = np.zeros(0, dtype=np.int64), 0
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise AreaError(f"{path}: is no file; expected a text file with lines of z/x/y")
        if found.st_size > MAX_LIST_BYTES:
            raise AreaError(f"{path}: larger than {MAX_LIST_BYTES >> 20} MiB; give the area as GeoJSON, or fewer tiles")
        with path.open(encoding="utf-8-sig") as file:
            while lines := file.readlines(_READ_AT_ONCE):
                tiles = _plain(lines, zoom)
                if tiles is None:
                    tiles = _line_by_line(lines, zoom, zoom_key, path, number)
                codes, number = distinct(np.concatenate((codes, codes_of(tiles)))), number + len(lines)
                if cap is not None and len(codes) > cap:
                    raise AreaError(
                        f"{path}: lists more than limits.max_tiles {cap:,} tiles; raise it, draw some with "
                        "area.sample, or shorten the list"
                    )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise AreaError(f"{path}: the tile list cannot be read ({why}); expected lines of z/x/y") from None
    return tiles_of(codes)


def _plain(lines: list[str], zoom: int) -> Squares | None:
    """The tiles of lines that hold nothing else and no fault, a hundred times as fast as one by one; else None."""
    text = "".join(lines)
    if not text.strip() or _NOT_PLAIN.search(text):
        return None
    try:
        z, x, y = np.loadtxt(lines, dtype=np.int64, delimiter="/", ndmin=2).T
    except ValueError:
        return None
    fit = (z == zoom) & (x < 1 << zoom) & (y < 1 << zoom)
    return np.stack((x, y)) if fit.all() else None


def _line_by_line(lines: list[str], zoom: int, zoom_key: str, path: Path, before: int) -> Squares:
    """The tiles of lines, of which so many stand ``before``. Raises AreaError naming the line."""
    tiles = []
    for number, line in enumerate(lines, start=before + 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            tile = Tile.parse(text)
        except AreaError as error:
            raise AreaError(f"{path}:{number}: {error}") from None
        if tile.z != zoom:
            raise AreaError(f"{path}:{number}: tile {tile.name} is of zoom {tile.z}, the recipe's {zoom_key} is {zoom}")
        tiles.append((tile.x, tile.y))
    return np.array(tiles, dtype=np.int64).reshape(-1, 2).T
