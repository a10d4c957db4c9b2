import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.errors import BusyError, DiskError, StoreError
from tasks.state.workdir import WorkDir, local_path

HOLDER = """
import sys; from pathlib import Path; from tasks.state.workdir import WorkDir
with WorkDir(Path(sys.argv[1])).lock("build of other"):
    print("held", flush=True); sys.stdin.read()
"""


@pytest.fixture
def work(tmp_path: Path) -> WorkDir:
    work = WorkDir.of(str(tmp_path / "store"))
    work.make()
    return work


def test_it_is_beside_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert WorkDir.of("some/store").root == tmp_path / "some" / "store.work"
    assert WorkDir.of(f"file://{tmp_path}/store").root == tmp_path / "store.work"


def test_it_is_here_for_a_store_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert WorkDir.of("s3://bucket/a/b c").root == tmp_path / "work" / "bucket-a-b-c"


def test_another_kind_of_store_is_refused_without_its_secrets() -> None:
    with pytest.raises(StoreError, match=r"expected a local path or s3://bucket/prefix") as refused:
        WorkDir.of("https://user:hunter2@example.com/store")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("store", ["a\0b", "s3://bucket/a\0b", "", " ", "a\nb"])
def test_what_is_no_address_is_told(store: str) -> None:
    with pytest.raises(StoreError, match=r"expected a local path or s3://bucket/prefix, without control characters"):
        WorkDir.of(store)


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be made \(File name too long\)"):
        WorkDir.of(str(tmp_path / ("x" * 5000))).make()


def test_a_full_disk_is_told_as_one_when_the_lock_is_made(work: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "open", full)
    with (
        pytest.raises(DiskError, match=r"No space left on device.*free space and run the same command again"),
        work.lock("build"),
    ):
        pass


def test_where_a_store_is() -> None:
    assert local_path("s3://bucket/prefix") is None
    assert local_path("file:///a/b") == local_path("/a/b") == Path("/a/b")
    assert local_path("a") == Path("a").absolute()


def test_naming_its_paths_makes_nothing(tmp_path: Path) -> None:
    work = WorkDir.of(str(tmp_path / "store"))
    inside = (work.ledger, work.images, work.labels, work.footprints, work.preview)
    assert all(path.is_relative_to(work.root) for path in inside)
    assert list(tmp_path.iterdir()) == []
    work.make()
    work.make()
    assert sorted(work.root.iterdir()) == [work.images, work.labels]


def test_it_goes_to_another_process(work: WorkDir) -> None:
    assert pickle.loads(pickle.dumps(work)) == work


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store.work").write_text("in the way")
    work = WorkDir.of(str(tmp_path / "store"))
    with pytest.raises(StoreError, match=r"store\.work: cannot be made \(.*\); choose another --store"):
        work.make()
    with pytest.raises(StoreError, match=r"store\.work: cannot be made"), work.lock("build"):
        pass

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskError, match="No space left on device"):
        WorkDir.of(str(tmp_path / "other")).make()


def test_a_lock_that_cannot_be_written_is_told_and_let_go(work: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DiskError, match="No space left on device"), work.lock("build"):
            pass
    with work.lock("build"):
        pass


def test_a_held_lock_names_its_holder_also_across_processes(work: WorkDir) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(work.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(
                BusyError, match=rf"another build holds this store \(process {process.pid} on .*: build of o"
            ),
            work.lock("build of mine"),
        ):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with work.lock("build of mine"):  # a dead process holds nothing
            held = json.loads((work.root / "lock").read_text())
            assert (held["pid"], held["command"]) == (os.getpid(), "build of mine")
    assert (work.root / "lock").read_text() == ""


def test_a_holder_without_a_name_is_told_too(work: WorkDir) -> None:
    with work.lock("build"):
        (work.root / "lock").write_text("")
        with pytest.raises(BusyError, match="its name could not be read"), work.lock("build"):
            pass


def test_a_lock_is_let_go_when_the_build_fails(work: WorkDir) -> None:
    with pytest.raises(RuntimeError), work.lock("build"):
        raise RuntimeError
    with work.lock("build"):
        pass
