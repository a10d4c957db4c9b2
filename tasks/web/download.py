"""Files over HTTP: streamed, checked, large ones resumed where they broke off and asked for again only if changed.

Follows RFC 9110: Range with If-Range (14.2, 13.1.5), If-None-Match and If-Modified-Since (13.1.2, 13.1.3).
"""

import base64
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tasks.atomic import writing
from tasks.errors import DiskError, LabelError, TilewrightError
from tasks.secrets import redact
from tasks.web.answers import Stream
from tasks.web.bodies import is_markup
from tasks.web.client import USUAL, Bounds, Client
from tasks.web.reach import ANYWHERE, Reach
from tasks.web.retry import TRANSIENT_STATUS, RetryPolicy, TransientError

DOWNLOAD_POLICY = RetryPolicy(attempts=6, total_seconds=6 * 3600)
SILENCE = 60.0  # seconds that must bring tasks.web.client.LEAST_RATE bytes each, or the attempt is lost
RESERVE = 1 << 30  # bytes of disk that a large download leaves free; a small one leaves as much as it takes
LOOK_BYTES = 1 << 26  # after which the room on the disk is looked at again
_DIGEST_BYTES = 4096  # of a file that holds a digest; what comes after is not read
_HEX_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Manner:
    """How a download asks, and in whose words it fails."""

    error: type[TilewrightError] = LabelError
    advice: str = "correct the URL in labels"
    name: str = ""  # of the file; default: the end of the URL
    silence: float | None = None  # seconds; default: SILENCE
    # Where the file lies just now, and headers for that place: asked before every attempt, so that a URL that was
    # signed for a time may run out. Raises TransientError, or what is to end the download. With it goes no login of the
    # user's .netrc.
    locate: Callable[[], tuple[str, Mapping[str, str]]] | None = None


def download(
    url: str,
    folder: Path,
    checksum: str | None = None,
    policy: RetryPolicy | None = None,
    manner: Manner = Manner(),
    *,
    limits: Bounds = USUAL,
    reach: Reach = ANYWHERE,
) -> tuple[Path, int]:
    """The file behind ``url``, somewhere in ``folder``, and how many requests that took.

    A complete copy is kept when the server answers 304. ``checksum`` is ``md5:<hex>``, ``sha256:<hex>`` or the URL of
    a file that holds such a digest. An attempt that gained bytes, and did not end because they came too slowly, does
    not count against ``policy`` (by default DOWNLOAD_POLICY). Where the server gives a Content-MD5, the file has that
    digest. Raises ``manner.error`` (LabelError) naming ``url`` without its token, also for a file over
    ``limits.download_bytes``; DiskError when the disk refuses or has no room.
    """
    policy, silence, login = policy or DOWNLOAD_POLICY, manner.silence or SILENCE, manner.locate is None
    with Client(policy, silence, manner.error, manner.advice, login=login, limits=limits, reach=reach) as client:
        job = _Download(url, folder, client, manner)
        try:
            job.path.parent.mkdir(parents=True, exist_ok=True)
            expected = client.persist(lambda: job.expected_digest(checksum)) if checksum else ""
            client.persist(job.fetch)
            if expected:
                job.verify(expected)
        except TransientError as error:
            raise manner.error(f"{error}; gave up after {error.tried}, start again to go on") from error
        except OSError as error:
            reason = error.strerror or error
            raise DiskError(f"{job.path}: cannot write the download ({reason}); free some disk") from error
    return job.path, client.requests


class _Download:
    """One file and its unfinished part, each with a note of the validators that the server gave for it."""

    def __init__(self, url: str, folder: Path, client: Client, manner: Manner) -> None:
        name = manner.name or PurePosixPath(redact(unquote(urlsplit(url).path))).name
        name = re.sub(r"[^\w.-]", "_", name) or "file"
        # Two URLs may end in one name. A hash keeps them apart and lets no token into a file name.
        self.path = folder / hashlib.sha256(url.encode()).hexdigest()[:12] / name
        self.part = self.path.with_name(f"{name}.part")
        self.url = url
        self.shown = redact(url)
        self.client, self.manner = client, manner
        self._furthest = 0
        self._deadline = time.monotonic() + client.policy.total_seconds

    def fetch(self) -> None:
        """Bring ``path`` up to date in one request. Raises TransientError when another may do better."""
        part_note, note = _read_note(self.part), _read_note(self.path)
        size = self.part.stat().st_size if self.part.is_file() else 0
        if size and size == part_note.get("length"):
            return self._finish(part_note)
        headers: dict[str, str] = {}
        if self.path.is_file() and note.get("etag"):
            headers["If-None-Match"] = str(note["etag"])
        elif self.path.is_file() and note.get("modified"):
            headers["If-Modified-Since"] = str(note["modified"])
        if size and part_note.get("resume"):
            headers |= {"Range": f"bytes={size}-", "If-Range": str(part_note["resume"])}
        where, more = self.manner.locate() if self.manner.locate else (self.url, {})
        with self._get(where, headers | dict(more), self.shown) as answer:
            status = answer.status
            if status == 304 and self.path.is_file():
                return None
            if status == 206 and _continues(answer, size, part_note):
                self._store(answer, "ab", note := part_note)
            else:
                self.part.unlink(missing_ok=True)  # never the note of one version beside the bytes of another
                if status != 200:
                    raise TransientError(f"{self.shown}: the server answered {status} to a request for the rest")
                _note_path(self.part).write_text(json.dumps(note := _note_of(answer)))
                self._store(answer, "wb", note)
        return self._finish(note)

    def expected_digest(self, checksum: str) -> str:
        """``md5:<hex>`` or ``sha256:<hex>``, read from a URL when ``checksum`` is one."""
        if not checksum.startswith(("http://", "https://")):
            return checksum
        body = b""
        with self._get(checksum, {}, redact(checksum)) as answer:
            for chunk in answer.chunks():
                body += chunk
                if len(body) >= _DIGEST_BYTES:
                    break
        text = "" if is_markup(body) else body[:_DIGEST_BYTES].decode("ascii", "replace")
        found = re.search(r"\b([0-9a-fA-F]{64}|[0-9a-fA-F]{32})\b", text)
        if not found:
            raise LabelError(f"{redact(checksum)}: holds no MD5 or SHA-256 digest; correct labels.checksum")
        return f"{'md5' if len(found[1]) == 32 else 'sha256'}:{found[1].lower()}"

    def verify(self, expected: str) -> None:
        """Compare the digest, and remove the file where it differs. Raises LabelError."""
        kind, _, digest = expected.partition(":")
        if (actual := _digest(self.path, kind)) != digest:
            forget(self.path)
            raise LabelError(
                f"{self.shown}: the download has {kind} {actual}, expected {digest}; it was removed, start again"
                " or correct labels.checksum"
            )

    def _get(self, url: str, headers: dict[str, str], shown: str) -> Stream:
        """A streamed answer of status 200, 206, 304 or 416. Raises TransientError or the manner's error otherwise."""
        expired = (401, 403) if self.manner.locate else ()  # what is said of a signed URL that has run out
        answer = self.client.stream(url, headers=headers, transient=TRANSIENT_STATUS + expired, shown=shown)
        if answer.status in (200, 206, 304, 416):
            return answer
        answer.close()
        raise self.manner.error(f"{shown}: the server answered {answer.status} {answer.reason}; {self.manner.advice}")

    def _store(self, answer: Stream, mode: str, note: dict[str, str | int]) -> None:
        """Write the body after what there is of it. Raises TransientError when it is not whole then."""
        length = note.get("length")
        with self.part.open(mode) as file:
            size = looked = file.tell()
            if isinstance(length, int):
                if length > self.client.limits.download_bytes:
                    raise self._too_large(length)
                _see_room(self.part, length - size)
            why = f"{self.shown}: the connection ended early"
            try:
                for chunk in answer.chunks():
                    if not size and is_markup(chunk):
                        raise self.manner.error(
                            f"{self.shown}: the server sent a web page (HTML), not the file; {self.manner.advice}"
                        )
                    size += file.write(chunk)
                    if size > self.client.limits.download_bytes:
                        raise self._too_large(size)
                    if size - looked > LOOK_BYTES:
                        looked = size
                        _see_room(self.part, length - size if isinstance(length, int) else LOOK_BYTES)
                    if time.monotonic() > self._deadline:
                        raise self.manner.error(f"{self.shown}: the download takes too long; start again to go on")
                if size == length or length is None:
                    return
            except TransientError as error:
                why = str(error)
            except TilewrightError:
                if answer.is_too_long:
                    self.part.unlink(missing_ok=True)
                raise
        progress = size > self._furthest and not answer.is_late
        self._furthest = max(size, self._furthest)
        raise TransientError(f"{why} at byte {size} of {'?' if length is None else length}", progress=progress)

    def _too_large(self, size: int) -> TilewrightError:
        self.part.unlink(missing_ok=True)
        most = self.client.limits.download_bytes
        return self.manner.error(
            f"{self.shown}: the file has {size / 1e9:,.6g} GB or more, over limits.max_download_gb {most / 1e9:,.6g}; "
            f"raise it if that is meant, or {self.manner.advice}"
        )

    def _finish(self, note: Mapping[str, str | int]) -> None:
        if (expected := note.get("md5")) and (actual := _digest(self.part, "md5")) != expected:
            self.part.unlink()
            raise TransientError(f"{self.shown}: the download has md5 {actual}, the server said {expected}")
        # The note last: an old note with a new file costs a download, a new note with an old file would keep it.
        self.part.replace(self.path)
        if _note_path(self.part).is_file():
            _note_path(self.part).replace(_note_path(self.path))


def store(answer: Stream, path: Path, size: int | None, etag: str = "") -> None:
    """Write an answer's body to ``path``, which is there whole or not at all.

    ``size`` in bytes and ``etag`` are what it must have; an ETag that is no MD5 is not looked at. Raises
    TransientError for another body than that, DiskError.
    """
    with writing(path) as part:
        _see_room(part, size or answer.length or 0)
        looked = 0
        with part.open("wb") as file:
            for chunk in answer.chunks():
                file.write(chunk)
                if file.tell() - looked > LOOK_BYTES:
                    looked = file.tell()
                    _see_room(part, LOOK_BYTES)
        if wrong := _difference(part, size, etag.strip('"').lower()):
            raise TransientError(f"the file came short or changed ({wrong})")


def forget(path: Path) -> None:
    """Remove a file that was downloaded, with what the server said of it, so that it will be asked for again."""
    _note_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _see_room(path: Path, size: int) -> None:
    """See that ``size`` more bytes have room beside ``path``. Raises DiskError."""
    free, needed = shutil.disk_usage(path.parent).free, max(0, size) + min(RESERVE, max(0, size))
    if free < needed:
        raise DiskError(
            f"{path}: no room for the download, which needs {needed / 1e9:,.3g} GB (with a reserve) where "
            f"{free / 1e9:,.3g} GB are free; free some disk, then run the same command again"
        )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _difference(path: Path, size: int | None, etag: str) -> str:
    if size is not None and (written := path.stat().st_size) != size:
        return f"{written} bytes, expected {size}"
    return f"md5 {md5}, expected {etag}" if _HEX_MD5.fullmatch(etag) and (md5 := _digest(path, "md5")) != etag else ""


def _continues(answer: Stream, size: int, note: Mapping[str, str | int]) -> bool:
    """Whether a partial answer goes on at ``size`` of the same version; not every server heeds If-Range."""
    etag = note.get("etag", "")
    goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {size}-")
    return goes_on and answer.headers.get("ETag", etag) == etag


def _note_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _note_of(answer: Stream) -> dict[str, str | int]:
    """The validators of a full answer; ``resume`` is one that If-Range may use, which a weak ETag is not."""
    headers = answer.headers
    if answer.is_encoded:  # lengths and ranges are not of the file
        return {"etag": headers.get("ETag", ""), "modified": headers.get("Last-Modified", "")}
    etag, modified = (headers.get(name, "") for name in ("ETag", "Last-Modified"))
    resume = etag if etag and not etag.startswith("W/") else modified
    # Of the whole file; the second is Azure's name for it where Content-MD5 would be that of a range.
    given = headers.get("Content-MD5") or headers.get("x-ms-blob-content-md5") or ""
    md5 = base64.b64decode(given).hex() if re.fullmatch(r"[A-Za-z0-9+/]{22}==", given) else ""
    note: dict[str, str | int] = {"etag": etag, "modified": modified, "resume": resume, "md5": md5}
    return note | ({} if answer.length is None else {"length": answer.length})


def _read_note(path: Path) -> dict[str, str | int]:
    try:
        note = json.loads(_note_path(path).read_text())
    except (OSError, ValueError):  # no note, or one that a kill cut short
        return {}
    return note if isinstance(note, dict) else {}
