import pytest

from tasks.labels.tags import BUILDING_NO, DEMOLISHED, PROPOSED, UNDERGROUND, drop_reason


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, None),
        ({"building": "yes"}, None),
        ({"building": "construction"}, None),
        ({"building": "ruins", "ruins": "yes"}, None),
        ({"building": "house", "abandoned": "yes"}, None),
        ({"building": "house", "abandoned:building": "house"}, None),
        ({"building": "house", "demolished": "no"}, None),
        ({"building": "roof", "layer": "-1"}, None),
        ({"building": "yes", "location": "overground"}, None),
        ({"building": "yes", "tunnel": "building_passage"}, None),
        ({"building": "no"}, BUILDING_NO),
        ({"building": " No "}, BUILDING_NO),
        ({"building": "demolished"}, DEMOLISHED),
        ({"building": "collapsed"}, DEMOLISHED),
        ({"building": "yes", "razed": "yes"}, DEMOLISHED),
        ({"building": "yes", "demolished:building": "house"}, DEMOLISHED),
        ({"building": "no", "demolished:building": "yes"}, DEMOLISHED),
        ({"abandoned:building": "yes"}, DEMOLISHED),
        ({"building": "proposed"}, PROPOSED),
        ({"proposed:building": "yes"}, PROPOSED),
        ({"building": "yes", "location": "underground"}, UNDERGROUND),
        ({"building": "yes", "tunnel": "yes"}, UNDERGROUND),
    ],
)
def test_what_a_photograph_cannot_show_is_dropped(tags: dict[str, str], reason: str | None) -> None:
    assert drop_reason(tags) == reason
