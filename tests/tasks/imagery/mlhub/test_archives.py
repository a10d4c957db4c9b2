import functools
import gzip
import io
import json
import os
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.sandbox.services.mlhub import pack
from tasks.errors import DiskError, SourceError
from tasks.imagery.mlhub import archives
from tasks.imagery.mlhub.archives import is_safe, read_archive
from tasks.imagery.mlhub.layouts import Collector, choose
from tasks.raster.scene import Scene
from tests.tasks.imagery.mlhub.files import KENYA, LABELS, SOURCE, body_of, contents, gzipped, kenya, tar_gz

GOOD = f"{LABELS}/{KENYA}_tile_00_label/labels.tif"
MOST = 1 << 20


def read(archive: Path, work: Path, *bands: str, most: int = MOST) -> list[Scene]:
    choice = choose(bands or ("B02",))
    collector = Collector(choice, str(archive))
    read_archive(archive, work, choice, collector, most)
    return collector.scenes()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Labels and images of two tiles in one archive."""
    path = tmp_path / "kenya.tar.gz"
    path.write_bytes(pack(kenya(tmp_path / "made") / KENYA))
    return path


def test_wanted_files_alone_are_written(archive: Path, tmp_path: Path) -> None:
    scenes = read(archive, tmp_path / "work", "B02")
    assert [(scene.name, len(scene.items)) for scene in scenes] == [("tile_00", 2), ("tile_01", 2)]
    assert [list(item.assets) for item in scenes[0].items] == [["B02", "CLD"]] * 2
    labels = scenes[0].labels
    assert labels is not None
    assert labels.path().read_bytes() == body_of(GOOD)
    found = contents(tmp_path / "work")
    assert {Path(name).name for name in found} == {"labels.tif", "B02.tif", "CLD.tif", "manifest.json"}
    assert len(found) == 2 + 2 * 2 * 2 + 1


def test_second_run_opens_no_archive(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(archive, tmp_path / "work")
    monkeypatch.setattr(archives, "_unpack", lambda *_: pytest.fail("read again"))
    assert read(archive, tmp_path / "work") == first


def test_what_the_first_run_told_the_second_tells_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = kenya(tmp_path / "made") / KENYA / SOURCE
    path = tmp_path / "kenya.tar.gz"
    path.write_bytes(pack(images))
    said = []
    for _ in range(2):
        with pytest.raises(SourceError, match="no file of band B99; there are B02, B03, CLD") as caught:
            read(path, tmp_path / "work", "B99")
        said.append(str(caught.value))
    assert said[0] == said[1]
    odd = tar_gz(tmp_path / "odd.tar.gz", [("a/b.txt", b"1"), ("c.txt", b"2")])
    for _ in range(2):
        with pytest.raises(SourceError, match=r"no file has a name of a known layout \(there are a/b\.txt, c\.txt"):
            read(odd, tmp_path / "work")


def test_changed_archive_other_bands_and_lost_files_are_read_again(archive: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    read(archive, work)
    assert {item for scene in read(archive, work, "B03") for item in scene.items[0].assets} == {"B03", "CLD"}
    lost = next(work.rglob("labels.tif"))
    lost.write_bytes(b"short")
    read(archive, work, "B03")
    assert lost.read_bytes() != b"short"
    archive.write_bytes(pack(kenya(tmp_path / "fewer", tiles=1) / KENYA))
    assert [scene.name for scene in read(archive, work, "B03")] == ["tile_00"]
    assert not any("tile_01" in name for name in contents(work))


def test_killed_run_starts_over(archive: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    whole = read(archive, work)
    (folder,) = work.iterdir()
    (folder / "manifest.json").unlink()
    (folder / "tile_00" / "labels.tif").unlink()
    (folder / "tile_00" / "labels.tif.part").write_bytes(b"half")
    assert read(archive, work) == whole
    assert not list(work.rglob("*.part"))
    for broken in ("", "[]", "{", json.dumps({"of": {}}), json.dumps({"of": 1, "files": []})):
        (folder / "manifest.json").write_text(broken)
        assert read(archive, work) == whole


HOSTILE = [
    "../out.tif",
    f"{LABELS}/../../out.tif",
    "/out.tif",
    "C:/out.tif",
    "..\\out.tif",
    f"../{GOOD}",
    "\\x.tif",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = tar_gz(tmp_path / "bad.tar.gz", [(GOOD, b"good"), (name, b"bad")])
    with pytest.raises(SourceError, match=r"bad\.tar\.gz: member '.*' leads out of the archive's folder; nothing was"):
        read(path, tmp_path / "in" / "work")
    assert set(contents(tmp_path)) == {"bad.tar.gz"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device or another special file"),
        (tarfile.FIFOTYPE, "a device or another special file"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, said: str) -> None:
    member = tarfile.TarInfo(GOOD)
    member.type, member.linkname = kind, "/etc/passwd"
    path = tar_gz(tmp_path / "bad.tar.gz", [(member, b"")])
    with pytest.raises(SourceError, match=rf"bad\.tar\.gz: member '.*labels\.tif' is {said}; collections hold plain"):
        read(path, tmp_path / "work")
    assert set(contents(tmp_path)) == {"bad.tar.gz"}


def test_too_much_is_refused(tmp_path: Path) -> None:
    path = tar_gz(tmp_path / "big.tar.gz", [("a.bin", bytes(6000)), ("b.bin", bytes(6000))])
    with pytest.raises(SourceError, match=r"big\.tar\.gz: unpacks to more than imagery\.max_bytes \(10000\); if that"):
        read(path, tmp_path / "work", most=10_000)
    with pytest.raises(SourceError, match="no file has a name"):  # 12,000 bytes are within the limit
        read(path, tmp_path / "work", most=12_000)


def test_sizes_that_gzip_cannot_hold_are_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo(GOOD)
    member.size = 1 << 40
    path = gzipped(tmp_path / "bomb.tar.gz", member.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(SourceError, match=r"bomb\.tar\.gz: member '.*labels\.tif' claims 1099511627776 bytes, more"):
        read(path, tmp_path / "work", most=1 << 50)


def test_headers_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        member.type, member.size = kind, 1 << 33
        path = gzipped(tmp_path / "bomb.tar.gz", member.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
        with pytest.raises(SourceError, match=r"bomb\.tar\.gz: is cut short or damaged \(a header claims 8589934592 b"):
            read(path, tmp_path / "work", most=1 << 50)


def test_an_archive_that_is_nearly_all_air_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_FROM", 1 << 20)
    names = [GOOD.replace("tile_00", f"tile_{number:02}") for number in range(30)]
    bomb = tar_gz(tmp_path / "bomb.tar.gz", [(name, bytes(100_000)) for name in names])
    assert bomb.stat().st_size < 15_000
    said = r"bomb\.tar\.gz: unpacks to more than 200 times its [0-9,]+ bytes, which no images do; get it from its publ"
    with pytest.raises(SourceError, match=said):
        read(bomb, tmp_path / "work", most=1 << 40)
    # The same in what is not declared: a stream that goes on after the archive's end.
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    endless = gzipped(tmp_path / "endless.tar.gz", plain.getvalue() + bytes(5 << 20))
    with pytest.raises(SourceError, match="unpacks to more than 200 times"):
        read(endless, tmp_path / "work", most=1 << 40)
    assert set(contents(tmp_path)) == {"bomb.tar.gz", "endless.tar.gz"}
    monkeypatch.setattr(archives, "RATIO_FROM", 256 << 20)
    assert len(read(bomb, tmp_path / "work", most=1 << 40)) == 30


def test_more_members_than_any_archive_has_are_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 5)
    with pytest.raises(SourceError, match=r"kenya\.tar\.gz: has more than 5 members"):
        read(archive, tmp_path / "work")
    assert not contents(tmp_path / "work")


def test_no_room_is_told_before_it_is_used_up(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = SimpleNamespace(free=1000)
    monkeypatch.setattr("tasks.imagery.mlhub.archives.shutil.disk_usage", lambda _: room)
    with pytest.raises(
        DiskError, match=r"labels\.tif: no room for .* GB of an archive .* where 1e-06 GB are free; free"
    ):
        read(archive, tmp_path / "work")
    assert not contents(tmp_path / "work")


@pytest.mark.parametrize("headers", [{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": GOOD,
                                      "GNU.sparse.realsize": "1000"}, {"GNU.sparse.map": "0,x"}])  # fmt: skip
def test_sparse_files_are_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    """Of a map of holes that is cut short tarfile would read for ever."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("x")
        member.pax_headers, member.size = headers, 10
        tar.addfile(member, io.BytesIO(b"1000000\n0\n"))
    path = gzipped(tmp_path / "s.tar.gz", plain.getvalue())
    with pytest.raises(SourceError, match=r"s\.tar\.gz: is cut short or damaged \(member '.*' is a sparse file\)"):
        read(path, tmp_path / "work")
    old = tarfile.TarInfo(GOOD)
    old.type = tarfile.GNUTYPE_SPARSE
    path = gzipped(tmp_path / "t.tar.gz", old.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(SourceError, match="is a sparse file"):
        read(path, tmp_path / "work")


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.tar.gz")
    with pytest.raises(SourceError, match=r"p\.tar\.gz: is no regular file; correct imagery\.path"):
        read(tmp_path / "p.tar.gz", tmp_path / "work")


@given(st.binary(min_size=1, max_size=512), st.integers(0, 511))
def test_headers_of_any_bytes_end_in_words(bytes_: bytes, at: int) -> None:
    block = bytearray(tarfile.TarInfo(GOOD).tobuf(tarfile.GNU_FORMAT))
    block[at : at + len(bytes_)] = bytes_[: 512 - at]
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    block[148:156] = f"{total:06o}\0 ".encode()
    with tempfile.TemporaryDirectory() as made:
        path = gzipped(Path(made) / "odd.tar.gz", bytes(block[:512]) + bytes(4096))
        with suppress(SourceError):
            read(path, Path(made) / "work")


def test_bytes_after_the_end_are_counted(tmp_path: Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    path = gzipped(tmp_path / "bomb.tar.gz", plain.getvalue() + bytes(5 << 20))
    with pytest.raises(SourceError, match=r"unpacks to more than imagery\.max_bytes \(1048576\)"):
        read(path, tmp_path / "work")


@functools.cache
def small() -> bytes:
    with tempfile.TemporaryDirectory() as made:
        return pack(kenya(Path(made), tiles=1) / KENYA)


@given(st.data())
def test_archive_cut_anywhere_is_never_half_used(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder, body = Path(made), small()
        end = data.draw(st.integers(0, len(body) - 1))
        path = folder / "cut.tar.gz"
        path.write_bytes(body[:end])
        with pytest.raises(SourceError, match=r"cut\.tar\.gz: is (cut short or damaged .*get it again|no \.tar\.gz)"):
            read(path, folder / "work")
        assert not contents(folder / "work")


@given(st.data())
def test_tar_cut_before_it_was_packed_is_found_too(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder, plain = Path(made), gzip.decompress(small())
        end = data.draw(st.integers(0, len(plain.rstrip(b"\0")) // 512)) * 512
        path = gzipped(folder / "cut.tar.gz", plain[:end])
        with pytest.raises(SourceError, match=r"cut\.tar\.gz: is cut short or damaged"):
            read(path, folder / "work")
        assert not contents(folder / "work")


def test_damaged_middle_is_found(tmp_path: Path) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name in (GOOD, GOOD.replace("tile_00", "tile_01")):
            tar.addfile(tarfile.TarInfo(name))
    broken = bytearray(plain.getvalue())
    broken[512 + 150] ^= 0xFF  # the second header's checksum
    with pytest.raises(SourceError, match=r"b\.tar\.gz: is cut short or damaged"):
        read(gzipped(tmp_path / "b.tar.gz", bytes(broken)), tmp_path / "work")
    whole = bytearray(pack(kenya(tmp_path / "made") / KENYA))
    whole[-6] ^= 0xFF  # gzip's checksum
    (tmp_path / "c.tar.gz").write_bytes(whole)
    with pytest.raises(SourceError, match=r"c\.tar\.gz: is cut short or damaged \(CRC check failed"):
        read(tmp_path / "c.tar.gz", tmp_path / "work")


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "page.tar.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match=r"page\.tar\.gz: is no \.tar\.gz archive .*; correct imagery\.path"):
        read(tmp_path / "page.tar.gz", tmp_path / "work")
    with pytest.raises(SourceError, match=r"none\.tar\.gz: cannot be read \(No such file"):
        read(tmp_path / "none.tar.gz", tmp_path / "work")


def test_no_room_is_the_disks_fault(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("in the way")
    with pytest.raises(DiskError, match="cannot be written"):
        read(archive, tmp_path / "work")


PIECES = st.sampled_from(["..", ".", "/", "\\", "C:", "a", "", GOOD, "labels.tif", "~", "\x01", "é", KENYA])


@given(st.lists(st.lists(PIECES, max_size=6).map("/".join), max_size=5))
def test_hostile_names_never_leave_the_work_folder(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = tar_gz(folder / "some.tar.gz", [(name, b"body") for name in names])
        try:
            read(path, folder / "in" / "work")
        except SourceError as error:
            assert "some.tar.gz" in str(error)  # noqa: PT017 - most draws are refused, some are not
        for file in contents(folder):
            assert file == "some.tar.gz" or file.startswith(f"in{os.sep}work{os.sep}")


@pytest.mark.parametrize("name", [GOOD, f"./{GOOD}", "a..b/c", "..a/b", "", "a/./b", "x:y"])
def test_harmless_names(name: str) -> None:
    assert is_safe(name) is (name != "x:y")
