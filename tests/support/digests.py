"""The shipped recipes built small from made-up inputs, and the digests by which two programs compare what they built.

``tests/data/digests.json`` holds what the program before its rebuild made of every case; tests/data/README.md says how.
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.sandbox.files import chip_layouts, chips, scene_folders, sentinel
from infra.sandbox.files.chips import MadeChip
from infra.sandbox.files.scene_folders import MadeScene
from infra.sandbox.services.app import PBF_NAME
from infra.sandbox.services.mapbox import SANDBOX_TOKEN
from infra.sandbox.services.mlhub import API_PATH, PROXY_PATH, SANDBOX_KEY
from infra.sandbox.services.stac_api import STAC_PATH
from infra.sandbox.world.region import FIRST_TILE_Z18, REGION_BOUNDS
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.versions.read import open_version
from tests.support.builds import run_build

DATASETS = Path(__file__).parents[2] / "datasets"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Given:
    """The inputs of a build: how the recipe is told of them, and the pixels that they show."""

    overrides: list[str]
    pixels: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Case:
    """One build. ``give`` makes its inputs in a folder, or names what the sandbox at a URL serves."""

    name: str
    recipe: str  # of datasets/
    give: Callable[[Path, str], Given]


def environment(url: str) -> dict[str, str]:
    """The variables with which recipes find the sandbox at ``url``."""
    return {"MAPBOX_API_URL": url, "MAPBOX_ACCESS_TOKEN": SANDBOX_TOKEN, "MLHUB_API_KEY": SANDBOX_KEY}


def built(case: Case, folder: Path, url: str) -> tuple[dict[str, Any], Given]:
    """Build a case in ``folder``; returns its digest, as JSON holds it, and its inputs."""
    given = case.give(folder / "files", url)
    summary = run_build(DATASETS / f"{case.recipe}.yaml", folder / "store", given.overrides)
    counts: dict[str, Any] = {"candidates": summary.candidates, "selected": summary.selected, "kept": summary.accepted}
    counts |= {"absent": summary.absent, "failed": summary.failed, "rejected": summary.rejected}
    return {"recipe": case.recipe, "counts": counts, **digest_of(folder / "store")}, given


def digest_of(store: Path | str, version: str | None = None) -> dict[str, Any]:
    """Of a version: type, shape and statistics of its images and, by split, ids in stored order and two SHA-256.

    ``masks`` is over id and mask of every sample in stored order, ``samples`` over id, image and mask.
    """
    opened = open_version(str(store), version)
    found: dict[str, Any] = {}
    for name in SPLITS:
        arrays = opened.split(name)
        ids, images, masks = arrays.sample_id, np.asarray(arrays.image[:]), np.asarray(arrays.mask[:])
        samples, labels = hashlib.sha256(), hashlib.sha256()
        for sample_id, image, mask in zip(ids, images, masks, strict=True):
            labels.update(sample_id.encode() + mask.tobytes())
            samples.update(sample_id.encode() + image.tobytes() + mask.tobytes())
        found[name] = {"sample_id": ids, "samples": samples.hexdigest(), "masks": labels.hexdigest()}
    told = {"dtype": images.dtype.name, "shape": list(images.shape[1:])}
    return {**told, **{key: opened.attributes[key] for key in ("mean", "std")}, "splits": found}


def digest_of_inputs(given: Given) -> str:
    """SHA-256 of what the inputs show.

    Floating-point functions and JPEG encoders may differ in the last bit from one processor or library to another; then
    the inputs themselves are other ones, and so are the images made from them.
    """
    digest = hashlib.sha256()
    for part in given.pixels():
        digest.update(part)
    return digest.hexdigest()


# ---- what is built ------------------------------------------------------------------------------


def _tiles(columns: range, rows: range, *more: str) -> Callable[[Path, str], Given]:
    """Tiles of zoom 18 of the sandbox's region, by column and row from its north-western one."""
    corner = [Tile(18, FIRST_TILE_Z18[0] + x, FIRST_TILE_Z18[1] + y) for x in columns for y in rows]
    (west, _, _, north), (_, south, east, _) = lonlat_bounds(corner[0]), lonlat_bounds(corner[-1])
    bbox = [west + 1e-6, south + 1e-6, east - 1e-6, north - 1e-6]

    def give(_: Path, url: str) -> Given:
        def pixels() -> Iterable[bytes]:
            for tile in corner:
                address = f"{url}/v4/synthetic.satellite/{tile.name}.jpg90?access_token={SANDBOX_TOKEN}"
                try:
                    with urllib.request.urlopen(address) as answer:
                        yield answer.read()
                except urllib.error.HTTPError as absent:
                    absent.close()

        labels = [f"labels.url={url}/api", *(one.replace("{url}", url) for one in more)]
        return Given([f"area.bbox={bbox}", *labels], pixels)

    return give


def _stac(*more: str) -> Callable[[Path, str], Given]:
    """The sandbox's passes of Sentinel-2 over its region."""

    def give(_: Path, url: str) -> Given:
        overrides = [f"imagery.api={url}{STAC_PATH}", f"labels.url={url}/api", f"area.bbox={list(REGION_BOUNDS)}"]
        items = sentinel.make_items
        return Given([*overrides, *more], lambda: (band.tobytes() for one in items() for band in one.bands.values()))

    return give


def _served(make: Callable[[], Sequence[MadeChip]], *overrides: str) -> Callable[[Path, str], Given]:
    """Chips that the sandbox serves; ``make`` draws the same."""
    return lambda _, url: Given([one.replace("{url}", url) for one in overrides], lambda: _looks(make()))


def _chips(
    make: Callable[[], Sequence[MadeChip]], write: Callable[[Path, Sequence[MadeChip]], object], *more: str
) -> Callable[[Path, str], Given]:
    """Chips in a folder."""

    def give(folder: Path, _: str) -> Given:
        made = make()
        write(folder, made)
        return Given(["imagery.reader=local", f"imagery.path={folder}", *more], lambda: _looks(made))

    return give


def _looks(made: Iterable[MadeChip]) -> Iterable[bytes]:
    return (band.tobytes() for chip in made for look in chip.looks for band in look.bands.values())


def _scenes(
    write: Callable[[Path], Sequence[MadeScene]],
    *overrides: str,
    image: Callable[[Any], NDArray[Any]] = lambda scene: scene.image,
) -> Callable[[Path, str], Given]:
    """Scenes in a folder, of which a build reads ``image``."""

    def give(folder: Path, _: str) -> Given:
        made = write(folder)
        return Given([one.replace("{folder}", str(folder)) for one in overrides], lambda: map(_bytes, map(image, made)))

    return give


def _bytes(values: NDArray[Any]) -> bytes:
    return values.tobytes()


def _write_kenya_archives(folder: Path, made: Sequence[MadeChip]) -> None:
    chip_layouts.archives(chip_layouts.write_kenya(folder.with_name("loose"), made), folder)


_LANDCOVER = ("imagery.images={folder}/images/{scene}.tif", "labels.path={folder}/masks/{scene}.tif")
_INRIA = ("imagery.images={folder}/train/images/{scene}.tif", "labels.path={folder}/train/gt/{scene}.tif")
_EMERGENCY = ("imagery.images={folder}/images/{scene}.tif", "labels.path={folder}/labels/{scene}.tif")
_ROTTERDAM = f"{{folder}}/{scene_folders.SPACENET_AREA}"
_SPACENET = (
    f"labels.path={_ROTTERDAM}/geojson_buildings/SN6_Train_AOI_11_Rotterdam_Buildings_{{scene}}.geojson",
    "imagery.windows={size: 128}",
)
_RADAR = f"imagery.images={_ROTTERDAM}/SAR-Intensity/SN6_Train_AOI_11_Rotterdam_SAR-Intensity_{{scene}}.tif"
_OPTICAL = f"imagery.images={_ROTTERDAM}/PS-RGB/SN6_Train_AOI_11_Rotterdam_PS-RGB_{{scene}}.tif"
_LAND_SIZES = ((1100, 1200), (1030, 600), (520, 1023), (1024, 1024), (1536, 512))
_EMERGENCY_SIZES = ((420, 900), (364, 844), (844, 364), (900, 420), (364, 844), (400, 500), (844, 364))


def _small_landcovernet() -> list[MadeChip]:
    return chips.landcovernet_chips(size=64, chips=5, bands=("B02", "B03", "B04"), dates=("20180106", "20180411"))


CASES = (
    # The four tiles without imagery are among these.
    Case("osm-sandbox", "osm-sandbox", _tiles(range(8, 16), range(8, 16))),
    Case(
        "osm-sandbox of an extract, by tile",
        "osm-sandbox",
        _tiles(
            range(4, 10),
            range(6, 12),
            f"labels={{source: pbf, url: '{{url}}/{PBF_NAME}', checksum: '{{url}}/{PBF_NAME}.md5'}}",
            "splits.by=tile",
            "resize=null",
        ),
    ),
    Case(
        "osm-sandbox with a buffer",
        "osm-sandbox",
        _tiles(range(12), range(4, 12), "splits.buffer=1", "filter.min_building_fraction=0.01", "resize=64"),
    ),
    Case("sentinel2-buildings", "sentinel2-buildings", _stac("imagery.cells.size=32")),
    Case(
        "sentinel2-buildings, median of slippy tiles",
        "sentinel2-buildings",
        _stac(
            "imagery.cells={kind: tiles, zoom: 17, size: 32}",
            "imagery.dates={pick: median}",
            "clouds.max_fraction=0.2",
            "filter.max_nodata_fraction=0.5",
            "imagery.reflectance=false",
        ),
    ),
    Case(
        "landcovernet-africa",
        "landcovernet-africa",
        _served(chips.landcovernet_chips, f"imagery.url={{url}}{PROXY_PATH}"),
    ),
    Case(
        "landcovernet-africa from files",
        "landcovernet-africa",
        _chips(
            _small_landcovernet,
            lambda folder, made: chip_layouts.write_landcovernet(folder, made, "A"),
            "clouds={mask: scl, on_cloud: mask, dilate: 2}",
            "labels.min_consensus=75",
            "imagery.dates={pick: latest, count: 2}",
        ),
    ),
    Case("crop-type-ghana", "crop-type-ghana", _served(chips.ghana_chips, f"imagery.url={{url}}{PROXY_PATH}")),
    Case(
        "crop-type-ghana from files",
        "crop-type-ghana",
        _chips(lambda: chips.ghana_chips(chips=22), chip_layouts.write_ghana_mlhub, "clouds.on_cloud=next-date"),
    ),
    Case(
        "crop-type-kenya from its archives",
        "crop-type-kenya",
        _chips(lambda: chips.kenya_tiles(bands=("B02", "B03", "B04")), _write_kenya_archives),
    ),
    Case(
        "crop-type-kenya from the API",
        "crop-type-kenya",
        _served(
            chips.kenya_tiles,
            "imagery.reader=api",
            f"imagery.url={{url}}{API_PATH}",
            f"imagery.dataset={chip_layouts.KENYA_DATASET}",
        ),
    ),
    Case(
        "landcover-ai",
        "landcover-ai",
        _scenes(lambda folder: scene_folders.landcover_ai(folder, sizes=_LAND_SIZES), *_LANDCOVER),
    ),
    Case(
        "landcover-ai, overlapping and resized",
        "landcover-ai",
        _scenes(
            lambda folder: scene_folders.landcover_ai(folder, sizes=((600, 420), (300, 500), (450, 300), (256, 700))),
            *_LANDCOVER,
            "imagery.windows={size: 256, stride: 160, edge: pad}",
            "resize=96",
            "splits.by=scene",
            "filter.min_fraction={water: 0.05}",
        ),
    ),
    Case("inria", "inria", _scenes(lambda folder: scene_folders.inria(folder, side=400, tiles=range(3, 8)), *_INRIA)),
    Case(
        "inria for networks without padding",
        "inria",
        _scenes(
            lambda folder: scene_folders.inria(folder, side=600, tiles=(5, 6)),
            *_INRIA,
            "imagery.windows={size: 572, padding: 92}",
        ),
    ),
    Case(
        "spacenet6", "spacenet6", _scenes(lambda folder: scene_folders.spacenet6(folder, side=300), _RADAR, *_SPACENET)
    ),
    Case(
        "spacenet6 of optical images",
        "spacenet6",
        _scenes(
            lambda folder: scene_folders.spacenet6(folder, side=300),
            _OPTICAL,
            *_SPACENET,
            "imagery.bands=[red, green, blue]",
            image=lambda tile: tile.optical,
        ),
    ),
    Case(
        "emergency",
        "emergency",
        _scenes(lambda folder: scene_folders.emergency(folder, sizes=_EMERGENCY_SIZES), *_EMERGENCY),
    ),
)
