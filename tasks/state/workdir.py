"""The work directory beside a store: ledger, label files, image files, and the lock of a running build."""

import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from tasks.atomic import disk_error
from tasks.errors import BusyError, DiskError, StoreError
from tasks.secrets import redact


@dataclass(frozen=True)
class WorkDir:
    """Paths of one store's work directory. Nothing is made or looked at before it is asked for."""

    root: Path

    @classmethod
    def of(cls, store: str) -> "WorkDir":
        """``store``: a local path (its work directory is ``<store>.work``) or ``s3://bucket/prefix``
        (``work/<bucket>-<prefix>`` under the current directory). Raises StoreError for anything else.
        """
        local = local_path(store)
        if local is not None:
            return cls(local.with_name(local.name + ".work"))
        parts = urlsplit(store)
        return cls(Path("work").absolute() / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{parts.netloc}{parts.path}"))

    @property
    def ledger(self) -> Path:
        """The database of :mod:`tasks.state.sqlite`."""
        return self.root / "ledger.sqlite"

    @property
    def images(self) -> Path:
        """The folder of :mod:`tasks.state.staging`."""
        return self.root / "images"

    @property
    def labels(self) -> Path:
        """The folder of downloads for labels."""
        return self.root / "labels"

    @property
    def footprints(self) -> Path:
        """The footprints that masks are drawn from."""
        return self.labels / "footprints.parquet"

    @property
    def preview(self) -> Path:
        """The picture of some samples."""
        return self.root / "preview.png"

    def make(self) -> None:
        """Make the folders that are missing. Raises DiskError, StoreError."""
        try:
            self.images.mkdir(parents=True, exist_ok=True)
            self.labels.mkdir(exist_ok=True)
        except OSError as error:
            raise self._refused(error) from None

    @contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Hold the work directory, which was made, against other builds; a dead process holds nothing.

        Raises BusyError naming who holds it and since when, DiskError, StoreError.
        """
        path = self.root / "lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._refused(error) from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle, 0)
                os.pwrite(handle, _claim(command), 0)
            except BlockingIOError:
                raise BusyError(
                    f"{self.root}: another build holds this store ({_holder(path)}); wait for it to end, or stop it"
                ) from None
            except OSError as error:
                raise self._refused(error) from None
            try:
                yield
            finally:
                with suppress(OSError):  # it would hide what ended the build, and a lock that is let go holds nothing
                    os.ftruncate(handle, 0)
        finally:
            os.close(handle)

    def _refused(self, error: OSError) -> DiskError | StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return disk_error(self.root, error)
        return StoreError(f"{self.root}: cannot be made ({error.strerror or error}); choose another --store")


def local_path(store: str) -> Path | None:
    """The path of a local store, None for one in an object store. Raises StoreError for what is neither."""
    if not store.strip() or any(sign < " " for sign in store):
        raise StoreError(f"{redact(store)!r}: expected a local path or s3://bucket/prefix, without control characters")
    try:
        parts = urlsplit(store)
    except ValueError:  # brackets that are no IPv6 address
        parts = urlsplit("none://")
    if parts.scheme == "s3":
        if re.search("[@:]", parts.netloc) or parts.query or parts.fragment:
            raise StoreError(
                f"{redact(store)}: expected s3://bucket/prefix; credentials come from AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY"
            )
        return None
    if parts.scheme not in ("", "file"):
        raise StoreError(f"{redact(store)}: expected a local path or s3://bucket/prefix")
    return Path(parts.path if parts.scheme == "file" else store).absolute()


def _claim(command: str) -> bytes:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started, "command": command}).encode()


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} since {held['since']}: {held['command']}"
    except (OSError, ValueError, KeyError):
        return "its name could not be read"
