import errno
import hashlib
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.errors import DiskError
from tasks.state.staging import Staged, Staging

TILE = "18/5/7"


def some(dtype: str = "uint8", bands: int = 4, height: int = 9, width: int = 13) -> Staged:
    random = np.random.default_rng(3)
    image = (random.random((bands, height, width)) * 200).astype(dtype)
    return Staged(image, random.random((height, width)) < 0.3, random.random((height, width)) < 0.3)


def png(mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("clouds", [True, False])
def test_what_is_written_is_read(staging: Staging, dtype: str, clouds: bool) -> None:
    given = some(dtype) if clouds else Staged(some(dtype).image, some().hidden)
    size, digest = staging.write_array("scene/0-512@20180101", given)
    path = staging.path("scene/0-512@20180101")
    assert path == staging.folder / "scene" / "0-512@20180101.npy"
    assert path.stat().st_size == size
    assert sha256(path.read_bytes()) == digest
    found = staging.read("scene/0-512@20180101", digest)
    assert found is not None
    assert found.image.dtype == given.image.dtype
    assert np.array_equal(found.image, given.image)
    assert np.array_equal(found.hidden, given.hidden)  # type: ignore[arg-type]
    assert (found.cloud_mask is None) == (not clouds)
    if clouds:
        assert np.array_equal(found.cloud_mask, given.cloud_mask)  # type: ignore[arg-type]
    assert staging.shape("scene/0-512@20180101") == (dtype, 4, 9, 13)
    assert staging.write_array("again", given)[1] == digest  # no time of day in the bytes
    assert not list(staging.folder.rglob("*.part"))


def test_where_nothing_is_hidden_nothing_is_hidden(staging: Staging) -> None:
    _, digest = staging.write_array("a", Staged(some().image))
    found = staging.read("a", digest)
    assert found is not None
    assert found.hidden is not None
    assert not found.hidden.any()


def test_a_changed_or_missing_file_is_no_image(staging: Staging) -> None:
    _, digest = staging.write_array("a", Staged(np.zeros((1, 4, 4), np.uint8)))
    path = staging.path("a")
    assert path is not None
    assert staging.read("a", "0" * 64) is None
    path.write_bytes(path.read_bytes()[:-1])
    assert staging.read("a", digest) is None
    path.unlink()
    assert staging.read("a", digest) is None
    with pytest.raises(DiskError, match=r"a: no such image"):
        staging.shape("a")
    path.write_bytes(b"no array")
    with pytest.raises(DiskError, match=r"a\.npy: cannot be read"):
        staging.shape("a")


def test_pickles_are_not_read(staging: Staging) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (staging.folder / "evil.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        staging.read("evil", sha256(buffer.getvalue()))


# ---- encoded -----------------------------------------------------------------------------------


def test_a_written_image_is_found_under_its_name(staging: Staging) -> None:
    assert staging.path(TILE) is None
    staging.write_encoded(TILE, "jpeg", b"abc")
    assert staging.path(TILE) == staging.folder / "18" / "5" / "7.jpg"
    assert (staging.folder / "18" / "5" / "7.jpg").read_bytes() == b"abc"
    assert staging.path("18/5/8") is None


def test_what_the_source_sent_is_what_is_kept_and_decoded(staging: Staging) -> None:
    data = png()
    staging.write_encoded(TILE, "png", data)
    found = staging.read(TILE, sha256(data))
    assert found is not None
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(found.image, np.asarray(image).transpose(2, 0, 1))
    assert found.hidden is None
    assert found.cloud_mask is None
    assert staging.shape(TILE) == ("uint8", 3, 4, 6)


def test_transparent_pixels_are_hidden(staging: Staging) -> None:
    values = np.full((4, 4, 4), 255, np.uint8)
    values[:2, :, 3] = 0
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    staging.write_encoded(TILE, "png", buffer.getvalue())
    found = staging.read(TILE, sha256(buffer.getvalue()))
    assert found is not None
    assert found.hidden is not None
    assert found.hidden.tolist() == [[True] * 4] * 2 + [[False] * 4] * 2


def test_another_or_no_or_a_broken_image_is_none(staging: Staging) -> None:
    data = png()
    assert staging.read(TILE, sha256(data)) is None
    assert staging.read(TILE, sha256(b"")) is None
    staging.write_encoded(TILE, "png", data[:-1])
    assert staging.read(TILE, sha256(data)) is None
    assert staging.read(TILE, sha256(data[:-1])) is None


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 3)])
def test_a_header_that_cannot_be_read_is_told(staging: Staging, data: bytes) -> None:
    staging.write_encoded(TILE, "png", data)
    with pytest.raises(DiskError, match=r"7\.png: cannot be read .*; delete it and run the same command again"):
        staging.shape(TILE)


def test_a_half_written_file_is_never_an_image_and_goes_with_the_next_try(staging: Staging) -> None:
    staging.write_encoded(TILE, "png", b"abc")
    whole = staging.path(TILE)
    assert whole is not None
    part = whole.with_name("7.part")
    whole.rename(part)
    assert staging.path(TILE) is None
    staging.write_encoded(TILE, "webp", b"abcd")
    assert not part.exists()
    assert staging.path(TILE) == whole.with_name("7.webp")


@pytest.mark.parametrize("codec", ["encoded", "array"])
def test_killed_between_write_and_rename(staging: Staging, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write(staging, TILE, codec)
    assert staging.path(TILE) is None
    staging.remove([TILE])
    assert files(staging.folder) == []


@pytest.mark.parametrize("codec", ["encoded", "array"])
def test_a_full_disk(staging: Staging, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(
        DiskError, match=r"18/5/7\.\w+: cannot be written \(No space left on device\); free space and run the same"
    ):
        write(staging, TILE, codec)
    assert staging.path(TILE) is None


@pytest.mark.parametrize("codec", ["encoded", "array"])
def test_a_file_in_the_way(staging: Staging, codec: str) -> None:
    (staging.folder / "18").write_text("")
    with pytest.raises(DiskError, match="cannot be written"):
        write(staging, TILE, codec)
    with pytest.raises(DiskError, match="cannot be written"):
        staging.remove([TILE])


def write(staging: Staging, name: str, codec: str) -> None:
    if codec == "array":
        staging.write_array(name, some())
    else:
        staging.write_encoded(name, "jpeg", b"abc")


# ---- both --------------------------------------------------------------------------------------


def test_removing_leaves_other_samples_alone(staging: Staging) -> None:
    staging.write_encoded(TILE, "png", b"a")
    staging.write_encoded(TILE, "jpeg", b"b")
    staging.write_encoded("18/5/77", "png", b"c")
    staging.write_array(TILE, some())
    staging.write_array("scene@1", some())
    staging.write_array("scene@10", some())
    for half in ("18/5/7.part", "18/5/7.npy.part", "scene@1.npy.part"):
        (staging.folder / half).write_bytes(b"d")
    staging.remove([TILE, "18/6/7", "scene@1"])
    assert files(staging.folder) == ["18/5/77.png", "scene@10.npy"]


@given(st.text(min_size=1, max_size=40))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    asked: list[str] = []

    def is_file(path: str) -> bool:
        asked.append(path)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.state.staging.os.path.isfile", is_file)
        path = Staging(Path("/images")).path(name)
    assert path is not None
    assert path.is_relative_to("/images")
    assert ".." not in path.parts
    assert all("/../" not in one for one in asked)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "/", ".", "..", "x\0y", "a b", "ä"])
def test_odd_names_are_written_inside_the_folder(tmp_path: Path, name: str) -> None:
    staging = Staging(tmp_path / "images")
    _, digest = staging.write_array(name, some())
    assert staging.read(name, digest) is not None
    assert [path.parts[0] for path in map(Path, files(tmp_path))] == ["images"]
    staging.remove([name])
    assert files(tmp_path) == []


def test_it_goes_to_another_process(staging: Staging) -> None:
    staging.write_encoded(TILE, "png", b"a")
    assert pickle.loads(pickle.dumps(staging)).path(TILE) == staging.path(TILE)
