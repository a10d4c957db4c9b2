"""A server that speaks the MLHub v1 protocol: archives by a redirect to storage, single files where it has none.

The public service is gone; what is left are copies of it and the sandbox. The key goes to the server that the recipe
names and to no other: not to the storage that it redirects to, nor into a message, a file or a log.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urljoin, urlsplit

from tasks.errors import CredentialError, SourceError
from tasks.imagery.mlhub.archives import BrokenArchiveError, read_archive
from tasks.imagery.mlhub.layouts import Choice, Collector
from tasks.imagery.mlhub.remote import Pages, RemoteAsset, ask
from tasks.raster.scene import Scene
from tasks.recipe.sources import MlhubImagery
from tasks.recipe.tokens import filled
from tasks.secrets import find_secret, redact
from tasks.web.client import Client
from tasks.web.download import Manner, download
from tasks.web.origins import carries, origin, without_secrets_of

KEY_VARIABLE, KEY_BLOCK = "MLHUB_API_KEY", "mlhub-api-key"
_RETIRED = ("api.radiant.earth",)
_RETIRED_LINK = re.compile(r"^https?://[^/]*\bapi\.radiant\.earth/mlhub/v1/")  # in items that a copy kept as they were
_ALTERNATIVES = (
    "Radiant MLHub was retired; use imagery.reader: source-coop for what moved to Source Cooperative, imagery.reader:"
    " local for archives that you have, or the imagery.url of another server that speaks the MLHub v1 protocol"
)
_AZURE = ".blob.core.windows.net"
_REDIRECTS = (301, 302, 303, 307, 308)
_DOWNLOAD_SECONDS = 24 * 3600.0
_SHOWN, _LONG = 100, 100  # names in a message, and characters of each
_EXTENSIONS = {"image/tiff": ".tif", "image/geotiff": ".tif"}


class AbsentError(SourceError):
    """The server has no such file."""


class MlhubApi:
    """The protocol. Makes no request before it is asked something."""

    def __init__(self, url: str, client: Client) -> None:
        """``url``: the base, such as ``https://host/mlhub/v1``. Raises CredentialError, SourceError."""
        self.url = url.rstrip("/")
        if (urlsplit(self.url).hostname or "").endswith(_RETIRED):
            raise SourceError(f"{redact(self.url)}: this service does not exist any more. {_ALTERNATIVES}")
        self._client = client
        self._key = find_secret(KEY_VARIABLE, KEY_BLOCK) or ""
        if not self._key:
            raise CredentialError(
                f"{redact(self.url)} needs a key; set the environment variable {KEY_VARIABLE} (or the Prefect Secret"
                f" block {KEY_BLOCK}) to the one that this server gave you"
            )

    def collections(self, dataset: str) -> list[str]:
        """Ids of a dataset's collections. Raises SourceError, which names the server's datasets when it lacks this."""
        answer = self._json(f"{self.url}/datasets/{quote(dataset, safe='')}")
        if answer is None:
            there = _listed(sorted(_ids(self._json(f"{self.url}/datasets"))))
            raise SourceError(
                f"{redact(self.url)}: has no dataset {dataset!r}; it has {there}. Correct imagery.dataset."
                f" {_ALTERNATIVES}"
            )
        found = _ids(answer.get("collections")) if isinstance(answer, dict) else []
        if not found:
            raise SourceError(f"{redact(self.url)}: dataset {dataset!r} names no collection; is this an MLHub server?")
        return found

    def items(self, collection: str) -> Iterator[list[dict[str, Any]]]:
        """All STAC items of a collection, a page at a time. Raises SourceError."""
        first = url = f"{self.url}/collections/{quote(collection, safe='')}/items"
        asked: set[str] = set()
        while url and url not in asked:
            asked.add(url)
            page = self._json(url)
            if not isinstance(page, dict) or not isinstance(page.get("features"), list):
                status = 404 if page is None else 200
                raise SourceError(f"{redact(first)}: the server answered {status} without items. {_ALTERNATIVES}")
            yield [item for item in page["features"] if isinstance(item, dict)]
            query = _next_query(page.get("links"))
            url = f"{first}?{query}" if query else ""  # at our server, whatever name of its own it writes into links

    def locate(self, href: str) -> tuple[str, Mapping[str, str]]:
        """Where a file of the protocol lies: the target of the server's redirect, without the key.

        A server that sends the file itself is asked with the key. Raises TransientError, CredentialError, SourceError,
        and of the last AbsentError when it has no such file.
        """
        href = _RETIRED_LINK.sub(f"{self.url}/", href)
        if not href.startswith(f"{self.url}/"):
            return href, storage_headers(href)
        # Not followed here, and of a file that the server sends itself not read.
        with self._client.stream(href, query={"key": self._key}, follow=False) as answer:
            status, target = answer.status, answer.headers.get("Location", "")
        if status in _REDIRECTS:
            if not target:
                raise SourceError(f"{redact(href)}: the server redirects to nowhere")
            url = self._elsewhere(href, target)
            return url, storage_headers(url)
        if status == 404:
            raise AbsentError(f"{redact(href)}: the server has no such file")
        if status != 200:
            self._refused(href, status)
        return f"{href}{'&' if urlsplit(href).query else '?'}{urlencode({'key': self._key})}", {}

    def _elsewhere(self, href: str, target: str) -> str:
        """Where a redirect of ``href`` leads, without the key."""
        try:
            url = without_secrets_of(urljoin(href, target), {self._key})
            taken = carries(url, {self._key})
        except ValueError:
            raise SourceError(
                f"{redact(href)}: the server redirects to {redact(target)[:100]}, which is no URL"
            ) from None
        if taken:
            raise SourceError(
                f"{redact(href)}: the server redirects to {origin(url)} and would hand it the key; it was not followed"
            )
        return url

    def _json(self, url: str) -> Any:
        """What is there; None where there is nothing (404). Raises CredentialError, SourceError."""
        answer = ask(self._client, url, {"key": self._key}, f". {_ALTERNATIVES}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            self._refused(url, answer.status)
        try:
            return answer.json()
        except ValueError as error:
            raise SourceError(
                f"{redact(url)}: the answer is no JSON ({error}); is this an MLHub server? {_ALTERNATIVES}"
            ) from None

    def _refused(self, url: str, status: int) -> NoReturn:
        if status in (401, 403):
            raise CredentialError(
                f"{redact(url)}: the server refused the key ({status}); set {KEY_VARIABLE} to a key of this server"
            )
        raise SourceError(f"{redact(url)}: the server answered {status}; correct imagery.url. {_ALTERNATIVES}")


def api_scenes(imagery: MlhubImagery, client: Client, work: Path, choice: Choice) -> list[Scene]:
    """The scenes of ``imagery.collections`` (empty: all of the dataset's that can hold what is wanted).

    Archives go to ``work/archives``, their files to ``work/mlhub``. Raises SourceError, CredentialError, DiskError.
    """
    api, dataset = MlhubApi(filled(imagery.url or "", "imagery.url"), client), imagery.dataset or ""
    there = api.collections(dataset)
    if unknown := [name for name in imagery.collections if name not in there]:
        raise SourceError(
            f"{redact(api.url)}: dataset {dataset!r} has no collection {unknown[0]!r}; it has {_listed(there)};"
            " correct imagery.collections"
        )
    if strange := [name for name in there if len(name) > _LONG or not name.isprintable()]:
        raise SourceError(
            f"{redact(api.url)}: dataset {dataset!r} names the collection {strange[0][:_LONG]!r}, which is no id; is "
            "this an MLHub server?"
        )
    collector = Collector(choice, f"{redact(api.url)}, dataset {dataset}")
    for name in imagery.collections or [one for one in there if choice.may_hold(one)]:
        if (archive := _download(api, client, name, work / "archives")) is not None:
            try:
                read_archive(archive, work / "mlhub", choice, collector, imagery.max_bytes)
            except BrokenArchiveError as error:
                archive.unlink(missing_ok=True)  # else the server would say that it is unchanged
                said = str(error).removeprefix(f"{archive}: ").partition(";")[0]
                raise SourceError(
                    f"{redact(api.url)}: the archive of {name} {said}; it was removed: run the same command again, or "
                    "ask the server's owner for a whole one"
                ) from None
        else:
            _offer_items(api, client, name, work / "mlhub", collector)
    return collector.scenes()


def storage_headers(url: str) -> dict[str, str]:
    """What a storage wants to be asked with: Azure resumes and gives strong ETags in its newer versions only."""
    return {"x-ms-version": "2021-06-08"} if (urlsplit(url).hostname or "").endswith(_AZURE) else {}


def _download(api: MlhubApi, client: Client, collection: str, folder: Path) -> Path | None:
    """A collection's archive, None when the server has none."""
    url = f"{api.url}/archive/{quote(collection, safe='')}"
    advice = "ask the server's owner for the archive, or use imagery.reader: local"
    manner = Manner(SourceError, advice, f"{collection}.tar.gz", client.timeout, partial(api.locate, url))
    policy = replace(client.policy, total_seconds=_DOWNLOAD_SECONDS)
    try:
        path, requests = download(url, folder, None, policy, manner, limits=client.limits, reach=client.reach)
    except AbsentError:
        return None
    client.count(requests)
    return path


def _offer_items(api: MlhubApi, client: Client, collection: str, work: Path, collector: Collector) -> None:
    """Offer the assets of a collection's items, which are fetched when they are asked for."""
    folder = work / f"items-{hashlib.sha256(f'{api.url} {collection}'.encode()).hexdigest()[:12]}"
    pages = Pages(f"{redact(api.url)}, collection {collection}")
    for items in api.items(collection):
        wanted = [_offer_item(api, client, item, folder, collector) for item in items]
        pages.another(any(wanted))


def _offer_item(api: MlhubApi, client: Client, item: Mapping[str, Any], folder: Path, collector: Collector) -> bool:
    """Offer the assets of an item; whether any was wanted."""
    wanted, assets = False, item.get("assets")
    for key, asset in sorted(assets.items() if isinstance(assets, dict) else []):
        if not isinstance(asset, dict):
            continue
        href, kind = str(asset.get("href", "")), str(asset.get("type", "")).partition(";")[0].strip()
        name = f"{item.get('id')}/{key}{_EXTENSIONS.get(kind, '')}"
        if hit := collector.offer(name):
            wanted = True
            shown, locate = f"{redact(api.url)}: {name}", partial(api.locate, href)
            collector.add(hit, RemoteAsset(client, shown, folder / hit.file, locate))
    return wanted


def _next_query(links: Any) -> str:
    """The query of the link to a next page; empty without any."""
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "next":
            with suppress(ValueError):  # no URL
                return urlsplit(str(link.get("href", ""))).query
    return ""


def _listed(names: Sequence[str]) -> str:
    """Names for a message."""
    return ", ".join([*(name[:_LONG] for name in names[:_SHOWN]), *(["..."] if len(names) > _SHOWN else [])]) or "none"


def _ids(found: Any) -> list[str]:
    return [str(one["id"]) for one in found if isinstance(one, dict) and "id" in one] if isinstance(found, list) else []
