"""Reading assets onto a window's grid with odc-stac's reader: attempts, tokens, and what is wrong when it fails."""

import logging
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.loader import RasterLoadParams, RasterSource, RioReader
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from tasks.errors import CredentialError, SourceError, WindowReadError
from tasks.imagery.stac.items import AssetRef
from tasks.imagery.stac.signing import Signer
from tasks.secrets import redact
from tasks.web.client import without_secrets
from tasks.web.retry import RetryPolicy, TransientError, persist

T = TypeVar("T")
# What a server says is a raster may be a text that sends GDAL to other files and hosts: only formats that hold pixels.
FORMATS = ["GTiff", "JP2OpenJPEG"]
_STATUS = re.compile(r"HTTP response code: (\d{3})")
_S3_REFUSALS = ("credential", "accessdenied", "access denied", "signaturedoesnotmatch", "invalidaccesskeyid")

# rasterio logs the URLs that it opens.
for _name in ("rasterio", *(f"rasterio.{module}" for module in ("_base", "_env", "_err", "_io", "_warp", "env"))):
    logging.getLogger(_name).addFilter(without_secrets)
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


class AssetReader:
    """Reads assets; safe for threads, each read opens its own handle.

    ``timeout`` is in seconds for one request, ``gdal`` are GDAL's options for the catalogue.
    A read that fails is done again with growing pauses. A refused token is replaced once for each read.
    """

    def __init__(self, policy: RetryPolicy, timeout: float, signer: Signer | None, gdal: Mapping[str, str]) -> None:
        self._policy, self._signer = policy, signer
        self._options = {
            "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
            "GDAL_HTTP_TIMEOUT": f"{max(1, round(timeout))}",
            "GDAL_HTTP_CONNECTTIMEOUT": f"{max(1, round(min(timeout, 30)))}",
            "GDAL_HTTP_MAX_RETRY": "0",  # the attempts are counted here
            "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
            **gdal,
        }
        self._heads: dict[tuple[str, int], Head] = {}
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

        def once(uri: str) -> NDArray[Any]:
            place, pixels = RioReader(RasterSource(uri, ref.band), None).read(parameters, grid)  # type: ignore[arg-type]
            full = np.full((grid.shape.y, grid.shape.x), fill, dtype=head.dtype)
            full[place] = pixels
            return full

        return self._persist(ref, once)

    def _persist(self, ref: AssetRef, action: Callable[[str], T]) -> T:
        signed_again = False

        def once() -> T:
            nonlocal signed_again
            while True:
                uri, token = self._uri(ref)
                try:
                    with rasterio.Env(**self._options):
                        result = action(uri)
                    self._read_once = True
                    return result
                except (RasterioError, OSError) as error:
                    reason = _reason(error)
                found = _STATUS.search(reason)
                status = int(found[1]) if found else None
                # A token that ends between two requests shows as a failed block, without the status.
                if token and self._signer and not signed_again and status in (401, 403, None):
                    signed_again = True
                    self._signer.refused(ref.href, token)
                    continue
                self._give_up(ref, reason, status, bool(token))
                with self._lock:
                    self._generations[ref.href] += 1
                raise TransientError(f"{ref.name}: {_short(reason)}")

        try:
            return persist(once, self._policy)
        except TransientError as error:
            raise WindowReadError(f"{error}, in {self._policy.attempts} attempts") from None

    def _give_up(self, ref: AssetRef, reason: str, status: int | None, signed: bool) -> None:
        """Raise what another attempt would not change."""
        if ref.href.startswith("/"):
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

    def _uri(self, ref: AssetRef) -> tuple[str, str]:
        """What GDAL opens, and the token in it."""
        if ref.href.startswith("s3://"):
            return f"/vsis3/{ref.href[5:]}", ""
        if ref.href.startswith("/"):
            return ref.href, ""
        url, token = self._signer.signed(ref.href) if self._signer else (ref.href, "")
        # GDAL remembers of a URL that it failed, and also what half an answer said. A fragment is never sent, but makes
        # a URL that GDAL does not know.
        generation = self._generations[ref.href]
        return f"/vsicurl/{url}{f'#{generation}' if generation else ''}", token


def retry_policy(attempts: int, timeout: float) -> RetryPolicy:
    """How long to try for one thing."""
    return RetryPolicy(attempts, attempts * (timeout + 30.0), FIRST_PAUSE, 30.0)


FIRST_PAUSE = 0.5  # seconds


def _head(uri: str, ref: AssetRef) -> Head:
    with DatasetReader(uri, driver=FORMATS, sharing=False) as file:
        if ref.band > file.count:
            raise SourceError(f"{ref.name}: the file has {file.count} bands; correct imagery.bands")
        if file.count > 1 and not ref.one_of_many:
            choices = ", ".join(f"{ref.key}.{n}" for n in range(1, min(file.count, 12) + 1))
            raise SourceError(f"{ref.name}: the file has {file.count} bands; say which in imagery.bands: {choices}")
        if file.crs is None:
            raise WindowReadError(f"{ref.name}: the file has no CRS, so it can not be laid onto a grid")
        dtype, nodata = np.dtype(file.dtypes[ref.band - 1]), file.nodatavals[ref.band - 1]
        return Head(dtype, nodata, file.crs.to_wkt(), tuple(file.transform)[:6])


def _reason(error: BaseException) -> str:
    """What GDAL said, the chain of causes included, tokens removed."""
    said: list[str] = []
    at: BaseException | None = error
    while at is not None and len(said) < 6:
        said.append(str(at))
        at = at.__cause__ or at.__context__
    return redact("; ".join(said))


def _short(reason: str) -> str:
    """A few words for the ledger, without URLs."""
    found = _STATUS.search(reason)
    text = f"the server answered {found[1]}" if found else re.sub(r"\S*(://|/vsi)\S*", "the file", reason)
    return " ".join(text.split())[:160]
