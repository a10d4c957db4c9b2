"""Made-up scenes and chips: their layouts, their forms, and that a seed decides every byte."""

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from rasterio.errors import NotGeoreferencedWarning

from infra.sandbox.files import chip_layouts, chips, originals, scene_folders
from infra.sandbox.services.mlhub import API_PATH, PROXY_PATH, SANDBOX_KEY
from infra.sandbox.services.server import Running, running
from tasks.errors import SandboxError
from tasks.imagery.mlhub.layouts import recognise
from tasks.recipe.load import load_recipe
from tests.support.commands import tilewright_started

DATASETS = Path(__file__).parents[4] / "datasets"
PLAIN = "ignore::rasterio.errors.NotGeoreferencedWarning"


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its relative name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "landcover-ai": lambda folder, seed: scene_folders.landcover_ai(folder, seed=seed, sizes=((100, 120),)),
    "inria": lambda folder, seed: scene_folders.inria(folder, seed=seed, side=80, tiles=(4, 6)),
    "spacenet6": lambda folder, seed: scene_folders.spacenet6(folder, seed=seed, side=90, slc=True),
    "emergency": lambda folder, seed: scene_folders.emergency(folder, seed=seed, sizes=((80, 100),)),
    "kenya": lambda folder, seed: chip_layouts.archives(
        chip_layouts.write_kenya(
            folder / "loose", chips.kenya_tiles(seed=seed, tiles=1, height=64, width=48, bands=["B02"])
        ),
        folder,
    ),
    "ghana": lambda folder, seed: chip_layouts.write_ghana_mirror(folder, chips.ghana_chips(seed=seed, chips=3)),
    "landcovernet": lambda folder, seed: chip_layouts.write_landcovernet(
        folder, chips.landcovernet_chips(seed=seed, size=32, chips=1, bands=["B02"]), "C"
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_seed_decides_every_byte(tmp_path: Path, name: str) -> None:
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        WRITERS[name](tmp_path / folder, seed)
    one, other = digest(tmp_path / "one"), digest(tmp_path / "other")
    assert one == digest(tmp_path / "same")
    assert one.keys() == other.keys()
    assert all(one[key] != other[key] for key in one if key.endswith("image.tif") or "images" in key or "B02" in key)


def form(path: Path) -> tuple[int, str, str]:
    """Bands, type and CRS of a file."""
    with rasterio.open(path) as file:
        return file.count, file.dtypes[0], str(file.crs or "")


def test_forms_of_scenes(tmp_path: Path) -> None:
    for name in ("landcover-ai", "inria", "spacenet6", "emergency"):
        WRITERS[name](tmp_path / name, 0)
    area = tmp_path / "spacenet6" / "train" / "AOI_11_Rotterdam"
    start = "SN6_Train_AOI_11_Rotterdam"
    tile = "20190804111224_20190804111453_tile_8600"
    assert form(area / "SAR-Intensity" / f"{start}_SAR-Intensity_{tile}.tif") == (4, "float32", "EPSG:32631")
    assert form(area / "SAR-SLC" / f"{start}_SAR-SLC_{tile}.tif") == (4, "complex64", "EPSG:32631")
    assert form(area / "PS-RGB" / f"{start}_PS-RGB_{tile}.tif") == (3, "uint8", "EPSG:32631")
    assert (area / "geojson_buildings" / f"{start}_Buildings_{tile}.geojson").is_file()
    assert form(tmp_path / "inria" / "train" / "images" / "tyrol-w6.tif") == (3, "uint8", "EPSG:31254")
    assert form(tmp_path / "inria" / "train" / "gt" / "tyrol-w6.tif") == (1, "uint8", "EPSG:31254")
    assert (tmp_path / "inria" / "test" / "images" / "bellingham1.tif").is_file()
    with rasterio.open(tmp_path / "inria" / "train" / "gt" / "tyrol-w6.tif") as file:
        assert set(np.unique(file.read())) == {0, 255}
    assert form(tmp_path / "emergency" / "images" / "D12.tif") == (4, "uint16", "EPSG:32645")
    assert form(tmp_path / "emergency" / "labels" / "D12.tif") == (1, "uint8", "EPSG:32645")
    assert len(list((tmp_path / "emergency" / "images").iterdir())) == 9
    assert form(tmp_path / "landcover-ai" / "images" / "M-33-20-D-c-4-2.tif") == (3, "uint8", "EPSG:2180")


@pytest.mark.filterwarnings(PLAIN)
def test_forms_of_chips(tmp_path: Path) -> None:
    made = chips.landcovernet_chips(size=32, chips=1, bands=("B02", "B8A"))
    for layout in ("A", "B", "C"):
        root = chip_layouts.write_landcovernet(tmp_path / layout, made, layout)  # type: ignore[arg-type]
        files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.tif")}
        hits = {name: recognise(f"{root.name}/{name}") for name in files}
        assert None not in hits.values()
        bands = {hit.key for hit in hits.values() if hit and hit.sensor == "S2"}
        assert bands == {"B02", "B8A", "SCL", "CLD"}
        labels = sorted(form(path) for name, path in files.items() if (hit := hits[name]) and not hit.item)
        assert labels == [(2, "uint16", "EPSG:32628"), (2, "uint16", "EPSG:32633")]
    ghana = chips.ghana_chips(chips=3)
    for write in (chip_layouts.write_ghana_mlhub, chip_layouts.write_ghana_mirror):
        root = write(tmp_path / write.__name__, ghana)
        forms = {(hit.sensor, hit.key, *form(path)) for path in root.rglob("*.tif") if (hit := recognise(str(path)))}
        assert forms == {
            ("", "labels", 1, "uint8", ""),
            ("S2", "image", 10, "uint16", ""),
            ("S2", "cloudmask", 1, "uint8", ""),
            ("S1", "image", 2, "float32", ""),
        }
    root = chip_layouts.write_kenya(tmp_path, chips.kenya_tiles(tiles=1, height=64, width=48, bands=("B02",)))
    item = root / "ref_african_crops_kenya_02_labels" / "ref_african_crops_kenya_02_tile_00_label"
    assert form(item / "labels.tif") == (1, "uint8", "")
    with rasterio.open(item / "labels.tif") as file:
        assert file.shape == (64, 48)
    (archive, _) = chip_layouts.archives(root, tmp_path / "packed")
    with tarfile.open(archive) as tar:
        name = "ref_african_crops_kenya_02_labels/ref_african_crops_kenya_02_tile_00_label/labels.tif"
        assert name in tar.getnames()


@pytest.mark.filterwarnings("error")
def test_chips_without_a_georeference_are_written_without_a_warning(tmp_path: Path) -> None:
    chip_layouts.write_ghana_mlhub(tmp_path, chips.ghana_chips(chips=2))
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(next(tmp_path.rglob("labels.tif"))):
        pass


def test_the_command_writes_what_recipes_look_for(tmp_path: Path) -> None:
    """As from the project's folder, where recipes look into ../data."""
    done = tilewright_started("sandbox", "--files", str(tmp_path / "data"))
    assert (done.returncode, done.stderr) == (0, "")
    names = ("landcover-ai", "inria", "spacenet6", "emergency", "crop-type-kenya", "crop-type-ghana")
    assert done.stdout.split() == [str(tmp_path / "data" / name) for name in (*names, "landcovernet-africa")]
    for name in names[:5]:
        recipe = load_recipe(DATASETS / f"{name}.yaml").in_folder(tmp_path / "datasets")
        imagery = recipe.imagery
        looked_for = imagery.images if imagery.source == "scenes" else imagery.path  # type: ignore[union-attr]
        assert looked_for is not None
        place = recipe.resolve(looked_for.partition("{")[0])
        assert place.is_dir() or list(place.parent.glob(f"{place.name}*.tif"))


def test_nothing_is_put_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "inria").mkdir()
    (tmp_path / "inria" / "mine.tif").write_text("real")
    with pytest.raises(SandboxError, match="inria: is there already"):
        originals.write_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["inria"]


def test_served_when_asked_for(sandbox: Running) -> None:
    with running() as server:
        folder = server.sandbox.originals
        assert not folder.exists()
        listing = f"{server.url}{PROXY_PATH}/stanford/africa-crops-ghana?list-type=2&prefix=truth/&max-keys=3"
        answer = requests.get(listing, timeout=60)
        assert answer.text.count("<Key>truth/truth_ghana_") == 3
        assert sorted(path.name for path in folder.iterdir()) == ["mirror"]
        datasets = requests.get(f"{server.url}{API_PATH}/datasets", params={"key": SANDBOX_KEY}, timeout=60).json()
        assert [one["id"] for one in datasets] == [
            "ref_african_crops_kenya_02",
            "ref_landcovernet_af_v1",
            "su_african_crops_ghana",
        ]
    assert not folder.exists()
