"""STAC APIs and catalogues, their rasters and the Planetary Computer's tokens against every fault."""

import pytest

from tests.faults import doors
from tests.faults.cases import CORE, HTTP, JSON, Door, cases, one_fault, slow_faults
from tests.faults.doors import Visit
from tests.support.fault_server import CONNECTIONS

# GDAL asks S3, at the user's own endpoint, by its own rules: what has no end is read until its time is over.
S3 = [name for name in CORE if name not in CONNECTIONS and not name.startswith("endless-")]
PAGES = ("pages-stac", "pages-stac-other", "pages-stac-empty", "pages-catalogs")
DOORS = (
    Door(doors.stac_root, (*HTTP, *JSON, *PAGES)),
    Door(doors.stac_search, (*CORE, *JSON)),
    Door(doors.stac_static, (*CORE, *JSON)),
    Door(doors.stac_asset, HTTP, says=False),
    Door(doors.stac_pixels, CORE, says=False),
    Door(doors.s3_asset, S3, ("never", "drip-body"), says=False),
    Door(doors.signing, (*CORE, *JSON), ("never",)),
)


@pytest.mark.parametrize(("door", "fault"), cases(DOORS))
def test_one_fault(door: Door, fault: str, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    one_fault(door, fault, visit, caplog)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_what_only_time_ends(door: Door, visit: Visit, caplog: pytest.LogCaptureFixture) -> None:
    slow_faults(door, visit, caplog)
