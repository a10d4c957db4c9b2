"""Which scene, date and band a file of a Radiant MLHub collection belongs to, told by its name alone.

The collections live on in several copies with layouts of their own, and a dataset's id does not tell which. So every
layout is a handful of patterns on relative file names; nothing here reads a file.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.errors import SourceError
from tasks.imagery.clouds import LAYERS
from tasks.imagery.scenes.catalogue import seconds_of
from tasks.raster.scene import IMAGE, Asset, Scene, SceneItem

LABELS = "labels"  # key of a label raster
S1, S2, L8, PLANET = "S1", "S2", "L8", "planet"
_SENSORS = {"sentinel_1": S1, "sentinel_2": S2, "landsat_8": L8, "s1": S1, "s2": S2, "planet": PLANET, S1: S1, L8: L8}
_RADAR = ("VV", "VH", "HH", "HV")
_SHOWN = 3  # names in a message
_LONG = 500  # characters of a name

_TIF = r"\.(?:tif|tiff|TIF)$"
_START = r"(?:^|/)"
_CHIP = r"(?P<tile>\d{2}[A-Z]{3})_(?P<chip>\d{2})"
_DAY = r"(?P<date>\d{8})"
_KEY = r"(?P<key>[A-Za-z0-9]+)"
_NET = r"ref_landcovernet(?:_[a-z]{2})?_v1"
_NET_FOLDER = rf"{_START}{_NET}_(?:labels|source)_\d{{2}}[A-Z]{{3}}_\d{{2}}[^/]*/(?:[^/]+/)*"
_CROPS = r"(?:su|ref)_african_crops_(?P<place>ghana|south_sudan)"
_ITS_SENSOR = r"(?P<sensor>s1|s2|planet)"
_MIRRORED = rf"{_ITS_SENSOR}_(?P<place>ghana|south_sudan)_(?P<chip>\d+)(?:_(?P<date>\d{{4}}[_-]?\d{{2}}[_-]?\d{{2}}))?"
_CLOUD = r"cloud_?masks?|clouds?|mask|cm|cldm"

LANDCOVERNET, GHANA, GHANA_MIRROR, KENYA = "LandCoverNet", "Ghana at MLHub", "Ghana at the mirror", "Kenya"
_PATTERNS: list[tuple[str, re.Pattern[str]]] = [
    (family, re.compile(pattern, re.ASCII))
    for family, pattern in [
        # LandCoverNet A: the archives of the MLHub API.
        (LANDCOVERNET, rf"{_START}{_NET}_labels_{_CHIP}/(?P<key>labels){_TIF}"),
        (
            LANDCOVERNET,
            rf"{_START}(?P<item>{_NET}_source(?:_(?P<sensor>sentinel_[12]|landsat_8))?_{_CHIP}_{_DAY})/{_KEY}{_TIF}",
        ),
        # LandCoverNet B: walks over the API's items.
        (LANDCOVERNET, rf"{_NET_FOLDER}(?P<item>{_CHIP}_{_DAY})_{_KEY}_10m{_TIF}"),
        # LandCoverNet C: the mirror. Its label pattern is B's as well.
        (LANDCOVERNET, rf"{_START}S2/(?P<item>{_CHIP}_{_DAY})/(?P=item)_{_KEY}_10m{_TIF}"),
        (
            LANDCOVERNET,
            rf"{_START}(?P<tile>\d{{2}}[A-Z]{{3}})/(?P<chip>\d{{2}})/(?P<sensor>S1|L8)/"
            rf"(?P<item>[A-Za-z0-9][A-Za-z0-9_.-]*)/(?P=item)_{_KEY}_10m{_TIF}",
        ),
        (LANDCOVERNET, rf"{_START}{_CHIP}_\d{{4}}_(?P<key>LC)_10m{_TIF}"),
        (GHANA, rf"{_START}{_CROPS}_labels_(?P<chip>\d+)/(?P<key>labels?){_TIF}"),
        (
            GHANA,
            rf"{_START}(?P<item>{_CROPS}_source_{_ITS_SENSOR}_(?P<chip>\d+)_(?P<date>\d{{4}}_\d{{2}}_\d{{2}})\w*)/"
            rf"(?P<key>source|cloudmask){_TIF}",
        ),
        (
            GHANA_MIRROR,
            rf"{_START}truth_(?P<place>ghana|south_sudan)_(?P<chip>\d+)/truth_(?P=place)_(?P=chip)_(?P<key>label){_TIF}",
        ),
        (GHANA_MIRROR, rf"{_START}(?P<item>{_MIRRORED})/(?P<key>data|source|{_CLOUD}){_TIF}"),
        (GHANA_MIRROR, rf"{_START}(?P<item>{_MIRRORED})(?:_(?P<key>data|source|{_CLOUD}))?{_TIF}"),
        (KENYA, rf"{_START}ref_african_crops_kenya_\d{{2}}_(?P<chip>tile_\d{{2}})_labels?/(?P<key>labels){_TIF}"),
        (KENYA, rf"{_START}(?P<item>ref_african_crops_kenya_\d{{2}}_(?P<chip>tile_\d{{2}})_{_DAY})/{_KEY}{_TIF}"),
    ]
]
KNOWN = """LandCoverNet A (..._labels_28QDE_04/labels.tif, ..._source_sentinel_2_39VXD_23_20180827/B02.tif), \
LandCoverNet B (ref_landcovernet_v1_labels_38PKT_28/2018_01_01/38PKT_28_20180101_B04_10m.tif), \
LandCoverNet C (36SWF/00/S2/36SWF_00_20180101/36SWF_00_20180101_B04_10m.tif), \
Ghana at MLHub (su_african_crops_ghana_source_s2_000000_2016_01_13/source.tif), \
Ghana at the mirror (truth/truth_ghana_000000/truth_ghana_000000_label.tif), \
Kenya (ref_african_crops_kenya_02_tile_03_label/labels.tif)"""


@dataclass(frozen=True, slots=True)
class Hit:
    """What a file name says. Every text is of letters, digits and ``_.-`` and begins with a letter or digit."""

    family: str  # of layouts that share names of scenes
    scene: str
    group: str
    key: str  # LABELS, IMAGE, one of LAYERS, or a band
    sensor: str = ""  # empty for labels
    item: str = ""  # empty for labels
    acquired_at: int | None = None  # Unix seconds of that day's beginning, UTC

    @property
    def file(self) -> str:
        """A relative file name of our own, different for every file of a dataset."""
        return f"{self.scene}/{self.item}/{self.key}.tif" if self.item else f"{self.scene}/{LABELS}.tif"


def recognise(name: str) -> Hit | None:
    """What a relative file name (with ``/``) says; None when no layout has such a name."""
    if len(name) > _LONG:
        return None
    for family, pattern in _PATTERNS:
        if match := pattern.search(name):
            return _hit(family, match.groupdict())
    return None


def _hit(family: str, parts: Mapping[str, str | None]) -> Hit:
    key, chip, sensor = parts["key"], parts["chip"] or "", parts.get("sensor")
    if family == LANDCOVERNET:
        scene, group = f"{parts['tile']}_{chip}", parts["tile"] or ""
    else:
        scene = group = chip if family == KENYA else f"{parts['place']}_{chip}"
    if not (item := parts.get("item")):
        return Hit(family, scene, group, LABELS)
    if sensor in (S1, L8):  # the mirror's folders; an item of Sentinel-2 may have the same name
        item = f"{sensor}_{item}"
    if family in (GHANA, GHANA_MIRROR):
        key = IMAGE if key in (None, "data", "source") else "cloudmask"
    within = re.search(r"(?<!\d)(?:19|20)\d{6}(?!\d)", item)
    day = re.sub(r"\D", "", parts.get("date") or (within[0] if within else ""))
    return Hit(family, scene, group, key or "", _SENSORS[sensor] if sensor else S2, item, seconds_of(day))


@dataclass(frozen=True)
class Choice:
    """Whose images are wanted, and which of their bands: file's name of a band -> recipe's name of it."""

    sensor: str
    bands: Mapping[str, str]

    def key(self, hit: Hit) -> str | None:
        """The key of the asset that this file becomes; None when it is not wanted."""
        if not hit.item:
            return LABELS
        if hit.sensor != self.sensor:
            return None
        return hit.key if hit.key in (*LAYERS.values(), IMAGE) else self.bands.get(hit.key)

    def may_hold(self, collection: str) -> bool:
        """Whether a collection of that id can have wanted files: an id with another sensor's name has none."""
        named = re.search(r"_source_(sentinel_[12]|landsat_8|s1|s2|planet)$", collection)
        return named is None or _SENSORS[named[1]] == self.sensor


def choose(bands: Sequence[str]) -> Choice:
    """The sensor that has ``bands``: ``VV`` and the like are Sentinel-1's, any other Sentinel-2's.

    ``S1:``, ``S2:``, ``L8:`` or ``planet:`` before a name says it. Raises SourceError when they are of two sensors.
    """
    named: dict[str, str] = {}
    sensors = set()
    for band in bands:
        prefix, colon, name = band.partition(":")
        if not colon or prefix not in (S1, S2, L8, PLANET):
            prefix, name = S1 if band in _RADAR else S2, band
        sensors.add(prefix)
        named[name] = band
    if len(sensors) > 1:
        raise SourceError(
            f"imagery.bands: {', '.join(bands)} are of {' and '.join(sorted(sensors))}, which were never taken at one"
            " time; ask for the bands of one of them"
        )
    return Choice(sensors.pop(), named)


# The assets of one scene, by the id and time of their item; a label raster's has no id.
_Assets = dict[tuple[str, int | None], dict[str, Asset]]


class Collector:
    """Puts files together to scenes. ``where`` names their source in messages."""

    def __init__(self, choice: Choice, where: str) -> None:
        self._choice, self._where = choice, where
        self._scenes: dict[tuple[str, str], _Assets] = {}  # by name and group
        self._names: dict[str, str] = {}  # our name of a wanted file -> its own
        self._seen: dict[tuple[str, str], str] = {}  # (sensor, key) -> a file of it
        self._families: dict[str, str] = {}  # -> a file of it
        self._strange: list[str] = []

    def offer(self, name: str) -> Hit | None:
        """What the file is when it is wanted. Raises SourceError when another file is the same thing."""
        if (hit := recognise(name)) is None:
            if len(self._strange) < _SHOWN:
                self._strange.append(name if len(name) <= _LONG else f"{name[:_LONG]}...")
            return None
        self._families.setdefault(hit.family, name)
        self._seen.setdefault((hit.sensor, hit.key), name)
        if self._choice.key(hit) is None:
            return None
        if hit.file in self._names:
            raise SourceError(
                f"{self._where}: {self._names[hit.file]} and {name} are both the {hit.key} of {hit.item or hit.scene};"
                " give one dataset, or move one of them away"
            )
        self._names[hit.file] = name
        return hit

    def add(self, hit: Hit, asset: Asset) -> None:
        """Take the file that ``offer`` wanted."""
        key = self._choice.key(hit)
        assert key is not None
        scene = self._scenes.setdefault((hit.scene, hit.group), {})
        scene.setdefault((hit.item, hit.acquired_at), {})[key] = asset

    def examples(self) -> list[str]:
        """One file of each band of each sensor that was offered, and some that no layout knows."""
        return [*self._seen.values(), *self._strange]

    def scenes(self) -> list[Scene]:
        """All scenes by name, their items oldest first.

        Raises SourceError when no file was recognised, when files are of datasets that do not go together, when
        nothing was wanted, and when a band that the recipe asks for is nowhere.
        """
        if not self._families:
            shown = f" (there are {', '.join(self._strange)}, ...)" if self._strange else " (there are none at all)"
            raise SourceError(
                f"{self._where}: no file has a name of a known layout{shown}; known are"
                f" {KNOWN}. Give the folder as it was published, or use imagery.source: scenes"
            )
        if len(self._families) > 1:
            found = " and ".join(f"{family} ({name})" for family, name in sorted(self._families.items()))
            raise SourceError(f"{self._where}: holds files of {found}; give the place of one dataset")
        sensor = self._choice.sensor
        mine = {key for owner, key in self._seen if owner == sensor}
        if not self._scenes:
            others = ", ".join(f"{key} of {owner}" for owner, key in sorted(self._seen))
            raise SourceError(
                f"{self._where}: has neither labels nor images of {sensor}, which imagery.bands asks for; it has"
                f" {others}; correct imagery.bands or take another collection"
            )
        missing = [name for band, name in self._choice.bands.items() if band not in mine]
        if missing and mine - {*LAYERS.values(), IMAGE}:
            raise SourceError(
                f"{self._where}: no file of band {', '.join(missing)}; there are {', '.join(sorted(mine))}; correct"
                " imagery.bands"
            )
        return [_scene(name, group, assets) for (name, group), assets in sorted(self._scenes.items())]


def _scene(name: str, group: str, found: _Assets) -> Scene:
    items = [SceneItem(item, assets, acquired_at) for (item, acquired_at), assets in found.items() if item]
    items.sort(key=lambda item: (item.acquired_at or 0, item.id))
    return Scene(name, group, tuple(items), found.get(("", None), {}).get(LABELS))
