"""Which OSM objects with a building tag are no building that an aerial photograph can show."""

from collections.abc import Mapping

BUILDING_NO = "building=no"
DEMOLISHED = "demolished"
PROPOSED = "not built"
UNDERGROUND = "underground"

_NO = ("", "no", "false", "0")
_GONE = ("collapsed", "demolished", "destroyed", "dismantled", "razed", "removed")
_FUTURE = ("planned", "proposed")
_GONE_KEYS = (*_GONE, *(f"{prefix}:building" for prefix in _GONE))
_FUTURE_KEYS = tuple(f"{prefix}:building" for prefix in _FUTURE)

# Every key that drop_reason reads, for sources that choose columns.
TAG_KEYS = ("building", "abandoned:building", "location", "tunnel", *_GONE_KEYS, *_FUTURE_KEYS)


def drop_reason(tags: Mapping[str, str]) -> str | None:
    """Why an object with these tags is dropped, or None when it stays.

    Follows https://wiki.openstreetmap.org/wiki/Lifecycle_prefix and /wiki/Key:location. Gone for good is what has
    a value, a key or a prefix of that meaning (``building=razed``, ``demolished=yes``, ``demolished:building=house``),
    even beside a ``building`` that somebody left. Ruins, abandoned and disused buildings still stand and stay, and
    so does a building site; what is only an ``abandoned:building`` does not. Underground is ``location=underground``
    or a tunnel; a negative ``layer`` alone only orders what overlaps, and stays. Objects without any of these keys
    stay: a file of footprints need not carry tags.
    """

    def value(key: str) -> str:
        return tags.get(key, "").strip().lower()

    building = value("building")
    if building in _GONE or any(value(key) not in _NO for key in _GONE_KEYS if key in tags):
        return DEMOLISHED
    if building in _FUTURE:
        return PROPOSED
    if building in _NO:
        if any(value(key) not in _NO for key in _FUTURE_KEYS):
            return PROPOSED
        if value("abandoned:building") not in _NO:
            return DEMOLISHED
        if building:
            return BUILDING_NO
    if value("location") == "underground" or value("tunnel") not in (*_NO, "building_passage"):
        return UNDERGROUND
    return None
