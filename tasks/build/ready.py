"""Whether a build can end well: its store can be written, and there is room. Seen before imagery is fetched."""

import os
import shutil
import tempfile
from pathlib import Path

import icechunk

from tasks.errors import DiskError, StoreError
from tasks.state.workdir import WorkDir, local_path
from tasks.versions.read import BRANCH, find_repository, store_errors
from tasks.versions.write import open_or_create

PROBE = "tilewright-write-check"  # a branch, there for a moment
WORST_GUESS = 4  # estimates of bytes are not off by more


def check_store(uri: str) -> None:
    """See that a version can be written to the store at ``uri``. Raises StoreError, DiskError.

    A local store is not made before there is a version to write; what is written is a file that goes at once. A store
    in S3 is made if there is none, for only writing shows whether a bucket takes it; of one that is there, a branch is
    made and deleted.
    """
    path = local_path(uri)
    if path is None:
        repository = open_or_create(uri)
        with store_errors(uri):
            _write_branch(repository)
    else:
        _check_folder(uri, path)


def check_room(work: WorkDir, wanted: int) -> str:
    """A warning when ``wanted`` bytes of imagery, which is an estimate, may not fit beside the store; "" when they do.

    Raises DiskError when they cannot fit.
    """
    free = shutil.disk_usage(work.root).free
    if wanted <= free:
        return ""
    told = f"{work.root}: the imagery takes about {wanted / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free there"
    if wanted > WORST_GUESS * free:
        raise DiskError(f"{told}; free space, or choose a --store on a larger disk; nothing was fetched")
    return f"{told}; what is fetched until the disk is full is kept, and the version takes about as much again"


def _write_branch(repository: icechunk.Repository) -> None:
    if PROBE in repository.list_branches():  # of a process that was killed
        repository.delete_branch(PROBE)
    repository.create_branch(PROBE, repository.lookup_branch(BRANCH))
    repository.delete_branch(PROBE)


def _check_folder(uri: str, path: Path) -> None:
    try:
        if path.is_symlink() and not path.exists():
            raise StoreError(
                f"{uri}: is a link to {path.readlink()}, which does not exist; make that folder, or delete it"
            )
        if path.exists() and not path.is_dir():
            raise StoreError(
                f"{uri}: is a file; give the path of a folder that is a store, is empty, or does not exist"
            )
        there = path.is_dir() and any(path.iterdir())
        if there and find_repository(uri) is None:
            raise StoreError(f"{uri}: not an Icechunk store, and not empty; give another --store")
        folder = path.resolve() if path.is_dir() else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
        closed = [one for one in folder.iterdir() if one.is_dir() and not os.access(one, os.W_OK)] if there else []
        if closed:
            raise StoreError(f"{closed[0]}: cannot be written, so no version can be made; mend its permissions")
    except OSError as error:
        kind = DiskError if error.errno == 28 else StoreError  # ENOSPC
        raise kind(f"{uri}: cannot be written ({error.strerror or error}); choose another --store") from None
