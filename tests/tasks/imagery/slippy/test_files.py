import errno
import os
from pathlib import Path

import pytest

from tasks.errors import DiskError
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.files import image_path, remove_images, write_image

TILE = Tile(18, 5, 7)


def test_a_written_image_is_found_under_its_tile(tmp_path: Path) -> None:
    assert image_path(tmp_path, TILE) is None
    write_image(tmp_path, TILE, "jpeg", b"abc")
    assert image_path(tmp_path, TILE) == tmp_path / "18" / "5" / "7.jpg"
    assert (tmp_path / "18" / "5" / "7.jpg").read_bytes() == b"abc"
    assert image_path(tmp_path, Tile(18, 5, 8)) is None


def test_a_half_written_file_is_never_an_image_and_goes_with_the_next_try(tmp_path: Path) -> None:
    write_image(tmp_path, TILE, "png", b"abc")
    whole = image_path(tmp_path, TILE)
    assert whole is not None
    part = whole.with_name("7.part")
    whole.rename(part)
    assert image_path(tmp_path, TILE) is None
    write_image(tmp_path, TILE, "webp", b"abcd")
    assert not part.exists()
    assert image_path(tmp_path, TILE) == whole.with_name("7.webp")


def test_removing_leaves_other_tiles_alone(tmp_path: Path) -> None:
    neighbour = Tile(18, 5, 77)
    write_image(tmp_path, TILE, "png", b"a")
    write_image(tmp_path, TILE, "jpeg", b"b")
    write_image(tmp_path, neighbour, "png", b"c")
    (tmp_path / "18" / "5" / "7.part").write_bytes(b"d")
    remove_images(tmp_path, [TILE, Tile(18, 6, 7)])
    assert [path.name for path in (tmp_path / "18" / "5").iterdir()] == ["77.png"]


def test_killed_between_write_and_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_image(tmp_path, TILE, "jpeg", b"abc")
    assert image_path(tmp_path, TILE) is None


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskError, match=r"18/5: cannot write images \(No space left on device\); free space"):
        write_image(tmp_path, TILE, "jpeg", b"abc")
    assert image_path(tmp_path, TILE) is None


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "18").write_text("")
    with pytest.raises(DiskError, match="cannot write images"):
        write_image(tmp_path, TILE, "jpeg", b"abc")
    with pytest.raises(DiskError, match="cannot write images"):
        remove_images(tmp_path, [TILE])
