"""Sources by the recipe's word, and that a process which is handed nothing but a recipe can fetch a shard."""

import json
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import SourceError
from tasks.imagery.per_window import PerWindow
from tasks.imagery.registry import open_source
from tasks.imagery.slippy.source import SlippySource
from tasks.recipe.load import load_recipe
from tasks.recipe.model import Recipe
from tasks.samples.window import Shard
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.state.transitions import Image
from tests.support.recipes import write_recipe
from tests.support.stac_items import SCALE, bbox, cog, item, numbers
from tests.support.stac_items import recipe as stac_recipe
from tests.tasks.imagery.mlhub.files import KENYA
from tests.tasks.imagery.mlhub.files import recipe as mlhub_recipe
from tests.tasks.raster.made import noise, scenes_recipe, write_raster


def scenes(folder: Path) -> Recipe:
    for name in "ab":
        write_raster(folder / f"images/{name}.tif", noise(3, 64, 64))
    return scenes_recipe(folder, "images/{scene}.tif", windows={"size": 32})


def stac(folder: Path) -> Recipe:
    (folder / "red.tif").write_bytes(cog(numbers(1)))
    found = {"type": "FeatureCollection", "features": [item("one", {"red": "./red.tif"}, bands=SCALE)]}
    (folder / "items.json").write_text(json.dumps(found))
    return stac_recipe("items.json", folder=folder, area={"bbox": bbox()})


def mlhub(folder: Path) -> Recipe:
    for tile in ("tile_00", "tile_01"):
        place = folder / "data" / KENYA
        write_raster(place / f"{KENYA}_source/{KENYA}_{tile}_20190606/B02.tif", noise(32, 32, dtype="uint16"))
        write_raster(place / f"{KENYA}_labels/{KENYA}_{tile}_label/labels.tif", noise(32, 32))
    return mlhub_recipe(folder, reader="local", path="data")


def fetch(pickled: bytes, work: Path) -> list[Fetched]:
    """What a worker does: it has never listed a window."""
    recipe, shard = pickle.loads(pickled)
    found: list[Fetched] = []
    source = open_source(recipe, work)
    try:
        source.fetch(shard, Staging(work / "images"), found.extend)
    finally:
        source.close()
    return found


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize(("make", "count"), [(scenes, 8), (stac, 4), (mlhub, 2)])
def test_a_new_process_fetches_a_shard(
    tmp_path: Path, worker: ProcessPoolExecutor, make: Callable[[Path], Recipe], count: int
) -> None:
    recipe = make(tmp_path)
    source = open_source(recipe, tmp_path / "here")
    assert isinstance(source, PerWindow)
    (shard,) = source.candidates().shards
    assert len(shard.windows) == count
    here: list[Fetched] = []
    source.fetch(shard, Staging(tmp_path / "here"), here.extend)
    source.close()
    there = worker.submit(fetch, pickle.dumps((recipe, shard)), tmp_path / "there").result()
    assert {one.image for one in here} == {Image.STAGED}
    assert [(one.name, one.sha256) for one in there] == [(one.name, one.sha256) for one in here]


def test_slippy_maps_have_a_source_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "tiles.txt").write_text("20/5/6\n")
    recipe = load_recipe(write_recipe(tmp_path))
    source = open_source(recipe, tmp_path)
    assert isinstance(source, SlippySource)
    assert [window.name for window in source.candidates().windows()] == ["20/5/6"]
    source.close()


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    for recipe in (
        scenes_recipe(tmp_path, "none/{scene}.tif"),
        mlhub_recipe(tmp_path, reader="local", path="none"),
        stac_recipe("http://127.0.0.1:9/", imagery={"attempts": 1}),
    ):
        source = open_source(recipe, tmp_path / "work")
        assert source.requests == 0
        with pytest.raises(SourceError):
            source.candidates()
        source.close()


def test_a_shard_of_scenes_that_are_gone_is_told(tmp_path: Path) -> None:
    recipe = scenes(tmp_path)
    source = open_source(recipe, tmp_path)
    (shard,) = source.candidates().shards
    source.close()
    (tmp_path / "images/b.tif").unlink()
    source, found = open_source(recipe, tmp_path), list[Fetched]()
    with pytest.raises(SourceError, match=r"window b/0-0: there is no scene b any more; run plan again"):
        source.fetch(Shard("0", shard.windows), Staging(tmp_path), found.extend)
    assert {one.name for one in found} == {window.name for window in shard.windows if window.scene == "a"}
    source.close()
    assert np.isfinite([one.nodata_fraction for one in found]).all()
