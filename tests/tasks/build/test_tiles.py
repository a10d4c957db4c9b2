"""The build's steps on a small made-up region: states, reruns, splits, refusals."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from infra.sandbox.services.scripted import Reply, ScriptedServer
from tasks.build import line, stages
from tasks.build.assign import assign
from tasks.errors import (
    BusyError,
    CredentialError,
    DiskError,
    NothingSelectedError,
    SourceError,
    StoreError,
    TooManyFailedError,
)
from tasks.geo.tiles import Tile, lonlat_bounds
from tasks.recipe.load import load_recipe
from tasks.state.ledger import Ledger
from tasks.state.sqlite import open_ledger
from tasks.state.transitions import State
from tasks.state.workdir import WorkDir
from tasks.versions.read import open_version, versions
from tests.support.builds import contents, job_of, run_build
from tests.support.small import NORTH, WEST, ZOOM, SmallRegion, png_of

ABSENT = Tile(ZOOM, WEST + 2, NORTH + 3)
BROKEN = Tile(ZOOM, WEST + 5, NORTH + 4)
FAST = ["imagery.attempts=2"]


class Site:
    """A region, its recipe and its server."""

    def __init__(self, folder: Path) -> None:
        self.region = SmallRegion(absent=frozenset({ABSENT}))
        self.answers: dict[str, Reply] = {}
        self.server = ScriptedServer(self._answer, content_type="image/png")
        self.folder, self.store = folder, folder / "store"

    def _answer(self, key: str) -> bytes | Reply | None:
        return self.answers.get(key) or self.region.image(key)

    @property
    def recipe(self) -> Path:
        return self.folder / "small.yaml"

    def spoil(self, tile: Tile, reply: Reply) -> None:
        self.answers[f"/{tile.name}.png"] = reply

    def ledger(self) -> Ledger:
        return open_ledger(WorkDir.of(str(self.store)).ledger)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    with found.server as server:
        found.region.write_recipe(tmp_path, server.url)
        yield found


def test_only_tiles_that_pass_are_asked_for(site: Site) -> None:
    summary = run_build(site.recipe, site.store)
    selected = site.region.selected
    assert summary.new
    assert (summary.candidates, summary.selected) == (len(site.region.tiles), len(selected))
    assert (summary.accepted, summary.absent, summary.failed) == (len(selected) - 1, 1, 0)
    assert sum(summary.splits.values()) == summary.accepted
    assert site.server.counts() == {f"/{tile.name}.png": 1 for tile in selected}
    with site.ledger() as ledger:
        assert ledger.names(State.ABSENT) == [ABSENT.name]
        assert ledger.reasons(State.REJECTED) == {"density": len(site.region.tiles) - len(selected)}


def test_the_version_describes_itself(site: Site) -> None:
    run_build(site.recipe, site.store)
    attributes = open_version(str(site.store)).attributes
    assert attributes["dataset"] == "small"
    assert attributes["recipe"]["grid"] == {"zoom": ZOOM, "tile_size": 256}
    assert attributes["recipe_hash"] == load_recipe(site.recipe).hash()
    assert attributes["attributions"] == {"imagery": "made up", "labels": "© OpenStreetMap contributors"}
    assert attributes["licences"]["labels"] == "ODbL-1.0"
    assert attributes["counts"]["absent"] == 1
    assert attributes["classes"][1] == {"name": "building", "value": 1, "color": "#ffffff"}
    assert attributes["label_timestamp"].startswith("20")
    assert attributes["software_version"].startswith("tilewright ")
    assert attributes["terms_accepted"] is None


def test_images_and_masks_are_those_of_their_tiles(site: Site) -> None:
    run_build(site.recipe, site.store, ["resize=null"])
    arrays = open_version(str(site.store)).split("train")
    for i, name in enumerate(arrays.sample_id):
        tile = Tile.parse(name)
        assert tuple(arrays.array("tile")[i]) == tile
        assert np.allclose(arrays.array("bounds")[i], lonlat_bounds(tile))
        expected = np.zeros((256, 256), dtype=np.uint8)
        expected[:, : 64 * site.region.quarters(tile)] = 1
        assert np.array_equal(np.asarray(arrays.mask[i]), expected)
        assert arrays.array("building_fraction")[i] == site.region.quarters(tile) / 4


def test_a_complete_rerun_asks_for_nothing_and_makes_no_version(site: Site) -> None:
    first = run_build(site.recipe, site.store)
    site.server.reset()
    again = run_build(site.recipe, site.store)
    assert not again.new
    assert (again.version, again.snapshot, again.splits) == (first.version, first.snapshot, first.splits)
    assert again.requests == {"imagery": 0, "labels": 0}
    assert site.server.requests == []


def test_a_failed_tile_is_asked_for_again_and_an_absent_one_is_not(site: Site) -> None:
    site.spoil(BROKEN, Reply(503))
    first = run_build(site.recipe, site.store, [*FAST, "limits.max_failed_fraction=0.05"])
    assert (first.failed, first.new) == (1, True)
    del site.answers[f"/{BROKEN.name}.png"]
    site.server.reset()
    second = run_build(site.recipe, site.store, [*FAST, "limits.max_failed_fraction=0.05"])
    assert (second.version, second.failed, second.accepted) == ("v2", 0, first.accepted + 1)
    assert site.server.counts() == {f"/{BROKEN.name}.png": 1}
    one, two = contents(site.store, "v1"), contents(site.store, "v2")
    assert all(two[name] == one[name] for name in one)


def test_too_many_failures_end_the_run_and_say_which_and_why(site: Site) -> None:
    site.spoil(BROKEN, Reply(503))
    with pytest.raises(
        TooManyFailedError, match=rf"1 of 108 images failed, over .* 0.005 \(1 x HTTP 503; for example {BROKEN.name}\)"
    ):
        run_build(site.recipe, site.store, FAST)
    with pytest.raises(StoreError, match="no store there"):
        versions(str(site.store))
    site.answers.clear()
    site.server.reset()
    assert run_build(site.recipe, site.store, FAST).version == "v1"
    assert len(site.server.requests) == 1


def test_nodata_is_rejected_and_remembered(site: Site) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGBA", (256, 256), (10, 20, 30, 0)).save(buffer, "PNG")
    site.spoil(BROKEN, Reply(body=buffer.getvalue(), content_type="image/png"))
    first = run_build(site.recipe, site.store)
    assert first.accepted == first.selected - 2
    with site.ledger() as ledger:
        assert ledger.reasons(State.REJECTED)["nodata"] == 1
    site.server.reset()
    assert not run_build(site.recipe, site.store).new
    assert site.server.requests == []


def test_a_growing_area_keeps_every_split_and_order(site: Site) -> None:
    run_build(site.recipe, site.store, [f"area.bbox={site.region.bbox(columns=5)}"])
    grown = run_build(site.recipe, site.store)
    assert grown.version == "v2"
    one, two = contents(site.store, "v1"), contents(site.store, "v2")
    assert len(two) > len(one)
    assert all(two[name] == one[name] for name in one)
    for split in ("train", "validation", "test"):
        before = open_version(str(site.store), "v1").split(split).sample_id
        assert open_version(str(site.store), "v2").split(split).sample_id[: len(before)] == before


def test_changed_labels_make_a_new_version_without_new_imagery(site: Site) -> None:
    run_build(site.recipe, site.store)
    path = site.folder / "buildings.geojson"
    footprints = json.loads(path.read_text())
    del footprints["features"][0]
    path.write_text(json.dumps(footprints))
    site.server.reset()
    second = run_build(site.recipe, site.store)
    assert (second.version, second.requests["imagery"]) == ("v2", 0)
    gone = contents(site.store, "v1").keys() - contents(site.store, "v2").keys()
    assert gone == {site.region.selected[0].name}


def test_labels_of_an_unfinished_run_are_used_again(site: Site) -> None:
    site.spoil(BROKEN, Reply(503))
    with pytest.raises(TooManyFailedError):
        run_build(site.recipe, site.store, FAST)
    taken = WorkDir.of(str(site.store)).footprints.stat().st_mtime_ns
    site.answers.clear()
    run_build(site.recipe, site.store, FAST)
    assert WorkDir.of(str(site.store)).footprints.stat().st_mtime_ns == taken
    run_build(site.recipe, site.store, FAST)
    assert WorkDir.of(str(site.store)).footprints.stat().st_mtime_ns > taken


def test_a_label_file_that_was_mended_is_read_again(site: Site) -> None:
    path = site.folder / "buildings.geojson"
    good = path.read_text()
    path.write_text(json.dumps({**json.loads(good), "features": json.loads(good)["features"][:1]}))
    with pytest.raises(NothingSelectedError):
        run_build(site.recipe, site.store, ["filter.min_building_fraction=0.8"])
    with pytest.raises(NothingSelectedError):
        run_build(site.recipe, site.store, ["filter.min_building_fraction=0.6"])
    path.write_text(good)
    assert run_build(site.recipe, site.store, ["filter.min_building_fraction=0.6"]).accepted > 0


def test_labels_of_an_unfinished_run_last_a_day(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.spoil(BROKEN, Reply(503))
    with pytest.raises(TooManyFailedError):
        run_build(site.recipe, site.store, FAST)
    taken = WorkDir.of(str(site.store)).footprints.stat().st_mtime_ns
    monkeypatch.setattr(stages, "LABELS_LAST", -1.0)
    with pytest.raises(TooManyFailedError):
        run_build(site.recipe, site.store, FAST)
    assert WorkDir.of(str(site.store)).footprints.stat().st_mtime_ns > taken


def test_a_first_build_that_ends_before_its_commit_gives_no_split_away(site: Site) -> None:
    for tile in site.region.selected[::5]:
        site.spoil(tile, Reply(503))
    overrides = ["imagery.attempts=1", "splits.by=tile", "limits.max_failed_fraction=0.5"]
    job = job_of(site.recipe, site.store, overrides)
    with line.running(job):
        found = stages.candidates(job)
        report = stages.labels(job, found)
        for shard in stages.to_measure(job, found, report):
            stages.measure(job, report, shard)
        for shard in stages.to_fetch(job, found):
            stages.fetch(job, shard)
        assert len(assign(job, found)) > 0
    site.answers.clear()
    run_build(site.recipe, site.store, overrides)
    run_build(site.recipe, site.folder / "undisturbed", overrides)
    assert contents(site.store) == contents(site.folder / "undisturbed")


def test_a_lost_image_is_fetched_again_and_a_changed_one_is_told(site: Site) -> None:
    run_build(site.recipe, site.store)
    work = WorkDir.of(str(site.store))
    files = sorted(work.images.rglob("*.png"))
    files[0].unlink()
    site.server.reset()
    assert not run_build(site.recipe, site.store).new
    assert len(site.server.requests) == 1
    files[1].write_bytes(png_of(Tile(1, 0, 0)))
    with pytest.raises(DiskError, match="is not the one that was staged"):
        run_build(site.recipe, site.store, ["filter.min_building_fraction=0.2"])
    assert run_build(site.recipe, site.store, ["filter.min_building_fraction=0.2"]).version == "v2"


def test_a_buffer_drops_what_lies_too_near(site: Site) -> None:
    summary = run_build(site.recipe, site.store, ["splits.buffer=1", "splits.block_zoom=14"])
    found = {Tile.parse(name): split for name, (split, _, _) in contents(site.store).items()}
    assert 0 < len(found) == summary.accepted < summary.selected - 1
    for one, split in found.items():
        for other, name in found.items():
            assert split == name or max(abs(one.x - other.x), abs(one.y - other.y)) > 1
    with pytest.raises(NothingSelectedError, match=r"splits\.buffer 12 leaves no sample"):
        run_build(site.recipe, site.folder / "other", ["splits.buffer=12"])


def test_by_tile_the_shares_are_exact(site: Site) -> None:
    summary = run_build(site.recipe, site.store, ["splits.by=tile"])
    assert summary.splits == {"train": 75, "validation": 16, "test": 16}


def test_no_tile_passes(site: Site) -> None:
    with pytest.raises(NothingSelectedError, match=r"(?s)no tile passes the filter.* 144  candidate tiles.*would pass"):
        run_build(site.recipe, site.store, ["filter.min_building_fraction=1.0"])
    assert site.server.requests == []
    assert not site.store.exists()


def test_another_recipe_is_refused(site: Site) -> None:
    run_build(site.recipe, site.store)
    with pytest.raises(StoreError, match="store: holds another recipe: resize is 32 there and 64 here"):
        run_build(site.recipe, site.store, ["resize=64"])
    shutil.rmtree(site.store)
    with pytest.raises(StoreError, match="holds another recipe: name is 'small' there and 'other' here"):
        run_build(site.recipe, site.store, ["name=other"])


def test_a_second_build_of_the_same_store_is_told_who_holds_it(site: Site) -> None:
    with (
        line.running(job_of(site.recipe, site.store)),
        pytest.raises(BusyError, match=rf"another build holds this store \(process {os.getpid()} on .* since 20"),
        line.running(job_of(site.recipe, site.store)),
    ):
        pass
    run_build(site.recipe, site.store)


def test_a_lock_of_a_dead_process_holds_nothing(site: Site) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from tasks.build import line; from tests.support.builds import job_of\n"
        "held = line.running(job_of(Path(sys.argv[1]), sys.argv[2])); held.__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(site.recipe), str(site.store)], check=False)
    assert '"pid"' in (site.folder / "store.work" / "lock").read_text()
    run_build(site.recipe, site.store)


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (
            Reply(401, b'{"message":"Not Authorized - Invalid Token"}'),
            CredentialError,
            "Not Authorized - Invalid Token",
        ),
        (Reply(403, b'{"message":"Forbidden"}'), CredentialError, "Forbidden"),
        (Reply(404, b'{"message":"Tileset x does not exist"}'), SourceError, "Tileset x does not exist"),
        (Reply(422, b'{"message":"Zoom level must be between 0-30."}'), SourceError, "Zoom level"),
        (Reply(200, png_of(Tile(1, 0, 0), 512)), SourceError, r"512.*grid\.tile_size"),
    ],
)
def test_a_refusal_stops_the_run_at_once(site: Site, reply: Reply, error: type[Exception], message: str) -> None:
    for tile in site.region.selected:
        site.spoil(tile, reply)
    with pytest.raises(error, match=message):
        run_build(site.recipe, site.store, ["imagery.connections=4"])
    assert len(site.server.requests) < 20
    assert not site.store.exists()


def test_a_server_that_is_down_is_told_quickly(site: Site) -> None:
    with pytest.raises(SourceError, match=r"cannot reach http://127\.0\.0\.1:9"):
        run_build(site.recipe, site.store, ["imagery.url=http://127.0.0.1:9/{z}/{x}/{y}.png"])


def test_a_full_disk_while_fetching_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    run_build(site.recipe, site.store, [f"area.bbox={site.region.bbox(columns=5)}"])
    good = contents(site.store)
    real, renamed = os.rename, []

    def until_full(source: str, target: str) -> None:
        renamed.append(target)
        if len(renamed) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", until_full)
        with pytest.raises(DiskError, match=r"No space left on device.*run the same command again"):
            run_build(site.recipe, site.store, ["imagery.connections=2"])
    assert contents(site.store) == good
    site.server.reset()
    assert run_build(site.recipe, site.store).version == "v2"
    assert len(site.server.requests) <= len(site.region.selected)


def test_a_full_disk_while_writing_loses_nothing(site: Site) -> None:
    """A real one: the store lies on a file system of its own with too little room for the second version."""
    run_build(site.recipe, site.store, [f"area.bbox={site.region.bbox(columns=2)}", "resize=128"])
    good = contents(site.store)
    script = (
        "import os, subprocess, sys; from pathlib import Path; from tests.support.builds import contents, run_build\n"
        "from tasks.errors import DiskError\n"
        "recipe, store, small = (Path(word) for word in sys.argv[1:4])\n"
        "def run(*words):\n    subprocess.run([str(word) for word in words], check=True)\n"
        "run('mount', '-t', 'tmpfs', '-o', 'size=64m', 'tmpfs', small)\n"
        "run('cp', '-r', store, small)\n"
        "(small / 'store.work').symlink_to(f'{store}.work')\n"
        "used = os.statvfs(small); used = (used.f_blocks - used.f_bfree) * used.f_frsize\n"
        "run('mount', '-o', f'remount,size={used + 16384}', small)\n"
        "before = contents(small / store.name)\n"
        "try:\n    run_build(recipe, small / store.name, ['resize=128'])\n"
        "except DiskError as error:\n    print(error)\n"
        "    assert contents(small / store.name) == before\n    sys.exit(3)\n"
    )
    small = site.folder / "small-disk"
    small.mkdir()
    words = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", script]
    result = subprocess.run(
        [*words, str(site.recipe), str(site.store), str(small)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert result.returncode == 3, result.stdout + result.stderr
    assert "free space and run the same command again" in result.stdout
    assert contents(site.store) == good


def test_the_summary_is_plain_data(site: Site) -> None:
    summary = dataclasses.asdict(run_build(site.recipe, site.store))
    assert json.loads(json.dumps(summary)) == summary
    wanted = [
        "version",
        "snapshot",
        "candidates",
        "selected",
        "accepted",
        "absent",
        "failed",
        "splits",
        "requests",
        "seconds",
    ]
    assert set(wanted) <= summary.keys()
