"""From the numbers of a file to surface reflectance: which scale and offset hold for an asset. Everything is pure.

Sentinel-2 products since processing baseline 04.00 carry an offset of -1000. Catalogues differ in how they tell: some
name it with the raster extension, some have shifted the files already (and still name it), some say nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import SourceError
from tasks.imagery.stac.fields import entry, number, shown

BASELINE_SCALE = 1e-4
BASELINE_OFFSET = -0.1  # of -1000, scaled
OFFSET_SINCE = (4, 0)  # processing baseline
_APPLIED = "earthsearch:boa_offset_applied"
_BASELINES = ("s2:processing_baseline", "processing:version")


@dataclass(frozen=True)
class Rule:
    """reflectance = number * scale + offset, and why so."""

    scale: float
    offset: float
    why: str
    from_metadata: bool  # the asset itself names the scale

    @property
    def note(self) -> str:
        """The rule as a sample's note."""
        return f"reflectance = DN * {self.scale:g} {'-' if self.offset < 0 else '+'} {abs(self.offset):g} ({self.why})"


def rule_of(
    properties: Mapping[str, Any], asset: Mapping[str, Any], band: int = 1, name: str = "the asset"
) -> Rule | None:
    """The rule for one band (from 1) of an asset, by its item's ``properties`` and its own fields; None without any.

    Raises SourceError, which begins with ``name``, where one of these fields is there but of another type, or a scale
    is 0: what nobody can read is not what nobody said.

    1. ``earthsearch:boa_offset_applied: true``: the file is shifted already, so an offset that is named besides does
       not hold, only the scale.
    2. ``scale`` and ``offset`` of ``raster:bands`` (raster extension v1.1), or ``raster:scale`` and ``raster:offset``
       of the asset's ``bands`` entry or of the asset (v2).
    3. Where no offset is named, that of ``s2:processing_baseline``: -1000 from 04.00 on, none before.
    """
    scale, offset, where = _named(asset, band, name)
    if (applied := properties.get(_APPLIED)) is not None and not isinstance(applied, bool):
        raise SourceError(f"{name}: {_APPLIED} of its item is {shown(applied)}; expected true or false")
    if applied and scale is not None:
        return Rule(scale, 0.0, f"{where}; no offset: {_APPLIED}", True)
    if offset is not None and not applied:
        return Rule(1.0 if scale is None else scale, offset, where, True)
    baseline, step = _baseline(properties, name), BASELINE_SCALE if scale is None else scale
    if applied:
        return (
            None
            if baseline is None
            else Rule(step, 0.0, f"{where or 'scale of Sentinel-2'}; no offset: {_APPLIED}", False)
        )
    if baseline is not None:
        shifted = baseline >= OFFSET_SINCE
        text = f"{baseline[0]:02d}.{baseline[1]:02d}"
        why = f"{where + '; ' if where else ''}processing baseline {text}, {'offset -1000' if shifted else 'no offset'}"
        return Rule(step, BASELINE_OFFSET / BASELINE_SCALE * step if shifted else 0.0, why, scale is not None)
    return None if scale is None else Rule(scale, 0.0, where, True)


def to_reflectance(numbers: NDArray[Any], missing: NDArray[np.bool_], rule: Rule) -> tuple[NDArray[np.float32], int]:
    """Reflectance of numbers of any shape, and how many of the valid ones came out negative.

    ``missing`` has the numbers' shape: there is no data, and the result is 0 whatever the offset. Negative values are
    set to 0 once they are counted: they are noise around a dark surface, and no surface reflects less than nothing.
    """
    exact = numbers.astype(np.float64) * rule.scale + rule.offset
    # Cancelling -1000 leaves crumbs of the last bit; a number of exactly 1000 is no negative value.
    negative = int(np.count_nonzero((exact < -1e-9) & ~missing))
    exact[missing | (exact < 0)] = 0.0
    with np.errstate(over="ignore"):  # becomes infinite, which the caller refuses
        return exact.astype(np.float32), negative


def check_negatives(negative: int, valid: int, most: float, item: str, rules: list[str]) -> None:
    """Raise SourceError when more than ``most`` of an image's valid values are negative."""
    if valid and negative / valid > most:
        raise SourceError(
            f"{item}: {negative / valid:.1%} of the values in a window are negative with {' / '.join(rules)}; over "
            f"imagery.max_negative_fraction {most:g}, so the offset seems to be applied already or named wrongly. "
            "Check the item's metadata, take a collection that tells it right (on Earth Search sentinel-2-c1-l2a), "
            "set imagery.reflectance: false, or raise imagery.max_negative_fraction when the surface is that dark"
        )


def _named(asset: Mapping[str, Any], band: int, name: str) -> tuple[float | None, float | None, str]:
    """Scale and offset as the asset names them, and where."""
    for fields, prefix, where in (
        (entry(asset, "raster:bands", band, name), "", "raster:bands"),
        (entry(asset, "bands", band, name), "raster:", "raster:scale in bands"),
        (asset, "raster:", "raster:scale"),
    ):
        owner = f"{name}, {where.partition(' in ')[2] or where}" if fields is not asset else name
        scale, offset = number(fields, f"{prefix}scale", owner), number(fields, f"{prefix}offset", owner)
        if scale == 0:
            raise SourceError(f"{owner}: {prefix}scale is 0, which leaves nothing of an image; expected another number")
        if scale is not None or offset is not None:
            return scale, offset, where
    return None, None, ""


def _baseline(properties: Mapping[str, Any], name: str) -> tuple[int, int] | None:
    for key in _BASELINES:
        said = properties.get(key)
        found = re.fullmatch(r"N?(\d{1,2})\.(\d{1,2})", str(said)) if isinstance(said, str | float) else None
        # Other missions have a processing:version too, of any form.
        mission = f"{properties.get('constellation', '')} {properties.get('platform', '')}".lower()
        if key == "processing:version" and (found is None or "sentinel-2" not in mission):
            continue
        if found:
            return int(found[1]), int(found[2])
        if said is not None:
            raise SourceError(f"{name}: {key} of its item is {shown(said)}; expected a text such as '05.09'")
    return None
