"""Files over HTTP: streamed, checked, large ones resumed where they broke off and asked for again only if changed.

Follows RFC 9110: Range with If-Range (14.2, 13.1.5), If-None-Match and If-Modified-Since (13.1.2, 13.1.3).
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests

from tasks.atomic import writing
from tasks.errors import DiskError, LabelError, TilewrightError
from tasks.secrets import redact
from tasks.web.client import Client
from tasks.web.retry import TRANSIENT_STATUS, RetryPolicy, TransientError

DOWNLOAD_POLICY = RetryPolicy(attempts=6, total_seconds=6 * 3600)
_CHUNK = 1 << 14  # bytes; a connection that breaks loses the chunk it breaks in
_HEX_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Manner:
    """How a download asks, and in whose words it fails."""

    error: type[TilewrightError] = LabelError
    advice: str = "correct the URL in labels"
    name: str = ""  # of the file; default: the end of the URL
    silence: float = 60.0  # seconds without a byte, after which the connection counts as lost
    # Where the file lies just now, and headers for that place: asked before every attempt, so that a URL that was
    # signed for a time may run out. Raises TransientError, or what is to end the download. With it goes no login of the
    # user's .netrc.
    locate: Callable[[], tuple[str, Mapping[str, str]]] | None = None


def download(
    url: str,
    folder: Path,
    checksum: str | None = None,
    policy: RetryPolicy = DOWNLOAD_POLICY,
    manner: Manner = Manner(),
) -> tuple[Path, int]:
    """The file behind ``url``, somewhere in ``folder``, and how many requests that took.

    A complete copy is kept when the server answers 304. ``checksum`` is ``md5:<hex>``, ``sha256:<hex>`` or the URL of
    a file that holds such a digest. An attempt that gained bytes does not count against ``policy``. Where the server
    gives a Content-MD5, the file has that digest. Raises ``manner.error`` (LabelError) naming ``url`` without its
    token, DiskError when the disk refuses.
    """
    with Client(policy, manner.silence, manner.error, manner.advice, login=manner.locate is None) as client:
        job = _Download(url, folder, client, manner)
        try:
            job.path.parent.mkdir(parents=True, exist_ok=True)
            expected = client.persist(lambda: job.expected_digest(checksum)) if checksum else ""
            client.persist(job.fetch)
            if expected:
                job.verify(expected)
        except TransientError as error:
            raise manner.error(f"{error}; gave up after {client.requests} requests, start again to go on") from error
        except OSError as error:
            reason = error.strerror or error
            raise DiskError(f"{job.path}: cannot write the download ({reason}); free some disk") from error
    return job.path, client.requests


class _Download:
    """One file and its unfinished part, each with a note of the validators that the server gave for it."""

    def __init__(self, url: str, folder: Path, client: Client, manner: Manner) -> None:
        name = manner.name or PurePosixPath(unquote(urlsplit(url).path)).name
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
            status = answer.status_code
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
        with self._get(checksum, {}, redact(checksum)) as answer:
            try:
                text = next(answer.iter_content(4096), b"").decode("ascii", "replace")
            except requests.RequestException as error:
                raise TransientError(f"{redact(checksum)}: {type(error).__name__}") from error
        found = re.search(r"\b([0-9a-fA-F]{64}|[0-9a-fA-F]{32})\b", text)
        if not found:
            raise LabelError(f"{redact(checksum)}: holds no MD5 or SHA-256 digest; correct labels.checksum")
        return f"{'md5' if len(found[1]) == 32 else 'sha256'}:{found[1].lower()}"

    def verify(self, expected: str) -> None:
        """Compare the digest, and remove the file where it differs. Raises LabelError."""
        kind, _, digest = expected.partition(":")
        if (actual := _digest(self.path, kind)) != digest:
            self.path.unlink()
            raise LabelError(
                f"{self.shown}: the download has {kind} {actual}, expected {digest}; it was removed, start again"
                " or correct labels.checksum"
            )

    def _get(self, url: str, headers: dict[str, str], shown: str) -> requests.Response:
        """A streamed answer of status 200, 206, 304 or 416. Raises TransientError or the manner's error otherwise."""
        expired = (401, 403) if self.manner.locate else ()  # what is said of a signed URL that has run out
        transient = TRANSIENT_STATUS + expired
        answer = self.client.get(url, headers=headers, follow=True, transient=transient, shown=shown)
        if answer.status_code in (200, 206, 304, 416):
            return answer
        answer.close()
        said = f"{answer.status_code} {answer.reason}"
        raise self.manner.error(f"{shown}: the server answered {said}; {self.manner.advice}")

    def _store(self, answer: requests.Response, mode: str, note: dict[str, str | int]) -> None:
        reason = "the connection ended early"
        with self.part.open(mode) as file:
            try:
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
                    if time.monotonic() > self._deadline:
                        raise self.manner.error(f"{self.shown}: the download takes too long; start again to go on")
            except requests.RequestException as error:
                reason = f"the connection broke ({type(error).__name__})"
            size = file.tell()
            # Without a length a broken connection is the only sign of a short body.
            if size == note.get("length") or ("length" not in note and reason == "the connection ended early"):
                return
        progress, self._furthest = size > self._furthest, max(size, self._furthest)
        raise TransientError(f"{self.shown}: {reason} at byte {size} of {note.get('length', '?')}", progress=progress)

    def _finish(self, note: Mapping[str, str | int]) -> None:
        if (expected := note.get("md5")) and (actual := _digest(self.part, "md5")) != expected:
            self.part.unlink()
            raise TransientError(f"{self.shown}: the download has md5 {actual}, the server said {expected}")
        # The note last: an old note with a new file costs a download, a new note with an old file would keep it.
        self.part.replace(self.path)
        if _note_path(self.part).is_file():
            _note_path(self.part).replace(_note_path(self.path))


def store(answer: requests.Response, path: Path, size: int | None, etag: str = "") -> None:
    """Write an answer's body to ``path``, which is there whole or not at all.

    ``size`` in bytes and ``etag`` are what it must have; an ETag that is no MD5 is not looked at. Raises
    TransientError for another body than that, DiskError.
    """
    wrong = ""
    with writing(path) as part:
        with part.open("wb") as file:
            try:
                file.writelines(answer.iter_content(_CHUNK))
            except requests.RequestException as error:
                wrong = type(error).__name__
        if wrong := wrong or _difference(part, size, etag.strip('"').lower()):
            raise TransientError(f"the file came short or changed ({wrong})")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _difference(path: Path, size: int | None, etag: str) -> str:
    if size is not None and (written := path.stat().st_size) != size:
        return f"{written} bytes, expected {size}"
    return f"md5 {md5}, expected {etag}" if _HEX_MD5.fullmatch(etag) and (md5 := _digest(path, "md5")) != etag else ""


def _continues(answer: requests.Response, size: int, note: Mapping[str, str | int]) -> bool:
    """Whether a partial answer goes on at ``size`` of the same version; not every server heeds If-Range."""
    etag = note.get("etag", "")
    goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {size}-")
    return goes_on and answer.headers.get("ETag", etag) == etag


def _note_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _note_of(answer: requests.Response) -> dict[str, str | int]:
    """The validators of a full answer; ``resume`` is one that If-Range may use, which a weak ETag is not."""
    headers = answer.headers
    etag, modified, length = (headers.get(name, "") for name in ("ETag", "Last-Modified", "Content-Length"))
    resume = etag if etag and not etag.startswith("W/") else modified
    # Of the whole file; the second is Azure's name for it where Content-MD5 would be that of a range.
    given = headers.get("Content-MD5") or headers.get("x-ms-blob-content-md5") or ""
    md5 = base64.b64decode(given).hex() if re.fullmatch(r"[A-Za-z0-9+/]{22}==", given) else ""
    note: dict[str, str | int] = {"etag": etag, "modified": modified, "resume": resume, "md5": md5}
    return note | ({"length": int(length)} if length.isdigit() else {})


def _read_note(path: Path) -> dict[str, str | int]:
    try:
        note = json.loads(_note_path(path).read_text())
    except (OSError, ValueError):  # no note, or one that a kill cut short
        return {}
    return note if isinstance(note, dict) else {}
