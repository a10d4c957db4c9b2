"""A store in S3: the same build against a server that speaks S3's protocol on loopback."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import processes
from infra.sandbox.services.scripted import ScriptedServer
from tasks.errors import StoreError
from tasks.versions.read import versions
from tests.support.builds import contents, run_build
from tests.support.fault_server import FaultServer
from tests.support.servers import wait_until_it_answers
from tests.support.small import SmallRegion


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    port = processes.free_port(5500, 5599)
    url = f"http://127.0.0.1:{port}"
    log = tmp_path / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = processes.start(command, cwd=tmp_path, env=dict(os.environ), log=log)
    try:
        wait_until_it_answers(f"{url}/moto-api/", server, log)
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.chdir(tmp_path)
        yield "bucket"
    finally:
        processes.stop(server)


def test_a_store_in_s3_is_built_read_and_unchanged(bucket: str, tmp_path: Path) -> None:
    store = f"s3://{bucket}/datasets/small"
    region = SmallRegion(side=8)
    with ScriptedServer(region.image, content_type="image/png") as server:
        recipe = region.write_recipe(tmp_path, server.url)
        assert run_build(recipe, store).version == "v1"
        assert not run_build(recipe, store).new
        assert run_build(recipe, store, ["filter.min_building_fraction=0.4"]).version == "v2"
        run_build(recipe, tmp_path / "local")
    assert contents(store, "v1") == contents(tmp_path / "local", "v1")
    assert [info.version for info in versions(store)] == ["v1", "v2"]
    with pytest.raises(StoreError, match="no store there"):
        versions(f"s3://{bucket}/elsewhere")
    with pytest.raises(StoreError, match="check the bucket, the AWS_"):
        versions("s3://no-such-bucket/small")


def test_without_a_server_the_error_says_what_to_check() -> None:
    script = "from tasks.versions.read import versions; versions('s3://bucket/small')"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a"}
    environment |= {"AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "StoreError: s3://bucket: " in result.stderr
    assert "AWS_ENDPOINT_URL" in result.stderr


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("never", "not whole within 0.3 s"),
        ("endless-close", "more than 1 MB"),
        ("html", "a web page, where an S3 server was expected"),
        ("reset-first", "no answer"),
    ],
)
def test_a_server_that_is_no_s3_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    """Icechunk would wait for ever, or say that the store is of a newer format."""
    monkeypatch.setattr("tasks.versions.endpoint.SECONDS", 0.3)
    with FaultServer(tmp_path) as faults:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faults.url)
        with pytest.raises(StoreError, match=told) as caught:
            versions(f"s3://{fault}/small")
    assert "AWS_ENDPOINT_URL" in str(caught.value)
