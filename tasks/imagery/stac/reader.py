"""Reading assets onto a window's grid with odc-stac's reader: attempts, tokens, and what is wrong when it fails."""

import logging
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urldefrag

import numpy as np
import rasterio
import requests
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.loader import RasterLoadParams, RasterSource, RioReader
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from tasks.errors import CredentialError, SourceError, WindowReadError
from tasks.geo.georeference import transformer
from tasks.imagery.stac.documents import is_url
from tasks.imagery.stac.items import AssetRef
from tasks.imagery.stac.signing import Signer
from tasks.secrets import guard_logs, redact
from tasks.web.client import LEAST_RATE, Client
from tasks.web.connection import CONNECT_SECONDS
from tasks.web.retry import RetryPolicy, TransientError

T = TypeVar("T")
# What a server says is a raster may be a text that sends GDAL to other files and hosts: only formats that hold pixels.
FORMATS = ["GTiff", "JP2OpenJPEG"]
# Files of this machine may have others beside them that say where they lie (.aux.xml), or hold overviews (.ovr).
LOCAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE"}
MOST_BLOCK = 1 << 30  # bytes of a file's block, which is unpacked whole for any of its pixels
MOST_PIXELS = 1 << 30  # of a file, read for one window; of its overviews where they are used
_MOST_PLACES = 10_000  # of assets, that are kept in memory
_SAID = 2000  # characters of what GDAL says; of a server's refusal it repeats a megabyte
_STATUS = re.compile(r"HTTP response code: (\d{3})")
_S3_REFUSALS = ("credential", "accessdenied", "access denied", "signaturedoesnotmatch", "invalidaccesskeyid")

guard_logs()  # rasterio logs the URLs that it opens
# It logs every failed attempt with its URL as an error; what fails for good is raised.
logging.getLogger("odc.loader._rio").addFilter(lambda _: False)
# So does GDAL from 3.12 on, of every connection that breaks.
logging.getLogger("rasterio._env").addFilter(lambda record: "HTTP response code on" not in record.getMessage())
# rasterio ignores this one while it warps, by filters of the whole process, which threads take from one another.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@dataclass(frozen=True)
class Head:
    """What a file says of one of its bands."""

    dtype: np.dtype[Any]
    nodata: float | None
    crs: str
    transform: tuple[float, ...]  # a, b, c, d, e, f
    size: tuple[int, int]  # width and height in pixels
    shrink: int  # pixels along a side that become one in its smallest overview; 1 without any


class AssetReader:
    """Reads assets; safe for threads, each read opens its own handle.

    A read that fails is done again with growing pauses. A refused token is replaced once for each read.

    GDAL asks for pixels itself, and follows any redirect. So where an asset lies is found out first, once for each, by
    ``client``, which has bounds and goes to no private address that the user did not name; GDAL gets the place at the
    end. Each of its requests has an end, ``client.timeout`` seconds after it began.
    """

    def __init__(self, client: Client, signer: Signer | None, gdal: Mapping[str, str]) -> None:
        """``client``: its own error is WindowReadError. ``gdal``: GDAL's options for the catalogue."""
        self._client, self._signer = client, signer
        seconds = f"{max(1, round(client.timeout))}"
        self._options = {
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # else it asks for files that may lie beside each
            "GDAL_HTTP_TIMEOUT": seconds,
            "GDAL_HTTP_CONNECTTIMEOUT": f"{max(1, round(min(client.timeout, CONNECT_SECONDS)))}",
            "GDAL_HTTP_LOW_SPEED_LIMIT": f"{LEAST_RATE}",
            "GDAL_HTTP_LOW_SPEED_TIME": seconds,
            "GDAL_HTTP_MAX_RETRY": "0",  # the attempts are counted here
            "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
            **gdal,
        }
        self._heads: dict[tuple[str, int], Head] = {}
        self._places: dict[str, _Place] = {}  # by URL, signed as it is
        self._generations: Counter[str] = Counter()  # of failures, by URL
        self._lock = threading.Lock()
        self._read_once = False

    def head(self, ref: AssetRef) -> Head:
        """What the file says; read once for each asset. Raises as :meth:`read`."""
        if (head := self._heads.get((ref.href, ref.band))) is None:
            head = self._heads[ref.href, ref.band] = self._persist(ref, lambda uri: _head(uri, ref))
        return head

    def read(self, ref: AssetRef, grid: GeoBox, fill: float, resampling: str) -> NDArray[Any]:
        """One band on ``grid``, (y, x) of the file's dtype; ``fill`` where the file has that value or does not reach.

        Raises WindowReadError when the asset cannot be read, CredentialError when its server refuses.
        """
        head = self.head(ref)
        overviews = resampling != "nearest"  # those of classes may hold averages of them
        parameters = RasterLoadParams(
            head.dtype.name, fill_value=fill, src_nodata_override=fill, resampling=resampling, use_overviews=overviews
        )

        most = _source_pixels(head, grid)
        if most > MOST_PIXELS * (head.shrink**2 if overviews else 1):
            raise SourceError(
                f"{ref.name}: one window takes {most:.3g} of its pixels, over {MOST_PIXELS:.3g}; take smaller cells "
                "(imagery.cells) or an asset with larger pixels"
            )

        def once(uri: str) -> NDArray[Any]:
            place, pixels = RioReader(RasterSource(uri, ref.band), None).read(parameters, grid)  # type: ignore[arg-type]
            full = np.full((grid.shape.y, grid.shape.x), fill, dtype=head.dtype)
            full[place] = pixels
            return full

        return self._persist(ref, once)

    def _persist(self, ref: AssetRef, action: Callable[[str], T]) -> T:
        renewed = False

        def once() -> T:
            nonlocal renewed
            while True:
                url, token = self._signer.signed(ref.href) if self._signer and is_url(ref.href) else (ref.href, "")
                place = _Place(url)
                try:
                    place = self._place(url, ref) if is_url(url) else place
                    with rasterio.Env(**(LOCAL_OPTIONS if url.startswith("/") else self._options)):
                        result = action(self._uri(place.url, ref))
                    self._read_once = True
                    return result
                except _RefusedError as error:
                    reason = f"HTTP response code: {error.status}"
                except (RasterioError, OSError) as error:
                    reason = _reason(error)
                found = _STATUS.search(reason)
                status = int(found[1]) if found else None
                # What was signed for a time shows, when it ends between two requests, as a failed block alone.
                again = (token or place.moved) and not renewed and status in (401, 403, None)
                if not again:
                    self._give_up(ref, reason, status, bool(token))
                with self._lock:
                    self._places.pop(url, None)
                    self._generations[ref.href] += 1
                if again:
                    renewed = True
                    if token and self._signer:
                        self._signer.refused(ref.href, token)
                    continue
                raise TransientError(f"{ref.name}: {_short(reason)}")

        try:
            return self._client.persist(once)
        except TransientError as error:
            raise WindowReadError(f"{error}, in {error.tried}") from None

    def _place(self, url: str, ref: AssetRef) -> "_Place":
        """Where ``url`` leads. Raises _RefusedError, TransientError, and what the client does."""
        if (place := self._places.get(url)) is None:
            with self._client.stream(url, headers={"Range": "bytes=0-0"}, shown=ref.name) as answer:
                if answer.status >= 300:
                    raise _RefusedError(answer.status)
                if answer.status == 206:
                    next(answer.chunks(), b"")  # the one byte, so that the connection can be used again
                elif answer.length is None or answer.length > self._client.limits.download_bytes:
                    raise WindowReadError(
                        f"{ref.name}: its server sends no parts of files, and does not say how large it is"
                    )
                place = _Place(answer.url, answer.url != requests.Request("GET", url).prepare().url)
            with self._lock:
                if len(self._places) >= _MOST_PLACES:
                    self._places.clear()
                self._places[url] = place
        return place

    def _give_up(self, ref: AssetRef, reason: str, status: int | None, signed: bool) -> None:
        """Raise what another attempt would not change."""
        if not is_url(ref.href) and not ref.href.startswith("s3:"):
            raise WindowReadError(f"{ref.name}: {ref.href} cannot be read ({_short(reason)})") from None
        if status in (401, 403) or (ref.href.startswith("s3:") and any(w in reason.lower() for w in _S3_REFUSALS)):
            if signed:
                raise CredentialError(
                    f"{ref.name}: {redact(ref.href)} is refused ({status}) also with a fresh token; check that the "
                    "collection is open to you, and PC_SDK_SUBSCRIPTION_KEY when you have set it"
                ) from None
            if not self._read_once:
                raise CredentialError(
                    f"{ref.name}: {redact(ref.href)} is refused ({status or _short(reason)}); s3 URLs need "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, some AWS_REQUEST_PAYER, open ones AWS_NO_SIGN_REQUEST"
                ) from None
            raise WindowReadError(f"{ref.name}: refused ({status or _short(reason)})") from None
        if status in (404, 410):
            raise WindowReadError(f"{ref.name}: does not exist on its server ({status})") from None

    def _uri(self, place: str, ref: AssetRef) -> str:
        """What GDAL opens."""
        if place.startswith("s3://"):
            return f"/vsis3/{place[5:]}"
        if place.startswith("/"):
            return place
        # GDAL remembers of a URL that it failed, and also what half an answer said. A fragment is never sent, but makes
        # a URL that GDAL does not know.
        generation = self._generations[ref.href]
        return f"/vsicurl/{urldefrag(place).url}{f'#{generation}' if generation else ''}"


class _Place(NamedTuple):
    """Where an asset lies."""

    url: str
    moved: bool = False  # it was redirected to


class _RefusedError(Exception):
    """A server will not say where an asset lies."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def retry_policy(attempts: int, timeout: float) -> RetryPolicy:
    """How long to try for one thing."""
    return RetryPolicy(attempts, attempts * (timeout + 30.0), FIRST_PAUSE, 30.0)


FIRST_PAUSE = 0.5  # seconds


def _head(uri: str, ref: AssetRef) -> Head:
    if uri.startswith("/") and not uri.startswith("/vsi") and not Path(uri).is_file():
        raise FileNotFoundError("no such file")  # or a pipe, which nobody may ever write
    with DatasetReader(uri, driver=FORMATS, sharing=False) as file:
        if ref.band > file.count:
            raise SourceError(f"{ref.name}: the file has {file.count} bands; correct imagery.bands")
        if file.count > 1 and not ref.one_of_many:
            choices = ", ".join(f"{ref.key}.{n}" for n in range(1, min(file.count, 12) + 1))
            raise SourceError(f"{ref.name}: the file has {file.count} bands; say which in imagery.bands: {choices}")
        if file.crs is None:
            raise WindowReadError(f"{ref.name}: the file has no CRS, so it can not be laid onto a grid")
        at = ref.band - 1
        dtype, nodata = np.dtype(file.dtypes[at]), file.nodatavals[at]
        if dtype.kind not in "iuf":
            raise SourceError(f"{ref.name}: the file holds {dtype.name}; expected whole or floating numbers")
        together = file.count if file.interleaving is Interleaving.pixel else 1
        if (block := int(np.prod(file.block_shapes[at])) * dtype.itemsize * together) > MOST_BLOCK:
            raise WindowReadError(
                f"{ref.name}: the file has blocks of {block:,} bytes; {MOST_BLOCK:,} are read at most"
            )
        shrink = max(file.overviews(ref.band), default=1)
        return Head(dtype, nodata, file.crs.to_wkt(), tuple(file.transform)[:6], (file.width, file.height), shrink)


def _source_pixels(head: Head, grid: GeoBox) -> float:
    """About how many pixels of a file lie below a window."""
    columns, rows = np.array([(0, 0.5, 1, 0, 1, 0, 0.5, 1), (0, 0, 0, 0.5, 0.5, 1, 1, 1)])
    x, y = grid.transform * (columns * grid.shape.x, rows * grid.shape.y)
    with np.errstate(invalid="ignore"):
        places = ~Affine(*head.transform) * transformer(str(grid.crs), head.crs).transform(x, y)
        ends = [np.clip(place, 0, most) for place, most in zip(places, head.size, strict=True)]
    spans = [float(np.ptp(end)) for end in ends]
    return spans[0] * spans[1] if np.isfinite(spans).all() else 0.0


def _reason(error: BaseException) -> str:
    """What GDAL said, the chain of causes included, tokens removed."""
    said: list[str] = []
    at: BaseException | None = error
    while at is not None and len(said) < 6:
        said.append(str(at)[:_SAID])
        at = at.__cause__ or at.__context__
    return redact("; ".join(dict.fromkeys(said)))


def _short(reason: str) -> str:
    """A few words for the ledger, without URLs."""
    found = _STATUS.search(reason)
    text = f"the server answered {found[1]}" if found else re.sub(r"\S*(://|/vsi)\S*", "the file", reason)
    return " ".join(text.split())[:160]
