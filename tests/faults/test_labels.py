"""Slippy maps, extracts, Overpass and Nominatim against every fault."""

import pytest

from tests.faults import doors
from tests.faults.cases import CORE, HTTP, JSON, Door, cases, one_fault, slow_faults
from tests.faults.doors import Visit

DOORS = (
    Door(doors.tiles, HTTP),
    Door(doors.mapbox, ("echo", "redirect-elsewhere", "redirect-bare", "status-401", "endless-close"), ("never",)),
    Door(doors.pbf, HTTP),
    Door(doors.checksum, CORE, says=False),  # of a body that is no digest it reads four kilobytes, whatever follows
    Door(doors.overpass, (*CORE, *JSON)),
    Door(doors.status, CORE, may_pass=True),
    Door(doors.place, (*CORE, *JSON), ("drip-body",)),
)


@pytest.mark.parametrize(("door", "fault"), cases(DOORS))
def test_one_fault(door: Door, fault: str, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    one_fault(door, fault, visit, caplog)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_what_only_time_ends(door: Door, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    slow_faults(door, visit, caplog)
