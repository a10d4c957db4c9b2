"""The JSON documents of a catalogue, each bounded: over HTTP, or from files where the catalogue is one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pystac.utils import make_absolute_href

from tasks.errors import SourceError
from tasks.imagery.stac.fields import shown
from tasks.secrets import redact
from tasks.web.answers import Answer
from tasks.web.bodies import parsed
from tasks.web.client import Client
from tasks.web.retry import TransientError

Document = dict[str, Any]
_SAID = 300  # characters of an error's body in a message
_ADVICE = "check imagery.api, collection, datetime and query"


class Documents:
    """Reads documents, and asks an API for them."""

    def __init__(self, client: Client, remote: bool) -> None:
        """``remote``: the catalogue itself came over the network, so that none of its links leads to a file."""
        self._client, self._remote = client, remote

    @property
    def requests(self) -> int:
        """Sent over HTTP so far."""
        return self._client.requests

    def read(self, href: str) -> Document:
        """The JSON object at a URL, or at a path where the catalogue is a file. Raises SourceError."""
        if is_url(href):
            return self.ask(href)
        if self._remote or "://" in href:
            raise SourceError(f"{redact(href)}: a catalogue from the network may link to http(s) only; it was not read")
        most = self._client.limits.answer_bytes
        try:
            if not Path(href).is_file():  # a pipe or a device may have no end
                raise FileNotFoundError(0, "no such file")
            with Path(href).open("rb") as file:
                text = file.read(most + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceError(f"{href}: cannot be read ({reason}); check the catalogue") from None
        if len(text) > most:
            raise SourceError(
                f"{href}: has more than {most / 1e6:,.6g} MB, limits.max_answer_mb; raise it if that is meant"
            )
        try:
            return _object(parsed(text), href)
        except ValueError as error:
            raise SourceError(f"{href}: is {error}; expected a STAC document") from None

    def ask(
        self,
        url: str,
        method: str = "GET",
        values: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        """The JSON object that an API answers. ``values``: query of a GET, or body of a POST. Raises SourceError."""
        name = redact(url)

        def once() -> Answer:
            if method == "POST":
                body = json.dumps(values or {}).encode()
                return self._client.post(
                    url, data=body, headers={"Content-Type": "application/json", **(headers or {})}, follow=True
                )
            query = {key: str(value) for key, value in (values or {}).items()}
            return self._client.get(url, query=query, headers=headers, follow=True)

        try:
            answer = self._client.persist(once)
        except TransientError as error:
            raise SourceError(f"{error}; gave up after {error.tried}, start again later") from None
        if not 200 <= answer.status < 300:
            said = " ".join(redact(answer.text[: 4 * _SAID]).split())[:_SAID]
            raise SourceError(f"{name}: the server answered {answer.status} ({said or answer.reason}); {_ADVICE}")
        try:
            return _object(answer.json(), name)
        except ValueError as error:
            raise SourceError(
                f"{name}: is no STAC API or catalogue that can be read ({error}); check imagery.api"
            ) from None


def is_url(href: str) -> bool:
    """Whether it is one of HTTP."""
    return href.lower().startswith(("http://", "https://"))


def absolute(href: Any, base: str) -> str:
    """A link of the document at ``base`` as a URL or path. Raises SourceError for what leads nowhere.

    No document that came over the network can name files of this machine.
    """
    try:
        if not isinstance(href, str) or not href:
            raise ValueError
        found = str(make_absolute_href(href, base, start_is_dir=False))
        urlsplit(found)
    except ValueError:
        raise SourceError(f"{redact(base)}: has a link to {shown(href)}, which is no URL or path") from None
    if is_url(base) and not is_url(found):
        raise SourceError(f"{redact(found)}: a catalogue from the network may link to http(s) only; it was not read")
    return found


def _object(found: Any, name: str) -> Document:
    if not isinstance(found, dict):
        raise SourceError(f"{name}: is no STAC API or catalogue that can be read (it is {shown(found)}, not an object)")
    return found
