import base64
import gzip
import hashlib
import shutil
import socket
import time
from collections import namedtuple
from pathlib import Path

import pytest

from tasks.errors import DiskError, LabelError, SourceError
from tasks.web.client import Bounds
from tasks.web.download import Manner, download, forget
from tasks.web.reach import Reach
from tasks.web.retry import RetryPolicy
from tests.support.fault_server import FaultServer
from tests.support.memory import Peak
from tests.tasks.labels.conftest import Answer, Asked, Scripted

QUICK = RetryPolicy(3, 5, 0.01)
BODY = bytes(range(256)) * 1000
ETAG = {"ETag": '"v1"'}


def resuming(asked: Asked) -> Answer:
    """A server that honours Range when If-Range names its version."""
    start = int(asked.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    if asked.headers.get("If-Range") != '"v1"':
        return Answer(200, BODY, ETAG)
    return Answer(206, BODY[start:], ETAG | {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"})


def test_broken_download_resumes_where_it_ended(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf", Answer(200, BODY[:100_000], ETAG, claimed=len(BODY)), resuming)
    path, requests = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert path.read_bytes() == BODY
    assert path.name == "f.pbf"
    assert requests == 2
    assert 0 < int(server.asked[1].headers["Range"][6:-1]) <= 100_000


def test_next_run_resumes_too(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf", Answer(200, BODY[:100_000], ETAG, claimed=len(BODY)), Answer(503))
    with pytest.raises(LabelError, match=r"f\.pbf: the server answered 503 .*; gave up after 4 attempts"):
        download(server.url + "/f.pbf", tmp_path, None, QUICK)
    server.on("/f.pbf", resuming)
    path, requests = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert (path.read_bytes(), requests) == (BODY, 1)
    assert "Range" in server.asked[-1].headers


def test_part_of_an_older_version_is_thrown_away(server: Scripted, tmp_path: Path) -> None:
    newer = BODY[::-1]
    server.on("/f.pbf", Answer(200, BODY[:100_000], ETAG, claimed=len(BODY)), Answer(200, newer, {"ETag": '"v2"'}))
    path, _ = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert path.read_bytes() == newer


@pytest.mark.parametrize(
    "odd",
    [
        Answer(416, b"", {"Content-Range": "bytes */10"}),
        Answer(206, BODY[5:], {"Content-Range": "bytes 5-9/10"}),
    ],
)
def test_answer_that_does_not_fit_the_part_starts_over(server: Scripted, tmp_path: Path, odd: Answer) -> None:
    server.on("/f.pbf", Answer(200, BODY[:100_000], ETAG, claimed=len(BODY)), odd, Answer(200, BODY, ETAG))
    path, _ = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert path.read_bytes() == BODY
    assert "Range" not in server.asked[2].headers


def test_progress_outlasts_the_attempts_but_standing_still_does_not(server: Scripted, tmp_path: Path) -> None:
    def piece(asked: Asked) -> Answer:
        start = int(asked.headers.get("Range", "bytes=0-")[6:-1])
        headers = ETAG | {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
        return Answer(206 if start else 200, BODY[start : start + 40_000], headers, claimed=len(BODY) - start)

    server.on("/f.pbf", piece)
    path, requests = download(server.url + "/f.pbf", tmp_path / "a", None, QUICK)
    assert path.read_bytes() == BODY
    assert requests > QUICK.attempts
    server.on("/f.pbf", Answer(200, BODY[:100], {}, claimed=len(BODY)))
    with pytest.raises(
        LabelError, match=r"f\.pbf: the answer broke off .it ended early. at byte 100 of 256000; gave up after 4 "
    ):
        download(server.url + "/f.pbf", tmp_path / "b", None, QUICK)


@pytest.mark.parametrize(
    ("validator", "condition"),
    [({"ETag": '"v1"'}, "If-None-Match"), ({"Last-Modified": "Sat, 01 Aug 2026 00:00:00 GMT"}, "If-Modified-Since")],
)
def test_unchanged_file_is_kept(server: Scripted, tmp_path: Path, validator: dict[str, str], condition: str) -> None:
    def unchanged(asked: Asked) -> Answer:
        return Answer(304) if asked.headers.get(condition) in validator.values() else Answer(200, b"other")

    server.on("/f.pbf", Answer(200, BODY, validator), unchanged)
    first, _ = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    again, requests = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert again == first
    assert (again.read_bytes(), requests) == (BODY, 1)


def test_changed_file_replaces_the_copy(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf", Answer(200, BODY, ETAG), Answer(200, b"new", {"ETag": '"v2"'}))
    download(server.url + "/f.pbf", tmp_path, None, QUICK)
    path, _ = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_checksum_from_a_file(server: Scripted, tmp_path: Path, kind: str) -> None:
    digest = hashlib.new(kind, BODY).hexdigest()
    server.on("/f.pbf", Answer(200, BODY))
    server.on("/f.pbf.sum", Answer(503), Answer(200, f"{digest}  f.pbf\n".encode()))
    path, requests = download(server.url + "/f.pbf", tmp_path, server.url + "/f.pbf.sum", QUICK)
    assert (path.read_bytes(), requests) == (BODY, 3)


def test_wrong_checksum_removes_the_file(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf", Answer(200, BODY, ETAG))
    with pytest.raises(LabelError, match=r"f\.pbf: the download has md5 [0-9a-f]{32}, expected 0{32}; it was removed"):
        download(server.url + "/f.pbf", tmp_path, "md5:" + "0" * 32, QUICK)
    assert not list(tmp_path.rglob("f.pbf"))


def test_checksum_file_without_a_digest(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf.md5", Answer(200, b"<html>not here</html>"))
    with pytest.raises(LabelError, match=r"f\.pbf\.md5: holds no MD5 or SHA-256 digest; correct labels\.checksum"):
        download(server.url + "/f.pbf", tmp_path, server.url + "/f.pbf.md5", QUICK)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusal_ends_at_once_without_the_token(server: Scripted, tmp_path: Path, status: int) -> None:
    server.on("/f.pbf", Answer(status))
    with pytest.raises(LabelError, match=rf"token=\*\*\*: the server answered {status}") as caught:
        download(server.url + "/f.pbf?token=s3cr3t", tmp_path, None, QUICK)
    assert len(server.asked) == 1
    assert "s3cr3t" not in str(caught.value)
    assert not any("s3cr3t" in one.name for one in tmp_path.rglob("*"))


def test_server_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(LabelError, match=r"f\.pbf: no connection .* gave up after 3 attempts"):
        download(f"http://127.0.0.1:{port}/f.pbf", tmp_path, None, QUICK)


def test_no_room_is_the_disks_fault(server: Scripted, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("in the way")
    with pytest.raises(DiskError, match="cannot write the download"):
        download(server.url + "/f.pbf", blocked, None, QUICK)


MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()


@pytest.mark.parametrize("name", ["Content-MD5", "x-ms-blob-content-md5"])
def test_digest_of_the_server_is_checked(server: Scripted, tmp_path: Path, name: str) -> None:
    server.on("/f.pbf", Answer(200, BODY[::-1], {name: MD5}), Answer(200, BODY, {name: MD5}))
    path, requests = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert (path.read_bytes(), requests) == (BODY, 2)
    server.on("/f.pbf", Answer(200, BODY, {name: MD5[:-4] + "AA=="}))
    with pytest.raises(LabelError, match=r"f\.pbf: the download has md5 [0-9a-f]{32}, the server said [0-9a-f]{32}; "):
        download(server.url + "/f.pbf", tmp_path / "other", None, QUICK)
    server.on("/f.pbf", Answer(200, BODY, {name: "no digest"}))
    assert download(server.url + "/f.pbf", tmp_path / "third", None, QUICK)[0].read_bytes() == BODY


def test_rest_of_another_version_starts_over(server: Scripted, tmp_path: Path) -> None:
    newer = {"ETag": '"v2"'}

    def heedless(asked: Asked) -> Answer:
        start = int(asked.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        place = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
        return Answer(206, BODY[::-1][start:], newer | place)  # whatever If-Range names

    broken = Answer(200, BODY[:100_000], ETAG, claimed=len(BODY))
    server.on("/f.pbf", broken, heedless, Answer(200, BODY[::-1], newer))
    path, requests = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert (path.read_bytes(), requests) == (BODY[::-1], 3)


def test_place_is_asked_for_before_every_attempt(server: Scripted, tmp_path: Path) -> None:
    places = iter(["/old", "/older", "/new"])
    server.on("/old", Answer(200, BODY[:100_000], ETAG, claimed=len(BODY)))
    server.on("/older", Answer(403))
    server.on("/new", resuming)
    manner = Manner(
        SourceError, "ask elsewhere", "a b.bin", 5, lambda: (server.url + next(places), {"X-Some": "thing"})
    )
    path, requests = download("http://named.example/f?token=s3cr3t", tmp_path, None, QUICK, manner)
    assert (path.name, path.read_bytes(), requests) == ("a_b.bin", BODY, 3)
    assert [asked.headers["X-Some"] for asked in server.asked] == ["thing"] * 3
    server.on("/gone", Answer(404))
    manner = Manner(SourceError, "ask elsewhere", locate=lambda: (server.url + "/gone?sig=s3cr3t", {}))
    with pytest.raises(SourceError, match=r"^http://named\.example/f: the server answered 404 .*; ask elsewhere$"):
        download("http://named.example/f", tmp_path, None, QUICK, manner)


def test_library_errors_with_the_url_in_them_are_not_handed_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(LabelError) as caught:
        download(f"http://127.0.0.1:{port}/f.pbf?token=s3cr3t", tmp_path, None, QUICK)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cr3t" not in repr(error)
        error = error.__cause__ or error.__context__


SMALL = Bounds(download_bytes=2_000_000)


@pytest.mark.parametrize("fault", ["endless-close", "endless-chunks", "length-absurd", "bomb-gzip"])
def test_a_file_without_end_is_refused_and_leaves_nothing(faults: FaultServer, tmp_path: Path, fault: str) -> None:
    peak = Peak()
    with pytest.raises(
        LabelError, match=r"f\.pbf: .* limits\.max_download_gb.*; raise it if that is meant, or correct the"
    ):
        download(f"{faults.at(fault)}/f.pbf", tmp_path, None, QUICK, limits=SMALL)
    assert len(faults.asked) == 1
    assert peak.mib() < 50
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 1000


@pytest.mark.parametrize("fault", ["never", "never-body", "drip-headers", "drip-body", "drip-chunks"])
def test_a_file_that_drips_is_no_progress(faults: FaultServer, tmp_path: Path, fault: str) -> None:
    began = time.monotonic()
    with pytest.raises(LabelError, match=r"less than 1,024 bytes a second came for 0.2 s.*gave up after 2 attempts"):
        download(f"{faults.at(fault)}/f.pbf", tmp_path, None, RetryPolicy(2, 5, 0.01), Manner(silence=0.2))
    assert time.monotonic() - began < 3


def test_a_checksum_file_that_drips_or_has_no_end(faults: FaultServer, tmp_path: Path) -> None:
    for fault in ("drip-body", "never"):
        with pytest.raises(LabelError, match=r"f\.md5: .*; gave up after 2 attempts"):
            download("http://x/", tmp_path, f"{faults.at(fault)}/f.md5", RetryPolicy(2, 5, 0.01), Manner(silence=0.2))
    with pytest.raises(LabelError, match=r"f\.md5: holds no MD5 or SHA-256 digest"):
        download("http://x/", tmp_path, f"{faults.at('endless-close')}/f.md5", QUICK)


def test_a_disk_without_room_is_told_before_and_while_it_fills(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = iter([300_000, 10**9, 100])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, next(free)))
    monkeypatch.setattr("tasks.web.download.LOOK_BYTES", 100_000)
    server.on("/f.pbf", Answer(200, BODY))
    for _ in range(2):
        with pytest.raises(DiskError, match=r"f\.pbf\.part: no room for the download, which needs .* GB are free"):
            download(server.url + "/f.pbf", tmp_path, None, QUICK)


def test_a_web_page_in_place_of_the_file(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf", Answer(200, b"<!doctype html><p>Please log in"))
    with pytest.raises(LabelError, match=r"f\.pbf: the server sent a web page \(HTML\), not the file; correct the URL"):
        download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert len(server.asked) == 1


def test_a_file_that_was_compressed_on_the_way(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf", Answer(200, gzip.compress(BODY), ETAG | {"Content-Encoding": "gzip"}))
    path, _ = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("fault", ["redirect-elsewhere", "redirect-keeping"])
def test_the_urls_token_goes_to_no_other_host(faults: FaultServer, tmp_path: Path, fault: str) -> None:
    path, requests = download(f"{faults.at(fault)}/f.pbf?token=s3cr3t-t0ken", tmp_path, None, QUICK)
    assert (path.read_bytes(), requests) == (b"what nobody may have", 2)
    assert faults.canary.asked[0].target == f"/{fault}/f.pbf"
    assert "s3cr3t-t0ken" not in faults.canary.heard


def test_no_private_address_is_asked_for_a_file(faults: FaultServer, tmp_path: Path) -> None:
    for target in faults.canary.unnamed[:4]:
        with pytest.raises(SourceError, match="leads to a private address"):
            download(faults.redirect(target), tmp_path, None, QUICK, reach=Reach(frozenset({"127.0.0.1"})))
    assert faults.canary.asked == []


def test_what_is_forgotten_is_asked_for_anew(server: Scripted, tmp_path: Path) -> None:
    server.on("/f.pbf", Answer(200, BODY, ETAG))
    path, _ = download(server.url + "/f.pbf", tmp_path, None, QUICK)
    forget(path)
    assert list(path.parent.iterdir()) == []
    download(server.url + "/f.pbf", tmp_path, None, QUICK)
    assert "If-None-Match" not in server.asked[1].headers
