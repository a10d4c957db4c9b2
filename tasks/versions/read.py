"""Reading a dataset store: an Icechunk repository whose tags v1, v2, ... are the dataset's versions.

Light to import: training does, and whoever only reads. What a version holds is listed in :mod:`tasks.versions.schema`.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from tasks.errors import DiskError, StoreError
from tasks.secrets import redact
from tasks.state.workdir import local_path
from tasks.versions.schema import FORMER_ATTRIBUTES, FORMER_NAMES, READABLE, SPLITS, table

__doc__ = f"{__doc__}\n{table()}\n"

BRANCH = "main"
_DAMAGED = "the store is damaged: put back a copy of it, or build the version again in another store"
_CHECK = "check the bucket, the AWS_* credentials and AWS_ENDPOINT_URL"

# The process that started Icechunk's threads, which no fork takes along: 2 starts them when it is imported, 1 when a
# store is opened.
_opened_by: list[int] = [os.getpid()] if hasattr(icechunk, "SpecVersion") else []

# Local storage warns at every open that only one process may commit; the build's lock sees to that.
icechunk.set_logs_filter("error")


@dataclass(frozen=True)
class VersionInfo:
    """One version of a dataset."""

    version: str
    snapshot: str
    written_at: datetime
    message: str
    metadata: dict[str, Any]


class Samples(NamedTuple):
    """The pixels of some samples."""

    images: NDArray[Any]  # (sample, band, y, x), uint8, uint16, int16 or float32
    masks: NDArray[np.uint8]  # (sample, y, x), class values
    cloud_mask: NDArray[np.uint8] | None  # (sample, y, x), 1 where clouds hide the ground


@dataclass(frozen=True)
class SplitArrays:
    """The arrays of one split, by their present names whatever the schema."""

    group: zarr.Group
    where: str = "store"  # store and version, for messages

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def __contains__(self, name: str) -> bool:
        return self._name(name) in self.group

    @property
    def image(self) -> zarr.Array[Any]:
        """(sample, band, y, x), uint8, uint16, int16 or float32."""
        return self._array("image")

    @property
    def mask(self) -> zarr.Array[Any]:
        """uint8 (sample, y, x), class values."""
        return self._array("mask")

    @property
    def cloud_mask(self) -> zarr.Array[Any] | None:
        """uint8 (sample, y, x), 1 where clouds hide the ground; None when the version has no such array."""
        return self._array("cloud_mask") if "cloud_mask" in self else None

    @property
    def sample_id(self) -> list[str]:
        """Names of the samples, in slot order."""
        return [str(name) for name in self.array("sample_id")]

    @property
    def unit_of(self) -> list[str]:
        """What the split kept together with each sample, in slot order; empty in versions of schema 1."""
        return [str(name) for name in self.array("group")] if "group" in self else []

    def array(self, name: str) -> Any:
        """A whole array of the split in memory, such as ``tile`` or ``class_fraction``. Raises StoreError."""
        with self._damage(name):
            return self._array(name)[:]

    def samples(self, rows: slice, *, check: bool = True) -> Samples:
        """The pixels of some samples, whole chunks at best; ``check``: see that they are those that were written.

        Versions before schema 3 hold no hashes to see it by. Raises StoreError, naming the first sample that differs.
        """
        with self._damage(f"samples {rows.start or 0} to {rows.stop}"):
            clouds = self.cloud_mask
            found = Samples(
                np.asarray(self.image[rows]),
                np.asarray(self.mask[rows]),
                None if clouds is None else np.asarray(clouds[rows]),
            )
        if not check:
            return found
        first = rows.start or 0
        for what, pixels, hashes in zip(("image", "mask"), found[:2], self._hashes, strict=True):
            for row, (one, expected) in enumerate(zip(pixels, hashes[rows], strict=False)):
                if hashlib.sha256(np.ascontiguousarray(one).data).digest() != expected.tobytes():
                    name = self.sample_id[first + row]
                    raise StoreError(f"{self._named}: the {what} of sample {name} is not the one written; {_DAMAGED}")
        return found

    @cached_property
    def _hashes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Of images and masks, uint8 (sample, 32); (0, 32) where the version has none."""
        names = ("image_sha256", "mask_sha256")
        if any(name not in self for name in names):
            return (np.empty((0, 32), np.uint8),) * 2
        return self.array(names[0]), self.array(names[1])

    @property
    def _named(self) -> str:
        return f"{self.where}, {self.group.name.strip('/')}"

    @contextmanager
    def _damage(self, what: str) -> Iterator[None]:
        """Tell what codecs raise, which meet bytes that nobody wrote."""
        try:
            with store_errors(self.where):
                yield
        except (RuntimeError, ValueError, TypeError) as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise StoreError(f"{self._named}: {what} cannot be read ({said}); {_DAMAGED}") from None

    def _name(self, name: str) -> str:
        """What the version calls an array."""
        return name if name in self.group else FORMER_NAMES.get(name, name)

    def _array(self, name: str) -> zarr.Array[Any]:
        refuse_after_fork()
        found = self.group.get(self._name(name))
        if not isinstance(found, zarr.Array):
            there = ", ".join(sorted(self.group.array_keys()))
            raise StoreError(f"{self.group.name}/{name}: no such array in this version; there are {there or 'none'}")
        return found


@dataclass(frozen=True)
class DatasetVersion:
    """A pinned, read-only version of a dataset."""

    uri: str
    version: str
    snapshot: str
    root: zarr.Group

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes by their present names: recipe, classes, bands, mean, std, counts and the rest."""
        return {FORMER_ATTRIBUTES.get(name, name): value for name, value in self.root.attrs.items()}

    @property
    def ignore_index(self) -> int | None:
        """The masks' value for pixels without a usable label, where there is one."""
        found = self.attributes.get("ignore_index")
        return None if found is None else int(found)

    def split(self, name: str) -> SplitArrays:
        """The arrays of ``train``, ``validation`` or ``test``. Raises StoreError for another name."""
        refuse_after_fork()
        group = self.root.get(name)
        if not isinstance(group, zarr.Group):
            known = ", ".join(sorted(self.root.group_keys()))
            raise StoreError(f"{self.uri}@{self.version}: no split {name!r}; there are {known or 'none'}")
        return SplitArrays(group, f"{self.uri}@{self.version}")


@dataclass(frozen=True)
class Previous:
    """What the next version of a store goes on from."""

    number: int = 1  # of the next version: above that of every version there ever was
    newest: VersionInfo | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of the newest, by split in slot order
    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # in the same order; "" in schema 1

    def members(self) -> Iterator[tuple[str, str, str]]:
        """Name, unit and split of every sample."""
        for split, names in self.names.items():
            for name, unit in zip(names, self.units[split], strict=True):
                yield name, unit, split


def parse_reference(reference: str) -> tuple[str, str | None]:
    """``STORE`` or ``STORE@VERSION`` as (store, version or None)."""
    uri, sign, version = reference.rpartition("@")
    if sign and re.fullmatch(r"v[0-9]+", version):
        return uri, version
    return reference, None


def refuse_after_fork() -> None:
    """Raise StoreError in a forked child of a process that has used Icechunk, where reading would hang for ever."""
    if _opened_by and _opened_by[0] != os.getpid():
        raise StoreError(
            "this process was forked from one that uses Icechunk, which cannot be used in both; start workers afresh, "
            'as with DataLoader(..., multiprocessing_context="spawn")'
        )


def storage_of(uri: str) -> icechunk.Storage:
    """Icechunk storage of a local path or an ``s3://bucket/prefix`` (credentials from the environment)."""
    refuse_after_fork()
    _opened_by[:] = [os.getpid()]
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        prefix = parts.path.strip("/")
        if not parts.netloc or not prefix:
            raise StoreError(f"{uri}: expected s3://bucket/prefix")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            from tasks.versions.endpoint import see_that_it_answers  # reading files should not import requests

            see_that_it_answers(endpoint, parts.netloc)
        return icechunk.s3_storage(
            bucket=parts.netloc,
            prefix=prefix,
            from_env=True,
            endpoint_url=endpoint,
            allow_http=bool(endpoint and endpoint.startswith("http://")),
            force_path_style=endpoint is not None,
        )
    return icechunk.local_filesystem_storage(str(local_path(uri)))


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn Icechunk's and the disk's errors into ours, with the first line of theirs."""
    try:
        yield
    except icechunk.IcechunkError as error:
        text = redact(_plain(str(error)))
        if "No space left" in text or "StorageFull" in text:
            raise DiskError(f"{uri}: the disk is full; free space and run the same command again") from None
        hint = f"; {_CHECK}" if local_path(uri) is None else ""
        raise StoreError(f"{uri}: {text}{hint}") from None
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise DiskError(f"{uri}: the disk is full; free space and run the same command again") from None
        raise StoreError(f"{uri}: {error.strerror or error}") from None


def _plain(text: str) -> str:
    lines = [re.sub(r"^[\s|x\u00d7]+|\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()]
    return next((line for line in lines if line), "unknown Icechunk error")


def find_repository(uri: str) -> icechunk.Repository | None:
    """The repository at ``uri``; None when there is none. Raises StoreError when it cannot be read."""
    path = local_path(uri)
    with store_errors(uri):
        if path is not None and not path.is_dir():  # Icechunk would make the folder
            return None
        try:
            return icechunk.Repository.open(storage_of(uri))
        except icechunk.IcechunkError as error:
            # It is not asked first whether one exists: Icechunk 1 denies that of a store in a format that only 2 reads.
            if "repository doesn't exist" not in str(error):
                raise
            return None


def open_repository(uri: str) -> icechunk.Repository:
    """The repository at ``uri``. Raises StoreError when there is none."""
    found = find_repository(uri)
    if found is None:
        path = local_path(uri)
        what = "not an Icechunk store" if path is not None and path.exists() else "no store there"
        give = "give the path of one" if path is not None else _CHECK  # Icechunk 2 tells of no bucket that is not there
        raise StoreError(f"{uri}: {what}; {give}, or build it first")
    return found


def list_versions(repository: icechunk.Repository) -> list[VersionInfo]:
    """Versions of an open repository, oldest first."""
    found = []
    for tag in repository.list_tags():
        if not re.fullmatch(r"v[0-9]+", tag):
            continue
        snapshot = repository.lookup_tag(tag)
        info = next(iter(repository.ancestry(snapshot_id=snapshot)))
        found.append(VersionInfo(tag, snapshot, info.written_at, info.message, dict(info.metadata or {})))
    return sorted(found, key=lambda info: int(info.version[1:]))


def versions(uri: str) -> list[VersionInfo]:
    """Versions of the store at ``uri``, oldest first. Raises StoreError when there is no store."""
    repository = open_repository(uri)
    with store_errors(uri):
        return list_versions(repository)


def next_number(repository: icechunk.Repository) -> int:
    """The number of the next version: above all that tags and commits tell of.

    A tag that was deleted by hand is still told of by its commit; Icechunk would not make it again.
    """
    commits = (str((info.metadata or {}).get("version")) for info in repository.ancestry(branch=BRANCH))
    told = (re.fullmatch(r"v([0-9]+)", name) for name in (*repository.list_tags(), *commits))
    return 1 + max((int(found[1]) for found in told if found), default=0)


def previous_of(uri: str, repository: icechunk.Repository) -> Previous:
    """What the next version of the store at ``uri``, open as ``repository``, goes on from. Raises StoreError."""
    with store_errors(uri):
        known = list_versions(repository)
        number = next_number(repository)
        if not known:
            return Previous(number)
        version = _opened(uri, repository, known[-1])
        splits = {split: version.split(split) for split in SPLITS}
        names = {split: tuple(arrays.sample_id) for split, arrays in splits.items()}
        units = {split: tuple(arrays.unit_of) or ("",) * len(names[split]) for split, arrays in splits.items()}
        return Previous(number, known[-1], names, units)


def open_version(uri: str, version: str | None = None) -> DatasetVersion:
    """A version of the store at ``uri`` (the newest by default), read-only.

    Raises StoreError, listing the versions that exist, when it is not there.
    """
    repository = open_repository(uri)
    with store_errors(uri):
        known = list_versions(repository)
        if not known:
            raise StoreError(f"{uri}: holds no version yet; run the build again to finish one")
        chosen = known[-1] if version is None else next((info for info in known if info.version == version), None)
        if chosen is None:
            listed = ", ".join(info.version for info in known)
            raise StoreError(f"{uri}: no version {version!r}; there are {listed}")
        return _opened(uri, repository, chosen)


def _opened(uri: str, repository: icechunk.Repository, info: VersionInfo) -> DatasetVersion:
    root = zarr.open_group(repository.readonly_session(tag=info.version).store, mode="r")
    schema = root.attrs.get("schema_version")
    if schema not in READABLE:
        raise StoreError(
            f"{uri}@{info.version}: schema {schema}, this program reads {READABLE[-1]}; use the program that wrote it"
        )
    return DatasetVersion(uri, info.version, info.snapshot, root)
