"""Marked secrets, given in every way there is, stand in nothing that a command says or writes, whatever is echoed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.commands import Ended, Tilewright
from tests.support.forks import REPOSITORY
from tests.support.marks import EchoServer, found, texts_below, texts_of_store, writings
from tests.support.small import SmallRegion

_WAYS = (
    "query header cookie path client password block base mlhub planetary aws session proxy prefect mlflow stac sas pbf"
)
MARKS = {way: f"mk{way}0+/s3cr=t&0{way}" for way in _WAYS.split()}
# Lines in place of a recipe's own, a bare key for none, and what the server does about them.
_OVERPASS = "labels: {source: overpass, url: '%s/{env:MY_PATH}/api?key={env:MY_QUERY}', attempts: 1, rate_limit: false}"
_PBF = "labels: {source: pbf, url: 'http://me:{env:MY_PASSWORD}@%s/a.osm.pbf?token={env:MY_PBF}&{env:MY_SAS}'}"
_STAC = "imagery: {source: stac, api: '%s/?apiKey={env:MY_STAC}', collection: c, bands: [red], attempts: 1}"
_MLHUB = "imagery: {source: mlhub, reader: api, url: '%s/v1', dataset: d, bands: [red], attempts: 1}"
_PROVIDED = ["labels: {source: provided}", "splits: {by: scene}", "area:", "grid:"]
REFUSED: list[tuple[list[str], list[str]]] = [
    ([_OVERPASS], ["forbidden", "html"]),
    ([_PBF], ["forbidden", "redirect"]),
    ([_STAC, "splits: {by: scene}"], ["forbidden", "reason", "catalogue"]),
    ([_MLHUB, *_PROVIDED], ["forbidden", "catalogue"]),
]


@dataclass
class Search:
    """Commands that are given every mark, and all that they said."""

    folder: Path
    server: EchoServer
    tilewright: Tilewright
    said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "stores"):
            (self.folder / name).mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """In which all secrets are that may be in one."""
        from prefect.settings import PREFECT_API_URL

        secrets = {f"MY_{way.upper()}": MARKS[way] for way in ("query", "header", "cookie", "path", "password", "stac")}
        return secrets | {
            "MY_PBF": MARKS["pbf"],
            "MY_SAS": f"sv=2021&sig={MARKS['sas'].replace('&', '%26')}",
            "MAPBOX_API_URL": f"http://me:{MARKS['base'].replace('/', '%2F')}@{self.server.place}",
            "MLHUB_API_KEY": MARKS["mlhub"],
            "PC_SDK_SUBSCRIPTION_KEY": MARKS["planetary"],
            "AWS_SECRET_ACCESS_KEY": MARKS["aws"],
            "AWS_SESSION_TOKEN": MARKS["session"],
            "PREFECT_API_KEY": MARKS["prefect"],
            "MLFLOW_TRACKING_URI": f"http://me:{MARKS['mlflow'].replace('/', '%2F')}@{self.server.place}",
            "ftp_proxy": f"http://me:{MARKS['proxy'].replace('/', '%2F')}@{self.server.place}",
            "TILEWRIGHT_ACCEPT_TERMS": "mapbox",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "PREFECT_API_URL": PREFECT_API_URL.value() or "",
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "tilewright,tasks,urllib3,requests,aiohttp,asyncio,icechunk,mlflow",
            "HOME": str(self.folder / "home"),
            "XDG_STATE_HOME": str(self.folder / "home" / "state"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def run(self, *words: str, how: str = "tile", code: int = 0, **environment: str) -> Ended:
        """A command, and its exit code as expected."""
        self.server.how = how
        ended = self.tilewright(*words, **{**self.environment, **environment})
        self.said[f"what {' '.join(words)} said"] = f"{ended.stdout}\n{ended.stderr}"
        assert ended.returncode == code, ended.stderr
        return ended

    def recipe(self, name: str) -> str:
        """A file of a recipe of its own; a header without a telling name is typed into it."""
        folder = self.folder / "recipes" / name
        folder.mkdir(parents=True)
        path = REGION.write_recipe(folder, f"{self.server.url}/{{env:MY_PATH}}", "limits: {max_failed_fraction: 0}")
        text = path.read_text()
        headers = (
            f"Authorization: 'Bearer {{env:MY_HEADER}}', Cookie: 'a={{env:MY_COOKIE}}', X-Client: '{MARKS['client']}'"
        )
        given = f"attempts: 1, token_env: MY_QUERY, headers: {{{headers}}}, attribution"
        for old, new in (
            (".png", ".png?map_key={token}"),
            ("attribution", given),
            ("A small region", "The end of all marks"),
        ):
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)
        return str(path)

    def other(self, name: str, lines: list[str]) -> str:
        """A recipe with other lines for the keys that they begin with."""
        path = Path(self.recipe(name))
        keys = tuple(line.partition(":")[0] + ":" for line in lines)
        kept = [line for line in path.read_text().splitlines() if not line.startswith(keys)]
        given = [line.replace("@%s", f"@{self.server.place}").replace("%s", self.server.url) for line in lines]
        path.write_text("\n".join([*kept, *(line for line in given if not line.endswith(":"))]))
        return str(path)

    def was_sent(self, way: str) -> bool:
        """Whether the server was told a mark."""
        return any(text in self.server.said for text in writings(MARKS[way]))

    def leaks(self) -> list[str]:
        """Where a mark stands, but in the recipe in which it was typed."""
        texts = dict(self.said)
        for folder in (*self.folder.iterdir(), Path(os.environ["PREFECT_HOME"])):
            texts |= {} if folder.name == "recipes" else dict(texts_below(folder))
        for store in (self.folder / "stores").iterdir():
            texts |= {} if store.suffix else dict(texts_of_store(store))
        assert any("The end of all marks" in text for place, text in texts.items() if "prefect" in place), "a control"
        assert any("The end of all marks" in text for place, text in texts.items() if "attributes" in place), (
            "a control"
        )
        return found(texts, MARKS)


REGION = SmallRegion(side=3)


@pytest.fixture
def search(tmp_path: Path, tilewright: Tilewright, prefect_server: str) -> Iterator[Search]:
    server = EchoServer(lambda path: REGION.image(path[-len("/16/33000/22000.png") :]))
    with server:
        yield Search(tmp_path, server, tilewright)


@pytest.mark.server
def test_a_marked_secret_is_in_nothing_that_is_said_or_written(search: Search) -> None:
    from prefect.blocks.system import Secret

    recipe = search.recipe("tiles")
    store = str(search.folder / "stores" / "good")
    search.run("plan", recipe, "--store", store)
    search.run("build", recipe, "--store", store, "--json")
    search.run("versions", store, "--json")
    search.run("export", store, "--out", str(search.folder / "png"))
    search.run("export", store, "--out", str(search.folder / "tif"), "--format", "geotiff", "--json")
    for how in ("forbidden", "reason", "redirect"):
        search.run("build", recipe, "--store", str(search.folder / "stores" / how), how=how, code=1)
    for way in ("query", "header", "cookie", "path", "client"):
        assert search.was_sent(way), f"a control: {way}"

    for number, (lines, hows) in enumerate(REFUSED):
        for how in hows:
            other = search.other(f"other{number}-{how}", lines)
            search.run("plan", other, "--store", str(search.folder / "stores" / f"{number}-{how}"), how=how, code=1)
    Secret(value=SecretStr(MARKS["block"])).save("mapbox-access-token", _sync=True)  # type: ignore[call-arg]
    try:
        mapbox = search.other("mapbox", ["imagery: {source: mapbox, attempts: 1}"])
        search.run("build", mapbox, "--store", str(search.folder / "stores" / "mapbox"), how="forbidden", code=1)
    finally:
        Secret.delete("mapbox-access-token", _sync=True)  # type: ignore[call-arg]
    for way in ("password", "block", "base", "mlhub", "stac", "sas", "pbf"):
        assert search.was_sent(way), f"a control: {way}"
    assert search.leaks() == []


@pytest.mark.server
def test_typed_tokens_do_not_reach_prefect(search: Search) -> None:
    recipe, mark = search.recipe("typed"), MARKS["query"]
    store = str(search.folder / "stores" / "good")
    search.run("build", recipe, "--store", store)
    for override in (
        f"imagery.url=http://h/{{z}}/{{x}}/{{y}}?access_token={mark}",
        f"imagery.url=http://me:{mark}@h/{{z}}/{{x}}/{{y}}",
        f"imagery.headers.Authorization=Bearer {mark}",
        f"imagery.headers.X-Client={mark}",
        f"labels={{source: pbf, url: 'http://h/a.pbf?subscription-key={mark}'}}",
    ):
        refused = search.run("build", recipe, "--store", store, "--set", override, code=2)
        assert "error: " in refused.stderr
    refused = search.run("build", recipe, "--store", f"s3://key:{mark}@bucket/x", code=1)
    assert "expected s3://bucket/prefix" in refused.stderr
    search.run("train", f"s3://key:{mark}@bucket/x", code=1)
    assert search.leaks() == []


@pytest.mark.server
def test_a_deployment_takes_no_typed_token(search: Search) -> None:
    """Prefect keeps a run's parameters before the recipe is read: its server has to refuse them."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.utilities.callables import parameter_schema

    from flows.build import build

    with get_client(sync_client=True) as client:
        flow = client.create_flow(build)
        deployment = client.create_deployment(
            flow, "typed", parameter_openapi_schema=parameter_schema(build).model_dump(), enforce_parameter_schema=True
        )
        for setting in (
            f"imagery.url=http://h/{{z}}/{{x}}/{{y}}?access_token={MARKS['query']}",
            f"imagery.headers.X-Client={MARKS['query']}",
        ):
            with pytest.raises(PrefectHTTPStatusError):
                client.create_flow_run_from_deployment(deployment, parameters={"recipe": "r", "set": [setting]})
        client.create_flow_run_from_deployment(deployment, parameters={"recipe": "r", "set": ["grid.zoom=17"]})
        client.delete_deployment(deployment)
    assert found(dict(texts_below(Path(os.environ["PREFECT_HOME"]))), MARKS) == []


def test_a_server_of_prefect_or_mlflow_with_a_login_is_told_without_it(tmp_path: Path) -> None:
    from tasks.errors import TrainingError
    from training.registry import Registry

    mark = MARKS["prefect"].replace("/", "%2F")
    run = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "build-osm-sandbox"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PREFECT_API_URL": f"http://me:{mark}@127.0.0.1:9/api"},
    )
    assert run.returncode != 0
    with pytest.raises(TrainingError) as caught:
        Registry(f"http://me:{mark}@127.0.0.1:9/").champion("x")
    assert found({"run": run.stdout + run.stderr, "mlflow": str(caught.value)}, MARKS) == []
