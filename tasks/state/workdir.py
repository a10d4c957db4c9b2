"""The work directory beside a store: ledger, label files, image files, and the lock of a running build."""

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from tasks.errors import BusyError, DiskError, StoreError
from tasks.versions.read import local_path


class WorkDir:
    """Paths of one store's work directory, which is made when missing."""

    def __init__(self, store: str) -> None:
        """``store``: a local path (its work directory is ``<store>.work``) or ``s3://bucket/prefix``
        (``work/<bucket>-<prefix>`` under the current directory).
        """
        local = local_path(store)
        if local is not None:
            self.root = local.with_name(local.name + ".work")
        else:
            parts = urlsplit(store)
            self.root = Path("work").absolute() / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{parts.netloc}{parts.path}")
        self.ledger = self.root / "ledger.sqlite"
        self.images = self.root / "images"
        self.labels = self.root / "labels"
        self.footprints = self.labels / "footprints.parquet"
        self.preview = self.root / "preview.png"
        try:
            self.images.mkdir(parents=True, exist_ok=True)
            self.labels.mkdir(exist_ok=True)
        except OSError as error:
            kind = DiskError if error.errno == 28 else StoreError
            raise kind(f"{self.root}: cannot be made ({error.strerror}); choose another --store") from None

    @contextmanager
    def lock(self, command: str) -> Iterator[None]:
        """Hold the work directory against other builds; a dead process holds nothing.

        Raises BusyError naming who holds it and since when.
        """
        path = self.root / "lock"
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"{self.root}: another build holds this store ({_holder(path)}); wait for it to end, or stop it"
                ) from None
            file.truncate(0)
            started = datetime.now(UTC).isoformat(timespec="seconds")
            file.write(
                json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started, "command": command})
            )
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} since {held['since']}: {held['command']}"
    except (OSError, ValueError, KeyError):
        return "its name could not be read"
