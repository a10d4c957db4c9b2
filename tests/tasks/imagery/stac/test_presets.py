"""What imagery.api stands for."""

from pathlib import Path

import pytest

from tasks.errors import SourceError
from tasks.imagery.stac.presets import PRESETS, endpoint_of


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_has_its_url_and_the_environment_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = endpoint_of(name, Path)
    assert endpoint.href.startswith("https://")
    assert endpoint.remote
    assert endpoint.signed == (name == "planetary-computer")
    monkeypatch.setenv(PRESETS[name].env, "http://127.0.0.1:1/stac")
    assert endpoint_of(name, Path).href == "http://127.0.0.1:1/stac"
    assert endpoint_of(name, Path).signed == endpoint.signed


def test_the_planetary_computer_is_known_by_its_url_too() -> None:
    assert endpoint_of("https://planetarycomputer.microsoft.com/api/stac/v1/", Path).signed
    assert not endpoint_of("https://example.org/api/stac/v1/", Path).signed


def test_s3_of_the_copernicus_data_space_is_its_own_unless_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert endpoint_of("cdse", Path).gdal["AWS_S3_ENDPOINT"] == "eodata.dataspace.copernicus.eu"
    monkeypatch.setenv("AWS_S3_ENDPOINT", "127.0.0.1:9000")
    assert endpoint_of("cdse", Path).gdal["AWS_S3_ENDPOINT"] == "127.0.0.1:9000"


def test_a_folder_stands_for_its_catalogue(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds neither catalog.json nor collection.json"):
        endpoint_of(".", lambda path: tmp_path / path)
    (tmp_path / "collection.json").touch()
    endpoint = endpoint_of(".", lambda path: tmp_path / path)
    assert endpoint.href.endswith("collection.json")
    assert not endpoint.remote


@pytest.mark.parametrize(
    ("api", "says"),
    [
        ("earth-serch", "there is no file .*one of planetary-computer, earth-search, cdse"),
        ("s3://bucket/catalog.json", r"expected an http\(s\) URL, a path, or one of"),
    ],
)
def test_what_is_neither_is_an_error(tmp_path: Path, api: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        endpoint_of(api, lambda path: tmp_path / path)
