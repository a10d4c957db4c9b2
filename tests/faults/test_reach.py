"""Where a server's words may lead: to no private place that the recipe's author did not name, nowhere with a token."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tasks.errors import TilewrightError
from tasks.state.ledger import Fetched
from tests.faults import doors
from tests.faults.doors import Visit
from tests.support.fault_answers import said
from tests.support.stac_items import item

Enter = Callable[[Visit], list[Fetched]]
FOLLOWING = (  # redirects
    *(doors.tiles, doors.pbf, doors.checksum, doors.status, doors.place, doors.stac_root, doors.stac_search),
    *(doors.stac_static, doors.stac_asset, doors.mlhub_storage, doors.mlhub_file, doors.coop_file),
)
LED = (doors.stac_search, doors.stac_static, doors.stac_asset, doors.mlhub_storage, doors.mlhub_file)  # by links
NUMBER = 15  # of hosts that nobody named


def named(enter: Enter) -> str:
    return enter.__name__


def told_by(enter: Enter, visit: Visit) -> str:
    """What is said of it, whoever says it."""
    try:
        return "; ".join(outcome.reason for outcome in enter(visit))
    except TilewrightError as error:
        return str(error)


def assert_refused(told: str, target: str, visit: Visit) -> None:
    assert visit.faults.canary.asked == []
    assert "leads to a private address" in told
    host = target.split("/")[2].removesuffix(f":{visit.faults.canary.port}").strip("[]")
    assert f"add {host} to limits.private_hosts" in told


@pytest.mark.parametrize("number", range(NUMBER))
@pytest.mark.parametrize("enter", [doors.tiles, doors.pbf, doors.stac_root], ids=named)
def test_every_kind_of_private_address_is_refused(enter: Enter, number: int, visit: Visit) -> None:
    targets = visit.faults.canary.unnamed
    assert len(targets) == NUMBER
    told = told_by(enter, replace(visit, bad=visit.faults.redirect(targets[number])))
    assert visit.faults.canary.asked == []
    if told != "redirect to an invalid URL":  # aiohttp takes no number for a host
        assert_refused(told, targets[number], visit)


@pytest.mark.parametrize("enter", FOLLOWING, ids=named)
def test_a_redirect_to_a_private_address_is_refused(enter: Enter, visit: Visit) -> None:
    target = visit.faults.canary.unnamed[0]
    assert_refused(told_by(enter, replace(visit, bad=visit.faults.redirect(target))), target, visit)


@pytest.mark.parametrize("enter", LED, ids=named)
@pytest.mark.parametrize("number", [0, 1, 8])
def test_a_link_to_a_private_address_is_refused(enter: Enter, number: int, visit: Visit) -> None:
    target = visit.faults.canary.unnamed[number]
    assert_refused(told_by(enter, replace(visit, bad=target)), target, visit)


def test_the_next_page_of_a_search_at_a_private_address_is_refused(visit: Visit) -> None:
    target = visit.faults.canary.unnamed[0]
    for method in ("GET", "POST"):
        after = {"rel": "next", "href": target, "method": method, "body": {"page": 2}}
        found = {"type": "FeatureCollection", "features": [item("one", {"red": "x.tif"})], "links": [after]}
        visit.page(f"{visit.faults.url}/search", found)
        assert_refused(told_by(doors.stac_search, visit), target, visit)


@pytest.mark.parametrize(
    "enter", [doors.tiles, doors.pbf, doors.stac_root, doors.stac_asset, doors.mlhub_file], ids=named
)
def test_a_private_address_that_the_recipe_allows_is_asked_without_a_token(enter: Enter, visit: Visit) -> None:
    target = next(one for one in visit.faults.canary.unnamed if "[::1]" in one)
    told_by(enter, replace(visit, bad=visit.faults.redirect(target), private_hosts=("::1",)))
    assert visit.faults.canary.asked
    assert not doors.is_secret_in(visit.faults.canary.heard)


@pytest.mark.parametrize("enter", FOLLOWING, ids=named)
def test_no_token_goes_to_another_origin(enter: Enter, visit: Visit) -> None:
    """The host is named in the recipe, the port is not."""
    for fault in ("redirect-elsewhere", "redirect-bare", "redirect-keeping"):
        told_by(enter, replace(visit, bad=visit.faults.at(fault)))
    assert not doors.is_secret_in(visit.faults.canary.heard)


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "/vsicurl/http://127.0.0.2/x", "ftp://127.0.0.2/x", "/etc/hostname"]
)
@pytest.mark.parametrize("enter", [doors.stac_search, doors.stac_static, doors.stac_asset, doors.mlhub_file], ids=named)
def test_a_remote_catalogue_names_no_file_of_this_machine(enter: Enter, target: str, visit: Visit) -> None:
    told = told_by(enter, replace(visit, bad=target))
    assert told
    assert visit.faults.canary.asked == []
    assert "root:" not in told


def test_a_raster_that_moves_after_its_place_was_found_out_takes_no_token_along(visit: Visit) -> None:
    """GDAL follows redirects wherever they lead, which is looked at beforehand alone; it has no header of ours."""
    answers = [said(b"I", "206 Partial Content", "Content-Range: bytes 0-0/100000")]
    moved = said(b"", "302 Found", f"Location: {visit.faults.canary.url}/red.tif")
    visit.faults.pages["/never/red.tif"] = lambda _: answers.pop() if answers else moved
    assert told_by(doors.stac_asset, replace(visit, bad=f"{visit.faults.url}/never"))
    assert not doors.is_secret_in(visit.faults.canary.heard)
