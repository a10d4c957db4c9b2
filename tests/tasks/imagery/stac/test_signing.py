"""Tokens: late, one for each container, again when refused, and never in a log."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.sandbox.services.scripted import Reply
from tasks.errors import CredentialError, SourceError
from tasks.imagery.stac.catalogue import StacCatalogue
from tasks.imagery.stac.signing import Signer
from tasks.secrets import redact
from tasks.web.retry import RetryPolicy
from tests.support.catalogues import windows_of
from tests.support.stac_items import NORTH, SCALE, SIDE, STEP, WEST, bbox, cog, item, numbers, recipe, simple
from tests.support.stac_server import Asked, FileServer, ScriptedApi

QUICK = RetryPolicy(3, 10.0, 0.01, 0.05)
BLOB = "https://account.blob.core.windows.net/container/B04.tif"


class TokenServer(FileServer):
    """A token service; every token is another one."""

    def __init__(self, life: float = 3600.0) -> None:
        super().__init__()
        self.life, self.given = life, list[str]()
        self.handlers["/token/account/container"] = self.handlers["/token/127/1"] = self.token

    def token(self, _: Asked) -> dict[str, str]:
        self.given.append(f"topsecret{len(self.given)}")
        expiry = datetime.now(UTC) + timedelta(seconds=self.life)
        return {"token": f"se=later&sig={self.given[-1]}", "msft:expiry": expiry.isoformat().replace("+00:00", "Z")}


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    monkeypatch.delenv("PC_SDK_SUBSCRIPTION_KEY", raising=False)
    with TokenServer() as server:
        monkeypatch.setenv("PC_SDK_SAS_URL", f"{server.url}/token")
        yield server


def test_threads_share_one_token_of_a_container(tokens: TokenServer) -> None:
    signer = Signer(QUICK, 5.0)
    barrier = threading.Barrier(8)

    def sign(number: int) -> str:
        barrier.wait()
        return signer.signed(BLOB.replace("B04", f"B{number:02d}"))[0]

    with ThreadPoolExecutor(8) as pool:
        signed = list(pool.map(sign, range(8)))
    assert all(url.endswith(".tif?se=later&sig=topsecret0") for url in signed)
    assert tokens.given == ["topsecret0"]
    assert signer.requests == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/container/B04.tif",
        "https://ai4edatasetspublicassets.blob.core.windows.net/assets/thumb.png",
        f"{BLOB}?se=now&sig=theirs",
        "https://account.blob.core.windows.net/",
    ],
)
def test_other_urls_stay_as_they_are(tokens: TokenServer, url: str) -> None:
    assert Signer(QUICK, 5.0).signed(url) == (url, "")
    assert not tokens.given


def test_a_token_near_its_end_is_replaced(tokens: TokenServer, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer(QUICK, 5.0)
    tokens.life = 125.0
    signer.signed(BLOB)
    now = time.time() + 10.0
    monkeypatch.setattr("tasks.imagery.stac.signing.time", SimpleNamespace(time=lambda: now))
    assert signer.signed(BLOB)[1].endswith("topsecret1")


def test_a_token_that_comes_expired_is_used_once_and_not_asked_for_again_and_again(tokens: TokenServer) -> None:
    signer = Signer(QUICK, 5.0)
    tokens.life = -10.0
    assert signer.signed(BLOB) == signer.signed(BLOB)
    assert tokens.given == ["topsecret0"]


def test_a_refused_token_is_replaced_once_for_all_threads(tokens: TokenServer) -> None:
    signer = Signer(QUICK, 5.0)
    _, old = signer.signed(BLOB)
    signer.refused(BLOB, old)
    _, new = signer.signed(BLOB)
    signer.refused(BLOB, old)  # another thread that still had the old one
    assert signer.signed(BLOB)[1] == new != old


def test_a_token_is_known_as_secret_wherever_it_stands(tokens: TokenServer) -> None:
    Signer(QUICK, 5.0).signed(BLOB)
    assert redact(f"a server says {tokens.given[0]}!") == "a server says ***!"


@pytest.mark.parametrize("path", ["../B04.tif", "%2e%2e/B04.tif", "a b/B04.tif", "x;y/B04.tif"])
def test_what_is_no_container_is_not_asked_for(tokens: TokenServer, path: str) -> None:
    assert Signer(QUICK, 5.0).signed(f"https://account.blob.core.windows.net/{path}")[1] == ""
    assert not tokens.asked


def test_the_service_is_asked_again_as_it_says(tokens: TokenServer) -> None:
    path = "/token/account/container"
    tokens.script[path] = [Reply(429, headers={"Retry-After": "0"}), Reply(reset=True)]
    assert Signer(QUICK, 5.0).signed(BLOB)[1]
    assert len(tokens.asked_for(path)) == 3


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (Reply(403), CredentialError, "token service refused .403.; check PC_SDK_SUBSCRIPTION_KEY"),
        (Reply(404), SourceError, "answered 404; check PC_SDK_SAS_URL"),
        (Reply(302, headers={"Location": "http://127.0.0.1:9/"}), SourceError, "answered 302"),
        (Reply(200, b"{}"), SourceError, "expected JSON with token"),
        (Reply(200, b'{"token": 5, "msft:expiry": "2999-01-01T00:00:00Z"}'), SourceError, "expected JSON with token"),
        (
            Reply(200, b'{"token": "a b", "msft:expiry": "2999-01-01T00:00:00Z"}'),
            SourceError,
            "expected JSON with token",
        ),
        (
            Reply(200, b'{"token": "sig=a#b", "msft:expiry": "2999-01-01T00:00:00Z"}'),
            SourceError,
            "expected JSON with t",
        ),
        (
            Reply(200, b'{"token": "sig=x", "msft:expiry": "10000-01-01T00:00:00Z"}'),
            SourceError,
            "expected JSON with to",
        ),
        (Reply(200, b"[]"), SourceError, "expected JSON with token"),
        (Reply(200, b"[" * 100_000), SourceError, "expected JSON with token"),
        (Reply(503), SourceError, "answered 503; gave up after 3 attempts, start again later"),
    ],
)
def test_a_service_that_gives_none_ends_the_run(
    tokens: TokenServer, monkeypatch: pytest.MonkeyPatch, reply: Reply, error: type[Exception], says: str
) -> None:
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "subscriber")
    tokens.script["/token/account/container"] = [reply] * 9
    with pytest.raises(error, match=says) as caught:
        Signer(QUICK, 5.0).signed(BLOB)
    assert "subscriber" not in str(caught.value)
    assert tokens.asked[0].headers["Ocp-Apim-Subscription-Key"] == "subscriber"


@pytest.fixture
def computer(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch, tokens: TokenServer) -> ScriptedApi:
    """The Planetary Computer on loopback: its assets need the newest token."""
    monkeypatch.setenv("TILEWRIGHT_STAC_PLANETARY_COMPUTER", api.url)
    monkeypatch.setattr("tasks.imagery.stac.signing.BLOB_HOSTS", ("127.0.0.1",))
    simple(api)
    return api


def test_a_signed_url_that_expires_in_the_middle_is_signed_again(
    computer: ScriptedApi, tokens: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    computer.tokens = {"topsecret0"}
    # A file of its own: what GDAL has kept of another must not hide the refusal.
    computer.files["/1/blue.tif"] = computer.files["/1/red.tif"]
    computer.items.append(item("item-2", {"red": f"{computer.url}/1/blue.tif"}, bands=SCALE, day=2))
    with StacCatalogue(recipe("planetary-computer"), tmp_path) as catalogue:
        first, second = catalogue.acquisitions(windows_of(catalogue)[0])
        assert not tokens.given  # nothing is signed before it is read
        first.read()
        computer.tokens = {"topsecret1"}
        assert not second.read().nodata.any()
        assert tokens.given == ["topsecret0", "topsecret1"]
        assert catalogue.requests == 2 + 2 + 3  # the catalogue, tokens, and where each asset lies with each token
    assert "topsecret" not in caplog.text
    assert "topsecret" not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_token_that_ends_between_header_and_pixels_is_replaced(
    computer: ScriptedApi, tokens: TokenServer, tmp_path: Path
) -> None:
    computer.tokens = {"topsecret0"}
    # Two blocks: the header and the first are known when the token ends.
    computer.files["/1/red.tif"] = cog(numbers(1, 1024))
    computer.items[:] = [item("wide", {"red": f"{computer.url}/1/red.tif"}, bands=SCALE, side=1024 * STEP)]
    made = recipe("planetary-computer", area={"bbox": bbox(16, 16)}, imagery={"attempts": 1})
    with StacCatalogue(made, tmp_path) as catalogue:
        windows = {window.name: window for window in windows_of(catalogue)}
        first, last = (windows[f"32633/{WEST + at:.0f}-{NORTH - at:.0f}"] for at in (0, 15 * SIDE * STEP))
        catalogue.acquisitions(first)[0].read()
        computer.tokens = {"topsecret1"}
        assert not catalogue.acquisitions(last)[0].read().nodata.any()
    assert tokens.given == ["topsecret0", "topsecret1"]


def test_a_refusal_of_a_fresh_token_ends_the_run_and_tells_no_token(
    computer: ScriptedApi, tokens: TokenServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    computer.tokens = {"another"}
    with StacCatalogue(recipe("planetary-computer"), tmp_path) as catalogue:
        acquisition = catalogue.acquisitions(windows_of(catalogue)[0])[0]
        with pytest.raises(CredentialError, match=r"is refused \(403\) also with a fresh token") as caught:
            acquisition.read()
    assert tokens.given == ["topsecret0", "topsecret1"]
    assert "topsecret" not in str(caught.value)
    assert "topsecret" not in caplog.text
