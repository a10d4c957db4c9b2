import pytest

from tasks.errors import CredentialError, RecipeError, SourceError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.source import tile_server
from tasks.web.exchange import USER_AGENT
from tests.tasks.raster.pictures import recipe

NO_DATA = b'<ExceptionReport><Exception exceptionCode="Not Found">No data found</Exception></ExceptionReport>'


def test_requests_are_wmts_key_values_on_the_slippy_map_grid() -> None:
    source = tile_server(recipe({"source": "ign", "layer": "ORTHOIMAGERY.ORTHOPHOTOS2024"}))
    request = source.request(Tile(18, 132814, 90172))
    assert request.url == (
        "https://data.geopf.fr/wmts?SERVICE=WMTS&REQUEST=GetTile&VERSION=1.0.0&LAYER=ORTHOIMAGERY.ORTHOPHOTOS2024"
        "&STYLE=normal&FORMAT=image/jpeg&TILEMATRIXSET=PM&TILEMATRIX=18&TILEROW=90172&TILECOL=132814"
    )
    assert request.headers == {"User-Agent": USER_AGENT}


def test_no_data_found_is_absent_in_any_case() -> None:
    source = tile_server(recipe({"source": "ign"}))
    assert source.is_absent(404, NO_DATA)
    assert source.is_absent(404, b"NO DATA FOUND")
    assert not source.is_absent(404, b"Tile not found")
    assert not source.is_absent(400, NO_DATA)


def test_refusals() -> None:
    source = tile_server(recipe({"source": "ign", "layer": "NO.SUCH"}))
    error = source.explain_refusal(400, b"<E>LAYER unknown</E>", source.request(Tile(1, 0, 1)).url)
    assert isinstance(error, SourceError)
    assert "answered HTTP 400 (LAYER unknown); check imagery.layer (NO.SUCH)" in str(error)
    closed = source.explain_refusal(403, b"", source.request(Tile(1, 0, 1)).url)
    assert isinstance(closed, CredentialError)
    assert "NO.SUCH is not open to all" in str(closed)


def test_zoom_and_tile_size_it_does_not_serve() -> None:
    with pytest.raises(RecipeError, match=r"grid\.zoom: ign has imagery up to zoom 19, the recipe asks for 20"):
        tile_server(recipe({"source": "ign"}, zoom=20))
    with pytest.raises(RecipeError, match=r"grid\.tile_size: ign serves 256 px tiles only \(got 512\)"):
        tile_server(recipe({"source": "ign"}, tile_size=512))
