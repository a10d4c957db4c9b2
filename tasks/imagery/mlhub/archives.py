"""The .tar.gz archives of MLHub: read once as a stream, of which only the wanted files are kept.

An archive is somebody else's file. Names that lead out of a folder, links and devices end the reading, as do more
bytes than the recipe allows, than the disk has room for, or than images can be packed to. What was unpacked counts
only when the archive was whole: the manifest is written last.
"""

import gzip
import hashlib
import json
import re
import shutil
import stat as stat_module
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Self

from tasks.atomic import disk_error, write_text, writing
from tasks.errors import DiskError, SourceError
from tasks.imagery.mlhub.layouts import Choice, Collector
from tasks.raster.scene import LocalAsset
from tasks.web.download import RESERVE

SUFFIXES = (".tar.gz", ".tgz")
MOST_RATIO = 200  # bytes that one of an archive may become, once they are more than RATIO_FROM
RATIO_FROM = 256 << 20  # bytes
MOST_MEMBERS = 10_000_000  # of an archive
_MANIFEST = "manifest.json"
_LONG = 200  # characters of a name in a message
_CHUNK = 1 << 20  # bytes
# What tarfile raises besides its own for headers that make no sense.
_BROKEN = (ValueError, IndexError, KeyError, OverflowError, RecursionError)
_DEFLATE = 1032  # no deflate stream holds more bytes than that for each of its own
_SMALL = 1 << 20  # bytes: of a header that carries a long name, and what an archive may add to its files
# Types, of a byte each, of headers that say more of the next member.
_HEADERS = (
    tarfile.XHDTYPE + tarfile.XGLTYPE + tarfile.SOLARIS_XHDTYPE + tarfile.GNUTYPE_LONGNAME + tarfile.GNUTYPE_LONGLINK
)


class BrokenArchiveError(SourceError):
    """An archive that nobody can use, however often it is read."""


def read_archive(archive: Path, work: Path, choice: Choice, collector: Collector, max_bytes: int) -> None:
    """Offer every file of an archive to ``collector`` and keep the wanted ones in a folder of ``work``.

    An archive that was read before, for the same bands, and has not changed is not opened again. ``max_bytes`` is what
    it may unpack to. Raises SourceError naming the archive and the member, of which BrokenArchiveError for what is no
    archive or no whole one, and DiskError.
    """
    try:
        stat = archive.stat()
    except OSError as error:
        raise SourceError(f"{archive}: cannot be read ({error.strerror}); correct imagery.path") from error
    of = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sensor": choice.sensor, "bands": sorted(choice.bands)}
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", archive.name.partition(".")[0])[:80]
    folder = work / f"{stem}-{hashlib.sha256(str(archive.resolve()).encode()).hexdigest()[:12]}"
    if not stat_module.S_ISREG(stat.st_mode):  # a pipe or a device may have no end
        raise SourceError(f"{archive}: is no regular file; correct imagery.path")
    if not (names := _kept(folder, of)):
        shutil.rmtree(folder, ignore_errors=True)
        own = Collector(choice, str(archive))
        try:
            files = _unpack(archive, stat.st_size, folder, own, max_bytes)
            others = [name for name in own.examples() if name not in files]
            write_text(folder / _MANIFEST, json.dumps({"of": of, "files": files, "others": others}))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        names = [*files, *others]
    for name in names:
        if hit := collector.offer(name):
            collector.add(hit, LocalAsset(folder / hit.file))


def is_safe(name: str) -> bool:
    """Whether a member's name stays below the folder that an archive is unpacked to."""
    parts = PurePosixPath(name.replace("\\", "/"))
    drive = re.match(r"[A-Za-z]:", name) is not None
    return not (parts.is_absolute() or ".." in parts.parts or drive or "\0" in name)


def _kept(folder: Path, of: dict[str, Any]) -> list[str]:
    """Names of members as an earlier run left them; empty when there is none that holds."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        whole = all((folder / own).stat().st_size == size for own, size in manifest["files"].values())
        return [*manifest["files"], *manifest["others"]] if manifest["of"] == of and whole else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _unpack(
    archive: Path, compressed: int, folder: Path, collector: Collector, max_bytes: int
) -> dict[str, tuple[str, int]]:
    """Write the wanted members; member's name -> our own name of its file, and its size in bytes."""
    files: dict[str, tuple[str, int]] = {}
    members = declared = 0
    try:
        with (
            _Stream(archive, compressed, max_bytes) as stream,
            _Tar.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar,
        ):
            while (member := tar.next()) is not None:
                tar.members.clear()  # else tarfile keeps every header of millions
                _check(archive, member)
                members, declared = members + 1, declared + member.size
                if declared > max_bytes:
                    raise _too_large(archive, max_bytes)
                if members > MOST_MEMBERS:
                    raise SourceError(f"{archive}: has more than {MOST_MEMBERS:,} members; get it from its publisher")
                if declared > compressed * _DEFLATE + _SMALL:
                    raise SourceError(
                        f"{archive}: member {_shown(member)} claims {member.size} bytes, more than a file of"
                        f" {compressed} bytes can hold; the archive is broken or hostile, get it again"
                    )
                _see_ratio(archive, declared, compressed)
                name = member.name.removeprefix("./")
                if member.isreg() and (hit := collector.offer(name)):
                    _write(tar, member, folder / hit.file)
                    files[name] = (hit.file, member.size)
            if not tar.ended:
                raise EOFError("no end of the archive")
            while stream.read(_CHUNK):  # the checksum at gzip's very end covers all
                pass
    except (EOFError, tarfile.TarError, *_BROKEN) as error:
        with archive.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        if not isinstance(error, EOFError) and not is_gzip:
            raise BrokenArchiveError(f"{archive}: is no .tar.gz archive ({error}); correct imagery.path") from error
        raise BrokenArchiveError(
            f"{archive}: is cut short or damaged ({error}); nothing of it was used; remove it and get it again"
        ) from error
    except OSError as error:
        raise SourceError(f"{archive}: cannot be read ({error.strerror or error})") from error
    return files


def _shown(member: tarfile.TarInfo) -> str:
    """Its name for messages."""
    return repr(member.name if len(member.name) <= _LONG else f"{member.name[:_LONG]}...")


def _check(archive: Path, member: tarfile.TarInfo) -> None:
    if not is_safe(member.name):
        raise SourceError(
            f"{archive}: member {_shown(member)} leads out of the archive's folder; nothing was written there. Do not"
            " use this archive, get it from its publisher"
        )
    if not member.isreg() and not member.isdir():
        kind = "a link" if member.issym() or member.islnk() else "a device or another special file"
        raise SourceError(
            f"{archive}: member {_shown(member)} is {kind}; collections hold plain files, get it from its publisher"
        )


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None  # a regular file
    _see_room(path, member.size)
    with writing(path) as part, part.open("wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)
        if file.tell() != member.size:
            raise EOFError(f"member {_shown(member)} ends early")


def _see_ratio(archive: Path, unpacked: int, packed: int) -> None:
    """Raise SourceError for an archive that is nearly all air."""
    if unpacked > RATIO_FROM and unpacked > MOST_RATIO * packed:
        raise SourceError(
            f"{archive}: unpacks to more than {MOST_RATIO} times its {packed:,} bytes, which no images do; get it from "
            "its publisher, or if it is as it should be, unpack it and give its folder to imagery.reader: local"
        )


def _see_room(path: Path, size: int) -> None:
    """Raise DiskError when a file has no room, or would leave less of a disk than RESERVE or as much as it takes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise disk_error(path, error) from error
    if free < size + min(size, RESERVE):
        raise DiskError(
            f"{path}: no room for {size / 1e9:,.3g} GB of an archive (with a reserve) where {free / 1e9:,.3g} GB are "
            "free; free some disk, then run the same command again"
        )


def _too_large(archive: Path, max_bytes: int) -> SourceError:
    return SourceError(
        f"{archive}: unpacks to more than imagery.max_bytes ({max_bytes}); if that is as it should be, raise it"
    )


class _Stream(gzip.GzipFile):
    """What was packed, read once, and not much more than the recipe allows."""

    def __init__(self, archive: Path, compressed: int, max_bytes: int) -> None:
        super().__init__(archive, "rb")
        self._archive, self._compressed, self._max_bytes, self._got = archive, compressed, max_bytes, 0

    def read(self, size: int | None = -1) -> bytes:
        try:
            block = super().read(size)
        except (gzip.BadGzipFile, zlib.error) as error:
            raise tarfile.ReadError(str(error)) from error
        except OSError as error:  # here, so that it is not the fault of a file that is written meanwhile
            raise SourceError(f"{self._archive}: cannot be read ({error.strerror or error})") from error
        self._got += len(block)
        if self._got > 2 * self._max_bytes + _SMALL:  # headers weigh as much as files that are very small
            raise _too_large(self._archive, self._max_bytes)
        _see_ratio(self._archive, self._got, self._compressed)
        return block


class _Tar(tarfile.TarFile):
    """A tar file that knows whether it came to its end: tarfile takes a broken header in the middle for one."""

    ended = False
    members: list[tarfile.TarInfo]


class _Member(tarfile.TarInfo):
    """A header that is read with care."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except _END:
            assert isinstance(tarfile, _Tar)
            tarfile.ended = True
            raise

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        made = super().frombuf(buf, encoding, errors)
        if made.size < 0 or (made.type in _HEADERS and made.size > _SMALL):
            raise EOFError(f"a header claims {made.size} bytes")
        return made

    def _refuse(self, *_: object) -> Self:
        """In place of reading where the holes of a sparse file are: of a broken one tarfile would read for ever."""
        raise tarfile.ReadError(f"member {_shown(self)} is a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


_END: type[tarfile.HeaderError] = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # missing in typeshed
