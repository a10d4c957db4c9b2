import errno
import os
import threading
from pathlib import Path

import pytest

from tasks.atomic import write_bytes, write_text, writing
from tasks.errors import DiskError


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def broken(path: Path, error: BaseException) -> None:
    """Write half of a file, then meet ``error``."""
    with writing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_is_there_once_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "made" / "too" / "a.json"
    with writing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_old_file_stays_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error):
        broken(path, error())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_an_error_of_the_block_is_the_caller_s_when_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), writing(tmp_path / "a"):
        raise ValueError("mine")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DiskError, match=r"a\.json: cannot be written \(No space left on device\); free space and run"):
        broken(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(DiskError, match=r"a/b: cannot be written"):
        write_text(tmp_path / "a" / "b", "text")
    with pytest.raises(DiskError, match=r"a/b: cannot be written"):
        write_bytes(f"{tmp_path}/a/b", b"bytes", temporary=f"{tmp_path}/a/b.part")


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    path, texts = tmp_path / "a", ["x" * 100_000, "y" * 100_000]
    together = threading.Barrier(2)

    def write(text: str) -> None:
        together.wait()
        for _ in range(20):
            write_text(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert names(tmp_path) == ["a"]


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "Kraków")
    assert (tmp_path / "a").read_bytes() == b"Krak\xc3\xb3w"


def test_bytes_are_written_whole_also_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    path = str(tmp_path / "folder" / "a")
    write_bytes(path, b"0123456789", temporary=path + ".part")
    assert Path(path).read_bytes() == b"0123456789"
    assert names(tmp_path / "folder") == ["a"]


def test_bytes_that_find_no_room_do_not_replace_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskError, match=r"a: cannot be written \(No space left on device\)"):
        write_bytes(str(path), b"new", temporary=f"{path}.part")
    assert path.read_bytes() == b"old"
