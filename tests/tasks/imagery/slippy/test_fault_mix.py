import hashlib
from pathlib import Path

import pytest

from infra.sandbox.services.faults import PEER_MIX, Fault, FaultMix
from infra.sandbox.services.scripted import ScriptedServer
from tasks.geo.tiles import Tile
from tasks.imagery.slippy.fetch import Fetcher
from tasks.raster.encoded import check_image
from tasks.state.ledger import Measured
from tasks.state.sqlite import open_ledger
from tasks.state.staging import Staging
from tasks.state.transitions import State
from tests.tasks.imagery.slippy.fetching import by_name, policy, xyz
from tests.tasks.raster.pictures import SIDE, encode, picture


def test_the_fault_mix_over_1024_tiles(tmp_path: Path) -> None:
    tiles = [Tile(18, 131072 + index // 32, 90112 + index % 32) for index in range(1024)]
    bodies = {f"/{tile.name}.png": encode(picture(index % 7), "JPEG") for index, tile in enumerate(tiles)}
    mix = FaultMix.exact(bodies, retry_after=0)
    staging = Staging(tmp_path / "images")
    with ScriptedServer(bodies, faults=mix) as server, open_ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.set_candidates(tile.name for tile in tiles)
        ledger.record_measured([Measured(tile.name, mask=b"", mask_sha256="m") for tile in tiles], "labels")
        with Fetcher(xyz(server.url + "/{z}/{x}/{y}.png"), policy(connections=64)) as fetcher:
            fetcher.fetch(by_name(tiles), staging, ledger.record_fetched)
        counts = server.counts()
        assert ledger.counts() == {
            State.STAGED: 1001,
            State.ABSENT: 23,
            **dict.fromkeys((State.PLANNED, State.REJECTED, State.SELECTED, State.FAILED), 0),
        }
        samples, mean_bytes = ledger.samples(), ledger.mean_bytes()
    faulty = sum(count for fault, count in PEER_MIX.items() if fault is not Fault.ABSENT)
    assert fetcher.requests == sum(counts.values()) == 1024 + 2 * faulty
    for tile in tiles:
        spoiled = mix.fault_of(f"/{tile.name}.png")
        assert counts[f"/{tile.name}.png"] == (1 if spoiled in (None, Fault.ABSENT) else 3)
    assert len(samples) == 1001
    for sample in samples:
        path = staging.path(sample.name)
        assert path is not None
        data = path.read_bytes()
        assert hashlib.sha256(data).hexdigest() == sample.sha256
        assert data == bodies[f"/{sample.name}.png"]
        check_image(data, SIDE)
    assert mean_bytes == pytest.approx(sum(len(bodies[f"/{sample.name}.png"]) for sample in samples) / 1001)
    assert sum(1 for path in (tmp_path / "images").rglob("*") if path.is_file()) == 1001
