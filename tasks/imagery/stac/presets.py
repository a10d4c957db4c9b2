"""Catalogues by name, and where a recipe's ``imagery.api`` leads."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import SourceError
from tasks.recipe.tokens import filled
from tasks.secrets import redact


@dataclass(frozen=True)
class Endpoint:
    """Where a catalogue is: a URL, or a file on this machine."""

    href: str
    remote: bool
    signed: bool = False  # assets need a token of the Planetary Computer
    gdal: Mapping[str, str] = field(default_factory=dict)  # GDAL's options for its assets
    env: str = ""  # the environment variable that overrides a preset's URL

    @property
    def name(self) -> str:
        """The URL or path for messages, tokens removed."""
        return redact(self.href)


_PC, _ENV = "https://planetarycomputer.microsoft.com/api/stac/v1", "TILEWRIGHT_STAC"
_CDSE_S3 = {"AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu", "AWS_VIRTUAL_HOSTING": "FALSE"}
PRESETS: Mapping[str, Endpoint] = {
    "planetary-computer": Endpoint(_PC, True, signed=True, env=f"{_ENV}_PLANETARY_COMPUTER"),
    # The buckets of its collections are public, or sell by the request to whom AWS_REQUEST_PAYER says so.
    "earth-search": Endpoint("https://earth-search.aws.element84.com/v1", True, env=f"{_ENV}_EARTH_SEARCH"),
    "cdse": Endpoint("https://stac.dataspace.copernicus.eu/v1", True, gdal=_CDSE_S3, env=f"{_ENV}_CDSE"),
}


def endpoint_of(api: str, resolve: Callable[[str], Path]) -> Endpoint:
    """What ``imagery.api`` stands for: a preset's name, a URL, or a path (``resolve`` makes it absolute).

    A folder stands for the ``catalog.json`` or ``collection.json`` in it. What the environment says about S3 wins
    over a preset. Raises SourceError.
    """
    if preset := PRESETS.get(api):
        gdal = {key: os.environ.get(key, value) for key, value in preset.gdal.items()}
        return replace(preset, href=os.environ.get(preset.env) or preset.href, gdal=gdal)
    scheme = urlsplit(api).scheme.lower()
    if scheme in ("http", "https"):
        signed = any(p.signed and urlsplit(p.href).netloc == urlsplit(api).netloc for p in PRESETS.values())
        return Endpoint(filled(api, "imagery.api"), True, signed)
    if "://" in api:
        raise SourceError(f"imagery.api {redact(api)}: expected an http(s) URL, a path, or one of {', '.join(PRESETS)}")
    path = resolve(api)
    if path.is_dir():
        if not (inside := [path / name for name in ("catalog.json", "collection.json") if (path / name).is_file()]):
            raise SourceError(f"{path}: holds neither catalog.json nor collection.json; name the file in imagery.api")
        path = inside[0]
    if not path.is_file():
        raise SourceError(
            f"imagery.api {api}: there is no file {path}; expected the path of a static catalogue, an http(s) URL, "
            f"or one of {', '.join(PRESETS)}"
        )
    return Endpoint(str(path), False)
