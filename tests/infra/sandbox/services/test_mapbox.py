"""The tile protocol: what a client of Mapbox's raster tiles meets."""

import io
import time

import pytest
import requests
from PIL import Image

from infra.sandbox.services.app import Settings
from infra.sandbox.services.mapbox import FORBIDDEN_TOKEN, SANDBOX_TOKEN, RateLimit
from infra.sandbox.services.server import Running, running
from infra.sandbox.world.region import ABSENT_TILES_Z18, FIRST_TILE_Z18

X, Y = FIRST_TILE_Z18[0] + 8, FIRST_TILE_Z18[1] + 8


def get(server: Running, path: str, token: str = SANDBOX_TOKEN, **headers: str) -> requests.Response:
    return requests.get(f"{server.url}{path}", params={"access_token": token}, headers=headers, timeout=10)


@pytest.mark.parametrize("tileset", ["synthetic.satellite", "mapbox.satellite", "mapbox.satellite,synthetic.satellite"])
@pytest.mark.parametrize("form", ["png", "jpg", "jpg70", "jpg90", "webp", "png32"])
def test_tile_is_jpeg_whatever_is_asked(sandbox: Running, tileset: str, form: str) -> None:
    answer = get(sandbox, f"/v4/{tileset}/18/{X}/{Y}.{form}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "image/jpeg"
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size, picture.mode) == ("JPEG", (256, 256), "RGB")
    assert b"Synthetic imagery, Tilewright sandbox" in answer.content
    assert "synthetic" in answer.headers["Server"]


def test_double_size_and_quality(sandbox: Running) -> None:
    double = get(sandbox, f"/v4/mapbox.satellite/18/{X}/{Y}@2x.jpg")
    assert Image.open(io.BytesIO(double.content)).size == (512, 512)
    sizes = [len(get(sandbox, f"/v4/mapbox.satellite/18/{X}/{Y}.{form}").content) for form in ("jpg70", "jpg", "jpg90")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize(
    ("path", "token", "status", "message"),
    [
        (f"/v4/mapbox.satellite/18/{X}/{Y}.png", "", 401, "Not Authorized - No Token"),
        (f"/v4/mapbox.satellite/18/{X}/{Y}.png", "pk.wrong-token", 401, "Not Authorized - Invalid Token"),
        (f"/v4/mapbox.satellite/18/{X}/{Y}.png", FORBIDDEN_TOKEN, 403, "Forbidden"),
        (f"/v4/mapbox.sattelite/18/{X}/{Y}.png", SANDBOX_TOKEN, 404, "Tileset mapbox.sattelite does not exist"),
        ("/v4/mapbox.satellite/18/5/7.png", SANDBOX_TOKEN, 404, "Tile not found"),
        ("/v4/mapbox.satellite/31/5/7.png", SANDBOX_TOKEN, 422, "Zoom level must be between 0-30."),
        ("/v4/mapbox.satellite/-1/5/7.png", SANDBOX_TOKEN, 422, "Zoom level must be between 0-30."),
        (
            f"/v4/mapbox.satellite/18/{X}/{Y}.jpg55",
            SANDBOX_TOKEN,
            422,
            "Invalid quality value 55 for raster format jpg",
        ),
        (f"/v4/mapbox.satellite/18/{X}/{Y}.gif", SANDBOX_TOKEN, 404, "Not Found"),
    ],
)
def test_errors(sandbox: Running, path: str, token: str, status: int, message: str) -> None:
    answer = get(sandbox, path, token)
    assert (answer.status_code, answer.json()) == (status, {"message": message})


def test_absent_tiles(sandbox: Running) -> None:
    for x, y in ABSENT_TILES_Z18:
        answer = get(sandbox, f"/v4/mapbox.satellite/18/{x}/{y}.jpg")
        assert (answer.status_code, answer.json()["message"]) == (404, "Tile not found")


def test_caching_headers(sandbox: Running) -> None:
    path = f"/v4/mapbox.satellite/19/{2 * X}/{2 * Y}.jpg"
    first = get(sandbox, path)
    assert first.headers["Cache-Control"] == "max-age=43200,s-maxage=300"
    again = get(sandbox, path, **{"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = get(sandbox, path, **{"If-None-Match": '"another"'})
    assert (other.status_code, other.content) == (200, first.content)


def test_rate_limit_headers_and_429() -> None:
    with running(Settings(rate_limit=3, rate_interval=3600)) as server:
        answers = [get(server, f"/v4/mapbox.satellite/18/{X}/{Y}.jpg") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    for answer in answers:
        assert answer.headers["X-Rate-Limit-Interval"] == "3600"
        assert answer.headers["X-Rate-Limit-Limit"] == "3"
        assert 0 <= int(answer.headers["X-Rate-Limit-Reset"]) - time.time() <= 3600
    assert answers[-1].json() == {"message": "Too Many Requests"}


def test_rate_limit_begins_anew_with_each_interval() -> None:
    now = [100.0]
    limit = RateLimit(2, 10, clock=lambda: now[0])
    assert [limit.admit() for _ in range(3)] == [True, True, False]
    assert limit.headers()["X-Rate-Limit-Reset"] == "110"
    now[0] = 110.0
    assert [limit.admit() for _ in range(3)] == [True, True, False]
