"""Files that are there whole or not at all: written under a temporary name beside their place, then renamed.

Nothing is forced to the disk: what must be told from a torn file after a power cut has a hash noted elsewhere.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import DiskError


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The temporary name to write ``path`` under: renamed when the block ends, removed when it raises.

    The name is this thread's own, so that threads and processes may write one file at once; its folder is made when
    missing. Raises DiskError for every OSError, also of the block (those of requests are some).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise disk_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write ``path`` as UTF-8. Raises DiskError."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str, data: bytes, temporary: str) -> None:
    """Write ``path`` under the name ``temporary``, which is in the same folder, with as few system calls as it takes.

    Each lets go of the interpreter, and getting it back costs. What a killed process leaves is the caller's to remove.
    Raises DiskError.
    """
    try:
        try:
            _write(temporary, data)
        except FileNotFoundError:  # the first file of its folder
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, data)
        os.rename(temporary, path)  # noqa: PTH104 - pathlib is slow
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: str | Path, error: OSError) -> DiskError:
    """That ``path`` cannot be written, and why."""
    return DiskError(
        f"{path}: cannot be written ({error.strerror or error}); free space and run the same command again"
    )


def _write(path: str, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
    finally:
        os.close(handle)
