"""Servers of the MLHub protocol, their archives, and Source Cooperative against every fault."""

import pytest

from tests.faults import doors
from tests.faults.cases import CORE, HTTP, JSON, XML, Door, cases, one_fault, slow_faults
from tests.faults.doors import Visit

DOORS = (
    Door(doors.mlhub_dataset, (*CORE, *JSON, "pages-mlhub")),
    Door(doors.mlhub_archive),
    Door(doors.mlhub_storage),
    Door(doors.mlhub_items, (*CORE, *JSON)),
    Door(doors.mlhub_file, HTTP),
    Door(doors.coop_listing, (*CORE, *XML, "pages-s3")),
    Door(doors.coop_file, says=False),  # it is told how long the file must be, and that shows first
)


@pytest.mark.parametrize(("door", "fault"), cases(DOORS))
def test_one_fault(door: Door, fault: str, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    one_fault(door, fault, visit, caplog)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_what_only_time_ends(door: Door, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    slow_faults(door, visit, caplog)
