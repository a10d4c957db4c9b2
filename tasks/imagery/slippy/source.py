"""Imagery sources by name: one entry in the registry makes a new one known."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tasks.errors import RecipeError, TermsError
from tasks.imagery.slippy.ign import ign_source
from tasks.imagery.slippy.mapbox import mapbox_source
from tasks.imagery.slippy.protocol import TileRequest, TileSource
from tasks.imagery.slippy.xyz import xyz_source
from tasks.recipe.load import MapboxImagery, Recipe

__all__ = ["TermsRecord", "TileRequest", "TileSource", "check_terms", "tile_source"]

TERMS_ENV = "TILEWRIGHT_ACCEPT_TERMS"  # comma-separated source names, or "all"
MAPBOX_TERMS_URL = "https://www.mapbox.com/legal/tos"
MAPBOX_PRODUCT_TERMS_URL = "https://www.mapbox.com/legal/product-terms"

_SOURCES: Mapping[str, Callable[[Recipe], TileSource]] = {
    "xyz": xyz_source,
    "mapbox": mapbox_source,
    "ign": ign_source,
}


@dataclass(frozen=True)
class TermsRecord:
    """That, how and when the user accepted a source's terms."""

    source: str
    accepted_by: str  # "recipe" or "environment"
    accepted_at: str  # ISO 8601, UTC
    terms_url: str


def check_terms(recipe: Recipe) -> TermsRecord | None:
    """The acceptance of the source's terms, or None when it has none to accept.

    Raises TermsError when they are not accepted.
    """
    imagery = recipe.imagery
    if not isinstance(imagery, MapboxImagery):
        return None
    named = {name.strip().lower() for name in os.environ.get(TERMS_ENV, "").split(",")}
    if imagery.accept_terms:
        accepted_by = "recipe"
    elif named & {"mapbox", "all"}:
        accepted_by = "environment"
    else:
        raise TermsError(
            "imagery.accept_terms: Mapbox's terms restrict downloading, caching and storing its imagery and deriving "
            f"data from it, which is what a build does. Read {MAPBOX_TERMS_URL} and {MAPBOX_PRODUCT_TERMS_URL}; when "
            f"your use is allowed, set imagery.accept_terms: true in the recipe, or {TERMS_ENV}=mapbox in the "
            "environment. The source ign needs no such thing"
        )
    return TermsRecord(
        source=imagery.source,
        accepted_by=accepted_by,
        accepted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        terms_url=MAPBOX_PRODUCT_TERMS_URL,
    )


def tile_source(recipe: Recipe) -> TileSource:
    """The imagery source of a recipe, ready to be asked.

    Raises TermsError when its terms are not accepted, CredentialError when its token is missing, and
    RecipeError when it cannot serve the recipe's zoom or tile size.
    """
    check_terms(recipe)
    source = _SOURCES[recipe.imagery.source](recipe)
    if source.max_zoom is not None and recipe.grid.zoom > source.max_zoom:
        raise RecipeError(
            f"grid.zoom: {source.name} has imagery up to zoom {source.max_zoom}, the recipe asks for {recipe.grid.zoom}"
        )
    return source
