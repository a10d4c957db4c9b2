"""Files that are damaged, lie, or are none: one line that names each, no traceback, and never much memory."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tasks.errors import LabelError, SourceError, TilewrightError, WindowReadError
from tasks.raster import files
from tasks.raster.files import Rasters
from tests.support import odd_rasters
from tests.support.odd_rasters import RARE, TORN, USELESS, WHOLE, geo_keys, odd_raster, picture, vrt, whole_tiff
from tests.tasks.raster.made import noise, write_raster

AT = np.arange(64)


def put(folder: Path, data: bytes, name: str = "odd.tif") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(path: Path) -> np.ndarray:
    rasters = Rasters()
    header = rasters.header(path, path.name)
    values = rasters.read(path, path.name, AT[: header.width], AT[: header.height]).values
    rasters.close()
    return values


def told(path: Path) -> str:
    """What is said of a file that cannot be read; "" when it can."""
    try:
        read(path)
    except TilewrightError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", USELESS)
def test_useless_files_are_told_by_name(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path, USELESS[kind](Random(7)))
    for fault in (SourceError, LabelError):
        with pytest.raises(fault, match=r"^odd\.tif: .*\b([Ff]etch|[Ww]rite|[Cc]orrect)") as error:
            Rasters(fault).header(path, "odd.tif")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", TORN)
def test_torn_files_fail_at_their_windows(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path, TORN[kind](Random(7)))
    with pytest.raises(TilewrightError, match=r"^odd\.tif: (columns 0-64, rows 0-64 cannot be read|is no raster)"):
        read(path)


@pytest.mark.parametrize("kind", [*RARE, *WHOLE])
def test_rare_files_are_read(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path, (RARE | WHOLE)[kind](Random(7)))
    if kind == "webp":
        with pytest.raises(SourceError, match="expected a GeoTIFF, PNG, JPEG or JPEG 2000 file"):
            read(path)
        return
    assert read(path).shape[1:] == (64, 64)


@pytest.mark.parametrize("seed", range(4))
def test_files_of_chance(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    for _ in range(60):
        said = told(put(tmp_path, random.choice([odd_raster, geo_keys])(random)))
        assert said == "" or (said.startswith("odd.tif: ") and "\n" not in said)


def test_geo_keys_whose_text_is_none(tmp_path: Path) -> None:
    crs = "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80 +units=m"
    data = write_raster(tmp_path / "whole.tif", noise(64, 64), crs).read_bytes()
    at = data.index(b"|")  # between the names of the keys
    said = {told(put(tmp_path, data[:place] + b"\xc2\xff" + data[place + 2 :])) for place in range(at - 4, at)}
    assert all(one.startswith("odd.tif: is no raster that can be opened (") for one in said)


@pytest.mark.parametrize("compress", ["deflate", "lzw"])
@pytest.mark.parametrize("mask", ["none", "alpha", "beside"])
def test_a_window_after_one_that_could_not_be_read(tmp_path: Path, compress: str, mask: str) -> None:
    image = noise(4 if mask == "alpha" else 1, 256, 256)
    more = {"photometric": "RGB", "alpha": "YES"} if mask == "alpha" else {}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    path = write_raster(tmp_path / "a.tif", image, compress=compress, **tiles, **more)
    if mask == "beside":
        whole = write_raster(tmp_path / "m.tif", np.full((256, 256), 255, np.uint8), INTERNAL_MASK_FLAGS_1="2")
        whole.rename(tmp_path / "a.tif.msk")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    other = write_raster(tmp_path / "other.tif", image, **more)
    rasters, last = Rasters(), np.arange(192, 256)
    held = image[:3] if mask == "alpha" else image
    for _ in range(3):
        assert np.array_equal(rasters.read(path, "a", AT, AT).values, held[:, :64, :64])
        with pytest.raises(WindowReadError, match=r"^a: columns 192-256, rows 192-256 cannot be read"):
            rasters.read(path, "a", last, last)
        assert np.array_equal(rasters.read(other, "other", AT, AT).values, held[:, :64, :64])
    rasters.close()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_png_that_was_cut_short_is_not_whatever_is_in_memory(tmp_path: Path, mode: str, share: float) -> None:
    data = picture(Random(1), "PNG", mode)
    path = put(tmp_path, data[: int(len(data) * share)], "a.png")
    with pytest.raises(TilewrightError, match=r"a\.png: "):
        read(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.tif").mkdir()
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    for name in ("folder.tif", "pipe.tif"):  # a pipe would be waited for
        with pytest.raises(SourceError, match=f"{name}: is no file"):
            Rasters().header(tmp_path / name, name)
    for name in ("gone.tif", "loop.tif", "x" * 300):
        with pytest.raises(SourceError, match=f"^{name}: (does not exist|is no raster)"):
            Rasters().header(tmp_path / name, name)


MASK = '<Metadata><MDI key="INTERNAL_MASK_FLAGS_1">2</MDI></Metadata><VRTRasterBand'


@pytest.mark.parametrize(
    "beside",
    [
        {"odd.tif.msk": vrt("/vsicurl/{url}/mask.tif").decode().replace("<VRTRasterBand", MASK)},
        {"odd.tif.ovr": vrt("/vsicurl/{url}/mask.tif").decode()},
        {"odd.tif.aux.xml": "<PAMDataset><SRS>{url}/crs</SRS></PAMDataset>"},
        {
            "odd.tif.aux.xml": '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">'
            "/vsicurl/{url}/mask.tif</MDI></Metadata></PAMDataset>"
        },
        {"odd.tif": vrt("/vsicurl/{url}/other.tif").decode()},
    ],
)
def test_no_file_makes_gdal_ask_a_server(tmp_path: Path, beside: Mapping[str, str], asked: list[str]) -> None:
    put(tmp_path, whole_tiff(Random(1)))
    for name, text in beside.items():
        put(tmp_path, text.replace("{url}", asked[0]).encode(), name)
    said = told(tmp_path / "odd.tif")
    assert said == "" or said.startswith("odd.tif: ")
    assert asked[1:] == []


def test_what_lies_beside_a_file_counts(tmp_path: Path) -> None:
    plain = odd_rasters.tiff(odd_rasters.image_tags(64, 64), bytes(64 * 64 * 3))
    bare = Rasters().header(put(tmp_path, plain), "odd")
    assert (bare.georeference, bare.transform) == (None, None)
    put(tmp_path, b"0.5\n0\n0\n-0.5\n500000.25\n5799999.75\n", "odd.tfw")  # the centre of the first pixel
    world = Rasters().header(tmp_path / "odd.tif", "odd")
    assert world.georeference is None  # no CRS
    assert world.transform == (0.5, 0, 500_000, 0, -0.5, 5_800_000)
    bands = "".join(f'<PAMRasterBand band="{n}"><NoDataValue>0</NoDataValue></PAMRasterBand>' for n in (1, 2, 3))
    put(tmp_path, f"<PAMDataset><SRS>EPSG:32631</SRS>{bands}</PAMDataset>".encode(), "odd.tif.aux.xml")
    rasters = Rasters()
    assert rasters.header(tmp_path / "odd.tif", "odd").georeference == ("EPSG:32631", world.transform)
    missing = rasters.read(tmp_path / "odd.tif", "odd", AT, AT).missing
    assert missing is not None
    assert missing.all()


def test_windows_larger_than_the_memory_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 64, 64))
    monkeypatch.setattr(files, "MAX_READ_BYTES", 64 * 64 * 3 - 1)
    rasters = Rasters()
    assert rasters.read(path, "a", AT, AT, [1, 2]).values.shape == (2, 64, 64)
    with pytest.raises(WindowReadError, match=r"^a: columns 0-64, rows 0-64 are .* MiB, over"):
        rasters.read(path, "a", AT, AT)


_MEMORY = """
import json, resource, sys
from pathlib import Path
from random import Random
import numpy as np
from tasks.errors import TilewrightError
from tasks.raster.files import Rasters
from tests.support.odd_rasters import TORN, USELESS
path, at = Path(sys.argv[1]), np.arange(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for make in (*USELESS.values(), *TORN.values()):
    path.write_bytes(make(Random(3)))
    try:
        Rasters().read(path, "x", at, at)
    except TilewrightError:
        pass
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))
"""


def test_headers_that_promise_everything_take_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MEMORY, str(tmp_path / "odd.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) < 150  # MiB
