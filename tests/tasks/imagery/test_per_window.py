"""What becomes of the windows of a catalogue: which are asked for, what is staged, and what is recorded when."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.errors import AreaError, DiskError, SourceError, WindowReadError
from tasks.imagery.per_window import PerWindow
from tasks.imagery.protocol import Chip, Price
from tasks.raster.scene import Scene
from tasks.recipe.model import Recipe
from tasks.samples.window import Shard, Window
from tasks.state.ledger import Fetched
from tasks.state.staging import Staging
from tasks.state.transitions import Image
from tests.support.stac_items import recipe as stac_recipe
from tests.tasks.raster.made import scenes_recipe

SIDE = 10
# Of the recipes of tests.tasks.raster.made and tests.support.stac_items, by the program before this module.
SCENES_KEY = "af805a3e96d64a0280c93d878bd4147b509bbfcbffdb949146fe2879b7caced4"
STAC_KEY = "14da9033909ea057b565bd050862e4496f1879605e5015b0fe5244503cb331f6"


@dataclass
class Made:
    """An acquisition that is ``chip``, or that cannot be read."""

    chip: Chip | Exception
    id: str = "item"
    acquired_at: int | None = 99

    def read(self) -> Chip:
        if isinstance(self.chip, Exception):
            raise self.chip
        return self.chip

    def layer(self, name: str) -> NDArray[Any] | None:
        return None


@dataclass
class Shelf:
    """A catalogue of one acquisition a window, made by the window's name."""

    names: Sequence[str]
    make: Callable[[str], Chip | Exception]
    remote: bool = False
    bands: tuple[str, ...] = ("red", "nir")
    requests: int = 7
    left_out: dict[str, int] = field(default_factory=dict)
    closed: bool = False

    def windows(self) -> tuple[list[Window], dict[str, int]]:
        return [Window(name, "scene", "scene", 0, 0, SIDE, SIDE) for name in self.names], self.left_out

    def scenes(self) -> Sequence[Scene]:
        return [Scene("scene", "scene")]

    def acquisitions(self, window: Window) -> Sequence[Made]:
        return [] if window.name == "bare" else [Made(self.make(window.name))]

    def fingerprints(self) -> Mapping[str, str]:
        return {"scene": "as it was"}

    def close(self) -> None:
        self.closed = True


def chip(nodata: int = 0, padded: int = 0) -> Chip:
    """Its first ``padded`` pixels are mirrored, the next ``nodata`` ones empty."""
    order = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    image = np.stack([order, order + 1]).astype(np.uint16)
    empty = (order >= padded) & (order < padded + nodata)
    return Chip(image, empty, "a rule", order < padded if padded else None)


def made(**changes: Any) -> Recipe:
    imagery = {"windows": {"size": 32}, "bands": ["red", "nir"], **changes.pop("imagery", {})}
    plain = scenes_recipe(Path(), "x", **imagery)
    return Recipe.model_validate(plain.model_dump() | changes)


def fetched(source: PerWindow, folder: Path) -> dict[str, Fetched]:
    """Every window's outcome; it may come once."""
    found: list[Fetched] = []
    for shard in source.candidates().shards:
        source.fetch(shard, Staging(folder), found.extend)
    by_name = {one.name: one for one in found}
    assert len(by_name) == len(found)
    return by_name


def test_windows_are_cut_into_shards_as_they_come() -> None:
    names = [f"w{n}" for n in range(600)]
    found = PerWindow(made(), Shelf(names, lambda _: chip(), left_out={"too small": 2})).candidates()
    assert [(shard.name, len(shard.windows)) for shard in found.shards] == [("0", 256), ("1", 256), ("2", 88)]
    assert [window.name for window in found.windows()] == names
    assert found.left_out == {"too small": 2}


def test_windows_that_cannot_be_a_dataset_are_told() -> None:
    with pytest.raises(SourceError, match=r"the source has no window; check imagery\.windows or imagery\.cells"):
        PerWindow(made(), Shelf([], lambda _: chip())).candidates()
    with pytest.raises(AreaError, match=r"the source has 3 windows, over limits\.max_tiles 2; take fewer scenes"):
        PerWindow(made(limits={"max_tiles": 2}), Shelf("abc", lambda _: chip())).candidates()
    with pytest.raises(SourceError, match="two windows have one name"):
        PerWindow(made(), Shelf("aba", lambda _: chip())).candidates()


def test_what_is_read_is_staged_and_told(tmp_path: Path) -> None:
    source = PerWindow(made(clouds={"on_cloud": "mask"}), Shelf(["a"], lambda _: chip(nodata=4, padded=20)))
    (outcome,) = fetched(source, tmp_path).values()
    assert (outcome.image, outcome.reason, outcome.attempts) == (Image.STAGED, "", 1)
    assert outcome.nodata_fraction == 4 / 80  # of the pixels that are no mirrored context
    assert (outcome.acquired_at, outcome.origin, outcome.note) == (99, "item", "a rule")
    assert outcome.cloud_fraction is None
    assert outcome.fetched_at
    assert outcome.sha256 is not None
    staged = Staging(tmp_path).read("a", outcome.sha256)
    assert staged is not None
    assert outcome.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert np.array_equal(staged.image, chip().image)
    assert staged.hidden is not None
    assert np.flatnonzero(staged.hidden).tolist() == list(range(24))
    assert staged.cloud_mask is not None
    assert not staged.cloud_mask.any()


def test_what_is_not_staged_is_told_with_its_reason_and_what_lacks_data_is_staged(tmp_path: Path) -> None:
    chips = {"bare": chip(), "empty": chip(nodata=6), "broken": WindowReadError("x.tif: cut short"), "good": chip()}
    found = fetched(PerWindow(made(), Shelf(list(chips), chips.__getitem__)), tmp_path)
    assert {name: (one.image, one.reason) for name, one in found.items()} == {
        "bare": (Image.ABSENT, "no item covers it"),
        "empty": (Image.STAGED, ""),  # a filter says what becomes of it
        "broken": (Image.FAILED, "x.tif: cut short"),
        "good": (Image.STAGED, ""),
    }
    assert found["empty"].nodata_fraction == 0.06
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.npy", "good.npy"]


@dataclass
class RefusesOnce:
    """Refuses one window, the first time."""

    name: str
    chip: Chip
    refused: bool = False

    def __call__(self, name: str) -> Chip | Exception:
        if name != self.name or self.refused:
            return self.chip
        self.refused = True
        return SourceError("the source refuses every window alike")


@pytest.mark.parametrize("remote", [False, True])
def test_outcomes_are_recorded_in_batches_and_before_a_source_gives_up(tmp_path: Path, remote: bool) -> None:
    names = [f"w{n:02}" for n in range(70)]
    refused = RefusesOnce("w40", chip())
    source = PerWindow(made(), Shelf(names, refused, remote))
    batches: list[list[str]] = []
    threads: set[int] = set()

    def record(outcomes: Sequence[Fetched]) -> None:
        batches.append([one.name for one in outcomes])
        threads.add(threading.get_ident())

    (shard,) = source.candidates().shards
    with pytest.raises(SourceError, match="refuses every window alike"):
        source.fetch(shard, Staging(tmp_path), record)
    assert batches == [names[:32], [name for name in names[32:64] if name != "w40"]]
    assert threads == {threading.get_ident()}
    batches.clear()
    source.fetch(shard, Staging(tmp_path), record)
    assert batches == [names[:32], names[32:64], names[64:]]


def test_windows_of_another_machine_are_read_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(8, timeout=30)

    def together(_: str) -> Chip:
        barrier.wait()
        return chip()

    assert len(fetched(PerWindow(made(imagery={"connections": 8}), Shelf("abcdefgh", together, True)), tmp_path)) == 8


def test_a_disk_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(DiskError, match="images"):
        fetched(PerWindow(made(), Shelf("a", lambda _: chip())), tmp_path / "images")


def test_a_catalogue_is_passed_on() -> None:
    shelf = Shelf("ab", lambda _: chip())
    source = PerWindow(made(), shelf)
    assert (source.bands, source.requests, source.fingerprints()) == (("red", "nir"), 7, {"scene": "as it was"})
    assert [scene.name for scene in source.scenes()] == ["scene"]
    windows = list(source.candidates().windows())
    assert source.price(windows, 5, 1000.0) == Price(requests=2, bytes=2 * SIDE * SIDE * (2 * 2 + 1))
    assert source.price([], 5, None) == Price(0, 0)
    assert source.shape is source.terms() is None
    source.check()
    source.close()
    assert shelf.closed


def test_the_key_is_of_what_the_images_show() -> None:
    """The ledgers of earlier versions hold it: another one would have all imagery asked for again."""

    def key(**changes: Any) -> str:
        return PerWindow(made(**changes), Shelf("a", lambda _: chip())).key

    same = key()
    assert key(imagery={"attempts": 9, "timeout": 5.0, "connections": 2, "licence": "CC0", "attribution": "me"}) == same
    assert key(title="Other", splits={"seed": 3}, filter={"max_ignore_fraction": 0.5}) == same
    assert key(filter={"max_nodata_fraction": 0.5}) == same  # judges what was read, and asks for nothing else
    for changes in ({"imagery": {"nodata": 0}}, {"clouds": {"dilate": 1}}):
        assert key(**changes) != same
    few, many = (stac_recipe("https://example.org", imagery={"max_items": most}) for most in (10, 9_999))
    assert PerWindow(few, Shelf("a", lambda _: chip())).key == PerWindow(many, Shelf("a", lambda _: chip())).key
    plain = PerWindow(scenes_recipe(Path(), "x"), Shelf("a", lambda _: chip()))
    stac = PerWindow(stac_recipe("https://example.org"), Shelf("a", lambda _: chip()))
    assert (plain.key, stac.key) == (SCENES_KEY, STAC_KEY)


def test_one_window_of_a_shard_can_be_asked_for_alone(tmp_path: Path) -> None:
    source = PerWindow(made(), Shelf("abc", lambda _: chip()))
    (shard,) = source.candidates().shards
    found: list[Fetched] = []
    source.fetch(replace(shard, windows=shard.windows[1:2]), Staging(tmp_path), found.extend)
    source.fetch(Shard("none", ()), Staging(tmp_path), found.extend)
    assert [one.name for one in found] == ["b"]
