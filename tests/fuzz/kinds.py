"""All kinds, by name."""

from random import Random

from tests.fuzz import catalogues, maps, pictures, texts
from tests.fuzz.case import Case, Kind
from tests.fuzz.found import FOUND

KINDS: dict[str, Kind] = {
    "recipe": texts.RECIPES,
    "set": texts.SETTINGS,
    "training": texts.CONFIGS,
    "tile-list": texts.TILE_LISTS,
    "geojson": maps.GEOJSON,
    "table": maps.TABLES,
    "area": maps.AREAS,
    "polygons": maps.POLYGONS,
    "place": maps.PLACES,
    "pbf": maps.EXTRACTS,
    "overpass": maps.ANSWERS,
    "stac": catalogues.STATIC,
    "stac-search": catalogues.SEARCHES,
    "mlhub": catalogues.MLHUB,
    "listing": catalogues.LISTINGS,
    "archive": catalogues.ARCHIVES,
    "tile": pictures.TILES,
    "raster": pictures.RASTERS,
    "scene": pictures.SCENES,
    "model": pictures.MODELS,
}


def case_of(kind: str, seed: int, number: int) -> Case:
    """A case, the same on every machine. The first ones of a kind are those that were found once, whatever the seed."""
    found = FOUND.get(kind, ())
    return found[number] if number < len(found) else KINDS[kind].make(Random(f"{kind} {seed} {number}"))
