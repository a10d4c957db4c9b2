"""Tiles as servers send them, rasters, scenes with their labels, and the files of models."""

import functools
import json
import tempfile
from pathlib import Path
from random import Random

import numpy as np

from tasks.imagery.scenes.folder import folder_catalogue
from tasks.labels.classes import ClassMap
from tasks.labels.measure import measure
from tasks.labels.registry import open_labels
from tasks.raster.encoded import BadImageError, check_image, decode_image
from tasks.raster.files import Rasters
from tests.fuzz.case import Case, Kind
from tests.fuzz.pieces import CANARY, SECRET_FILE, damaged, json_bytes
from tests.fuzz.server import Here
from tests.support.odd_rasters import odd_raster, picture, vrt, whole_tiff
from tests.support.recipes import recipe_of
from tests.support.stac_items import cog

SIDE = 64
_FORMS = (
    ("JPEG", "RGB"),
    ("JPEG", "L"),
    ("JPEG", "CMYK"),
    ("PNG", "RGB"),
    ("PNG", "RGBA"),
    ("PNG", "P"),
    ("WEBP", "RGBA"),
)


def _tile(random: Random) -> Case:
    form, mode = random.choice(_FORMS)
    more = {"progressive": True} if form == "JPEG" and random.random() < 0.3 else {}
    data = picture(random, form, mode, random.choice([SIDE] * 9 + [1, 7]), **more)
    if random.random() < 0.25:
        data = odd_raster(random)
    return Case({"tile": damaged(random, data) if random.random() < 0.8 else data})


def _decode(folder: Path, case: Case, here: Here) -> None:
    """Both ways are tried of every tile: one may refuse what the other takes."""
    data, refused = case.files["tile"], None
    for one in (lambda: check_image(data, SIDE), lambda: decode_image(data, SIDE), lambda: decode_image(data)):
        try:
            one()
        except BadImageError as error:
            refused = error
    if refused:
        raise refused


def _raster(random: Random) -> Case:
    data = odd_raster(random) if random.random() < 0.6 else damaged(random, _good(random))
    files = {random.choice(["odd.tif"] * 6 + ["odd.png", "odd.jpg", "odd.jp2", "odd"]): data}
    name = next(iter(files))
    if random.random() < 0.15:
        other = random.choice(
            [vrt(f"/vsicurl/http://{CANARY}/a.tif"), odd_raster(random), b"1\n0\n0\n-1\n5\n5\n", b"nan\n" * 6]
        )
        files[random.choice([f"{name}.msk", f"{name}.ovr", f"{name}.aux.xml", "odd.tfw", "odd.wld", "odd.pgw"])] = other
    if random.random() < 0.05:
        files[name] = vrt(random.choice([f"/vsicurl/http://{CANARY}/a.tif", SECRET_FILE]))
    return Case(files)


@functools.cache
def _cogs() -> list[bytes]:
    noise = np.random.default_rng(1)
    values = [noise.integers(0, 200, (bands, 256, 256)) for bands in (1, 3)]
    found = [cog(one.astype(dtype), compress=way) for one in values for dtype in ("uint8", "uint16") for way in _WAYS]
    return [*found, cog(values[0].astype("float32"), compress="DEFLATE", predictor="YES")]


_WAYS = ("NONE", "DEFLATE", "LZW", "ZSTD")


def _good(random: Random) -> bytes:
    return random.choice(_cogs()) if random.random() < 0.8 else whole_tiff(random)


def _read_raster(folder: Path, case: Case, here: Here) -> None:
    path, rasters = folder / next(iter(case.files)), Rasters()
    try:
        header = rasters.header(path, path.name)
        at = np.arange(SIDE)
        rasters.read(path, path.name, at[: header.width], at[: header.height])
        far = np.maximum(0, header.width - 1 - at[::-1]), np.maximum(0, header.height - 1 - at[::-1])
        rasters.read(path, path.name, *far, nodata=0)
    finally:
        rasters.close()


def _scene(random: Random) -> Case:
    """Two scenes; one of four files is odd."""
    files = {f"{kind}/{scene}.tif": _plain(kind) for scene in "ab" for kind in ("images", "labels")}
    odd = random.choice(sorted(files))
    files[odd] = random.choice([odd_raster, lambda random: damaged(random, files[odd])])(random)
    if random.random() < 0.1:
        files[random.choice(["images/._a.tif", "images/c\udcff.tif", "labels/a.tif.aux.xml", "images/b.tfw"])] = (
            b"1\n" * 6
        )
    return Case(files, [random.choice(["same", "same", "nearest"])])


@functools.cache
def _plain(kind: str) -> bytes:
    values = np.random.default_rng(1).integers(0, 2, (1, 128, 128)).astype("uint8")
    return cog(values if kind == "labels" else values * 100, nodata=None)


def _cut(folder: Path, case: Case, here: Here) -> None:
    labels = {"source": "rasters", "path": "labels/{scene}.tif"}
    align = {} if case.words[0] == "same" else {"align": "nearest"}
    recipe = recipe_of("scenes", {"labels": labels | align, "limits": {"max_tiles": 2000}}, folder)
    catalogue = folder_catalogue(recipe)
    drawn = open_labels(recipe, catalogue.scenes, folder / "work" / "footprints.parquet")
    try:
        windows, _ = catalogue.windows()
        catalogue.fingerprints()
        drawn.prepare(windows, folder / "work")
        for window in windows[::3]:
            for acquisition in catalogue.acquisitions(window):
                acquisition.read()
            measure([window], drawn, ClassMap.of(recipe), recipe)
    finally:
        drawn.close()
        catalogue.close()


@functools.cache
def _model() -> dict[str, bytes]:
    import torch

    from training.config import load_config
    from training.model_files import DatasetMetadata, save_model
    from training.models import build_model

    torch.manual_seed(1)
    config = load_config("unet-small", ["model.widths=[2,2]", "device=cpu"])
    told = {
        "dataset": "d",
        "version": "v1",
        "snapshot": "s",
        "recipe_hash": "r",
        "software_version": "x",
        "foreground": 1,
    }
    told |= {"bands": ["red"], "mean": [1.0], "std": [1.0], "side": 32, "test_split": "t"}
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), build_model(config.model, 1), config, DatasetMetadata.model_validate(told))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _model_files(random: Random) -> Case:
    files = dict(_model())
    how = random.randrange(4)
    if how == 0:
        files["data.json"] = json_bytes(random, json.loads(files["data.json"]))
    elif how == 1:
        weights = files["weights.safetensors"]
        size = 8 + int.from_bytes(weights[:8], "little")
        head = json_bytes(random, json.loads(weights[8:size]))
        files["weights.safetensors"] = len(head).to_bytes(8, "little") + head + weights[size:]
    else:
        name = random.choice(sorted(files))
        files[name] = damaged(random, files[name])
    return Case(files)


def _load_model(folder: Path, case: Case, here: Here) -> None:
    from training.inference import load_model

    load_model(folder).predict(np.zeros((1, 1, 32, 32), dtype=np.uint8))


TILES = Kind(_tile, _decode, ("",), 10, (BadImageError,))
RASTERS = Kind(_raster, _read_raster, ("odd",), 10, grows=1536)
SCENES = Kind(_scene, _cut, ("images", "labels", "scene"), 5, grows=1536)
MODELS = Kind(_model_files, _load_model, ("data.json", "weights.safetensors", "config.yaml"), 3)
