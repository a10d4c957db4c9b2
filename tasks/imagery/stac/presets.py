"""Catalogues by name, and where a recipe's ``imagery.api`` leads."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import SourceError
from tasks.secrets import redact


@dataclass(frozen=True)
class Preset:
    """A well-known STAC API. ``env`` names the environment variable that overrides its URL."""

    url: str
    env: str
    signed: bool = False  # assets need a token of the Planetary Computer
    gdal: Mapping[str, str] = field(default_factory=dict)  # GDAL's options for its assets


PRESETS: Mapping[str, Preset] = {
    "planetary-computer": Preset(
        "https://planetarycomputer.microsoft.com/api/stac/v1", "TILEWRIGHT_STAC_PLANETARY_COMPUTER", signed=True
    ),
    # The buckets of its collections are public, or sell by the request to whom AWS_REQUEST_PAYER says so.
    "earth-search": Preset("https://earth-search.aws.element84.com/v1", "TILEWRIGHT_STAC_EARTH_SEARCH"),
    "cdse": Preset(
        "https://stac.dataspace.copernicus.eu/v1",
        "TILEWRIGHT_STAC_CDSE",
        gdal={"AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu", "AWS_VIRTUAL_HOSTING": "FALSE"},
    ),
}


@dataclass(frozen=True)
class Endpoint:
    """Where a catalogue is: a URL, or a file on this machine."""

    href: str
    remote: bool
    signed: bool = False
    gdal: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The URL or path for messages, tokens removed."""
        return redact(self.href)


def endpoint_of(api: str, resolve: Callable[[str], Path]) -> Endpoint:
    """What ``imagery.api`` stands for: a preset's name, a URL, or a path (``resolve`` makes it absolute).

    A folder stands for the ``catalog.json`` or ``collection.json`` in it. What the environment says about S3 wins
    over a preset. Raises SourceError.
    """
    preset = PRESETS.get(api)
    if preset is not None:
        gdal = {key: os.environ.get(key, value) for key, value in preset.gdal.items()}
        return Endpoint(os.environ.get(preset.env) or preset.url, True, preset.signed, gdal)
    scheme = urlsplit(api).scheme.lower()
    if scheme in ("http", "https"):
        signed = any(p.signed and urlsplit(p.url).netloc == urlsplit(api).netloc for p in PRESETS.values())
        return Endpoint(api, True, signed)
    if "://" in api:
        raise SourceError(f"imagery.api {redact(api)}: expected an http(s) URL, a path, or one of {', '.join(PRESETS)}")
    path = resolve(api)
    if path.is_dir():
        inside = [path / name for name in ("catalog.json", "collection.json") if (path / name).is_file()]
        if not inside:
            raise SourceError(f"{path}: holds neither catalog.json nor collection.json; name the file in imagery.api")
        path = inside[0]
    if not path.is_file():
        raise SourceError(
            f"imagery.api {api}: there is no file {path}; expected the path of a static catalogue, an http(s) URL, "
            f"or one of {', '.join(PRESETS)}"
        )
    return Endpoint(str(path), False)
