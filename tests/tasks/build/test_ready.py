"""Whether a store can be written is seen before imagery is asked for."""

import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.sandbox.services.scripted import ScriptedServer
from tasks.build.ready import PROBE, check_room, check_store
from tasks.errors import DiskError, StoreError
from tasks.state.workdir import WorkDir
from tasks.versions.read import open_repository, versions
from tests.support.builds import contents, run_build
from tests.support.small import SmallRegion
from tests.tasks.versions.test_s3 import bucket  # noqa: F401 - a fixture


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    region = SmallRegion(side=4)
    with ScriptedServer(region.image, content_type="image/png") as running:
        yield running


@pytest.fixture
def recipe(tmp_path: Path, server: ScriptedServer) -> Path:
    return SmallRegion(side=4).write_recipe(tmp_path, server.url)


def test_a_link_to_an_empty_folder_becomes_a_store(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "elsewhere")
    run_build(recipe, tmp_path / "store")
    assert (tmp_path / "store").is_symlink()
    run_build(recipe, tmp_path / "plain")
    assert contents(tmp_path / "store") == contents(tmp_path / "elsewhere") == contents(tmp_path / "plain")
    assert not run_build(recipe, tmp_path / "store").new


def test_an_empty_disk_becomes_a_store(recipe: Path, tmp_path: Path) -> None:
    """Nothing can be moved to where a file system is mounted."""
    (tmp_path / "store").mkdir()
    script = (
        "import subprocess, sys; from pathlib import Path; from tests.support.builds import contents, run_build\n"
        "store = Path(sys.argv[2])\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', store], check=True)\n"
        "print(run_build(Path(sys.argv[1]), store).version, len(contents(store)))"
    )
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", script, str(recipe), str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert result.stdout == f"v1 {len(SmallRegion(side=4).selected)}\n", result.stderr


def hidden(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def filled(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (hidden, r"store: is a link to .*nowhere, which (is not there|does not exist); make that folder"),
        (filled, r"store: not an Icechunk store, and not empty; give another --store"),
        (Path.touch, r"store: is a file; give the path"),
        (lambda path: path.symlink_to(path), r"store: is a link to|store: cannot be written"),
    ],
)
def test_what_cannot_be_a_store_is_told_first(  # type: ignore[no-untyped-def]
    recipe: Path, tmp_path: Path, server: ScriptedServer, make, message: str
) -> None:
    make(tmp_path / "store")
    with pytest.raises(StoreError, match=message):
        run_build(recipe, tmp_path / "store")
    assert server.requests == []


def test_a_folder_that_cannot_be_written_is_told_first(
    recipe: Path, tmp_path: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_build(recipe, tmp_path / "store")
    server.reset()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "chunks" not in str(path) and real(path, mode))
    with pytest.raises(StoreError, match=r"store/chunks: cannot be written"):
        run_build(recipe, tmp_path / "store", ["filter.min_building_fraction=0.0"])
    assert server.requests == []


def test_a_local_store_is_looked_at_and_not_made(tmp_path: Path) -> None:
    check_store(str(tmp_path / "a" / "store"))
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize(("wanted", "told"), [(0, False), (10**6, False), (10**30, True)])
def test_room(tmp_path: Path, wanted: int, told: bool) -> None:
    if told:
        with pytest.raises(DiskError, match=r"GB are free there; free space, or choose a --store on a larger disk"):
            check_room(WorkDir(tmp_path), wanted)
    else:
        assert check_room(WorkDir(tmp_path), wanted) == ""


@contextmanager
def read_only(behind: str) -> Iterator[str]:
    """A server of S3 through which everything can be read and nothing written."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
            request = urllib.request.Request(behind + self.path, headers=headers, method=self.command)
            try:
                with urllib.request.urlopen(request) as found:
                    self._tell(found.status, dict(found.headers), found.read())
            except urllib.error.HTTPError as error:
                with error:
                    self._tell(error.code, dict(error.headers), error.read())

        do_HEAD = do_GET  # noqa: N815

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self._tell(403, {"Content-Type": "application/xml"}, denied)

        do_POST = do_DELETE = do_PUT  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

        def _tell(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in headers.items():
                if key.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def test_a_bucket_that_is_not_there_or_takes_nothing_is_told_first(
    bucket: str,  # noqa: F811
    recipe: Path,
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/small: .*check the bucket"):
        run_build(recipe, "s3://no-such-bucket/small")
    assert server.requests == []
    store = f"s3://{bucket}/small"
    run_build(recipe, store)
    assert PROBE not in open_repository(store).list_branches()
    assert [one.version for one in versions(store)] == ["v1"]
    assert not run_build(recipe, store).new
    server.reset()
    with read_only(os.environ["AWS_ENDPOINT_URL"]) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StoreError, match=f"{store}: "):
            run_build(recipe, store, ["filter.min_building_fraction=0.0"])
        with pytest.raises(StoreError, match=f"s3://{bucket}/other: "):
            run_build(recipe, f"s3://{bucket}/other")
    assert server.requests == []
