"""What a server answered: whole, or as a stream whose body is still to come, bounded either way."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import urllib3

from tasks.errors import TilewrightError
from tasks.web.bodies import BodyError, LongBodyError, decoded, parsed
from tasks.web.connection import Deadline
from tasks.web.failures import explain
from tasks.web.retry import TransientError

_CHUNK = 1 << 16  # bytes read at once, at most


@dataclass(frozen=True, repr=False)
class Answer:
    """A whole answer. Shows nothing of itself when printed: headers, body and URL may hold a secret."""

    status: int
    reason: str
    headers: Mapping[str, str]  # names in any case
    body: bytes  # without its Content-Encoding
    url: str  # where it came from, after redirects

    @property
    def text(self) -> str:
        """The body as UTF-8, what is none replaced."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError whose text says in a few words why it is none."""
        return parsed(self.body)


@dataclass(repr=False)
class Stream:
    """An answer whose body is still to come, to be closed by whoever asked (``with``)."""

    status: int
    reason: str
    headers: Mapping[str, str]
    url: str
    _raw: Any = field(kw_only=True)
    _deadline: Deadline = field(kw_only=True)
    _shown: str = field(kw_only=True)
    _most: int = field(kw_only=True)
    _too_long: Callable[[], TilewrightError] = field(kw_only=True)
    is_too_long: bool = False  # the body went over the client's limit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go, or keep it for the next request when the body has come whole."""
        self._raw.close()
        self._raw.release_conn()

    @property
    def is_late(self) -> bool:
        """Whether too few bytes came in too long a time."""
        return self._deadline.is_over

    @property
    def is_encoded(self) -> bool:
        """Whether the server compressed the body unasked, so that its Content-Length is not the file's."""
        return self.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")

    @property
    def length(self) -> int | None:
        """Bytes as they are sent, where the server says so."""
        text = self.headers.get("Content-Length", "").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def chunks(self) -> Iterator[bytes]:
        """The body, without a Content-Encoding, as it comes: each byte that has come is yielded before an error.

        Raises TransientError when it breaks off, ends early or comes too slowly, and the client's own error when it
        is longer than allowed.
        """
        if (self.length or 0) > self._most:
            self.is_too_long = True
            raise self._too_long()
        try:
            yield from decoded(self._sent(), self.headers.get("Content-Encoding", ""), self._most)
        except LongBodyError:
            self.is_too_long = True
            raise self._too_long() from None
        except BodyError as error:
            raise TransientError(f"{self._shown}: the answer cannot be unpacked ({error})") from None

    def _sent(self) -> Iterator[bytes]:
        while True:
            try:
                chunk = self._raw.read1(_CHUNK, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                why = explain(error, self._deadline).reason
                break
            if not chunk:
                return
            self._deadline.received(len(chunk))
            yield chunk
        raise TransientError(f"{self._shown}: the answer broke off ({why})")
