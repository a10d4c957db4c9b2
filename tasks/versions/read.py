"""Reading a dataset store: an Icechunk repository whose tags v1, v2, ... are the dataset's versions.

Layout of a version (schema 2), groups ``train``, ``validation`` and ``test``, n samples each:

=================== ======================== ======== ==========================================
array               dimensions               dtype    meaning
=================== ======================== ======== ==========================================
image               sample, band, y, x       any      uint8, uint16, int16 or float32; row 0 is the northern edge
mask                sample, y, x             uint8    class values of the recipe, and its ignore value
unusable            sample, y, x             uint8    1 where clouds hide the ground (clouds.on_cloud: mask)
sample_id           sample                   string   z/x/y of a tile, or a window's name
group               sample                   string   what the split kept together with it
crs                 sample                   string   "EPSG:3857", ...; empty where there is none
transform           sample, coefficient      float64  a to f of rasterio.Affine; NaN where there is none
bounds              sample, edge             float64  west, south, east, north in degrees
class_share         sample, class            float32  shares of all pixels by their labels alone, before resizing
building_fraction   sample                   float32  the same for buildings, where there is such a class
nodata_fraction     sample                   float32  share of the image's pixels
fetched_at          sample                   int64    Unix seconds (CF units, so xarray gives dates)
tile                sample, index            int32    z, x, y (tiles only)
cloud_fraction      sample                   float32  NaN where nobody knows (windows only)
acquired_at         sample                   int64    when the image was taken (windows only)
origin              sample                   string   item or scene that the image is from (windows only)
=================== ======================== ======== ==========================================

Schema 1 is the same for tiles, without ``group``, ``crs``, ``transform`` and ``class_share``; it is still read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import icechunk
import zarr

from tasks.errors import DiskError, StoreError
from tasks.secrets import redact

SCHEMA_VERSION = 2
READABLE = (1, 2)
BRANCH = "main"

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


@dataclass(frozen=True)
class SplitArrays:
    """The arrays of one split."""

    group: zarr.Group

    def __len__(self) -> int:
        return int(self.image.shape[0])

    @property
    def image(self) -> zarr.Array[Any]:
        """(sample, band, y, x), uint8, uint16, int16 or float32."""
        return self._array("image")

    @property
    def mask(self) -> zarr.Array[Any]:
        """uint8 (sample, y, x), class values."""
        return self._array("mask")

    @property
    def unusable(self) -> zarr.Array[Any] | None:
        """uint8 (sample, y, x), 1 where clouds hide the ground; None when the version has no such array."""
        return self._array("unusable") if "unusable" in self.group else None

    @property
    def sample_id(self) -> list[str]:
        """Names of the samples, in order."""
        return [str(name) for name in self._array("sample_id")[:]]  # type: ignore[union-attr]

    @property
    def group_of(self) -> list[str]:
        """What the split kept together with each sample, in order; empty in versions of schema 1."""
        if "group" not in self.group:
            return []
        return [str(name) for name in self._array("group")[:]]  # type: ignore[union-attr]

    def array(self, name: str) -> Any:
        """A whole array of the split in memory, such as ``tile`` or ``building_fraction``."""
        return self._array(name)[:]

    def _array(self, name: str) -> zarr.Array[Any]:
        found = self.group[name]
        if not isinstance(found, zarr.Array):
            raise StoreError(f"{self.group.name}/{name}: expected an array; the store is not one of Tilewright's")
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
        """Root attributes: recipe, classes, bands, mean, std, counts and the rest."""
        return dict(self.root.attrs)

    def split(self, name: str) -> SplitArrays:
        """The arrays of ``train``, ``validation`` or ``test``. Raises StoreError for another name."""
        group = self.root.get(name)
        if not isinstance(group, zarr.Group):
            known = ", ".join(sorted(self.root.group_keys()))
            raise StoreError(f"{self.uri}@{self.version}: no split {name!r}; there are {known or 'none'}")
        return SplitArrays(group)


def parse_reference(reference: str) -> tuple[str, str | None]:
    """``STORE`` or ``STORE@VERSION`` as (store, version or None)."""
    uri, sign, version = reference.rpartition("@")
    if sign and re.fullmatch(r"v[0-9]+", version):
        return uri, version
    return reference, None


def storage_of(uri: str) -> icechunk.Storage:
    """Icechunk storage of a local path or an ``s3://bucket/prefix`` (credentials from the environment)."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        prefix = parts.path.strip("/")
        if not parts.netloc or not prefix:
            raise StoreError(f"{uri}: expected s3://bucket/prefix")
        import os

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return icechunk.s3_storage(
            bucket=parts.netloc,
            prefix=prefix,
            from_env=True,
            endpoint_url=endpoint,
            allow_http=bool(endpoint and endpoint.startswith("http://")),
            force_path_style=endpoint is not None,
        )
    return icechunk.local_filesystem_storage(str(local_path(uri)))


def local_path(uri: str) -> Path | None:
    """The path of a local store, None for one in an object store."""
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        return None
    if parts.scheme not in ("", "file"):
        raise StoreError(f"{redact(uri)}: expected a local path or s3://bucket/prefix")
    return Path(parts.path if parts.scheme == "file" else uri).absolute()


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turn Icechunk's and the disk's errors into ours, with the first line of theirs."""
    try:
        yield
    except icechunk.IcechunkError as error:
        text = redact(_plain(str(error)))
        if "No space left" in text or "StorageFull" in text:
            raise DiskError(f"{uri}: the disk is full; free space and run the same command again") from None
        hint = "; check the bucket, the AWS_* credentials and AWS_ENDPOINT_URL" if local_path(uri) is None else ""
        raise StoreError(f"{uri}: {text}{hint}") from None
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise DiskError(f"{uri}: the disk is full; free space and run the same command again") from None
        raise StoreError(f"{uri}: {error.strerror or error}") from None


def _plain(text: str) -> str:
    lines = [re.sub(r"^[\s|x\u00d7]+|\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()]
    return next((line for line in lines if line), "unknown Icechunk error")


def store_exists(uri: str) -> bool:
    """Whether there is an Icechunk repository at ``uri``."""
    path = local_path(uri)
    if path is not None and not path.is_dir():
        return False
    with store_errors(uri):
        return icechunk.Repository.exists(storage_of(uri))


def open_repository(uri: str) -> icechunk.Repository:
    """The repository at ``uri``. Raises StoreError when there is none."""
    if not store_exists(uri):
        path = local_path(uri)
        what = "not an Icechunk store" if path is not None and path.exists() else "no store there"
        raise StoreError(f"{uri}: {what}; give the path of one, or build it first")
    with store_errors(uri):
        return icechunk.Repository.open(storage_of(uri))


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
        root = zarr.open_group(repository.readonly_session(tag=chosen.version).store, mode="r")
    if root.attrs.get("schema_version") not in READABLE:
        raise StoreError(
            f"{uri}@{chosen.version}: schema {root.attrs.get('schema_version')}, this program reads {READABLE[-1]}; "
            "use the program that wrote it"
        )
    return DatasetVersion(uri, chosen.version, chosen.snapshot, root)
