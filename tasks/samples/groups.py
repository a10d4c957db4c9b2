"""Groups that a recipe puts into a split by name, and the parts of scenes that it holds out."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from tasks.errors import RecipeError

HELD_OUT = ":reserved"  # ends the group of windows in the part of a scene that is kept for validation; stores hold it
COMPARED = 2_000  # names that a misspelt one is compared with: comparing takes a while
_WILD = "*?["


def named_splits(units: Iterable[str], groups: Mapping[Any, Sequence[str]]) -> dict[str, str]:
    """The split of every unit that a recipe names: by name, else by pattern (``austin*``). Held-out parts validate.

    Raises RecipeError when two splits claim one unit alike.
    """
    found: dict[str, str] = {}
    for unit in units:
        if unit.endswith(HELD_OUT):
            found[unit] = "validation"
            continue
        claims = {split for split, names in groups.items() if unit in names}
        claims = claims or {split for split, names in groups.items() if any(fnmatchcase(unit, name) for name in names)}
        if len(claims) > 1:
            raise RecipeError(
                f"splits.groups: {unit} is named in {' and '.join(sorted(claims))}; name it in one of them"
            )
        if claims:
            found[unit] = claims.pop()
    return found


def unmatched(units: Iterable[str], groups: Mapping[Any, Sequence[str]]) -> list[tuple[str, str]]:
    """The names and patterns of ``groups`` that meet none of ``units``, each after its split."""
    there = {unit.removesuffix(HELD_OUT) for unit in units}
    return [
        (split, name)
        for split, names in groups.items()
        for name in names
        if name not in there
        and not (any(sign in name for sign in _WILD) and any(fnmatchcase(unit, name) for unit in there))
    ]


def explain_unmatched(split: str, name: str, units: Collection[str], what: str) -> RecipeError:
    """The error of a name in ``groups`` that meets none of ``units``, with the nearest that there are.

    what: that the units are, such as scene.
    """
    there = sorted({unit.removesuffix(HELD_OUT) for unit in units})
    plain = "".join(sign for sign in name if sign not in "*?[]!")
    alike = [unit for unit in there if unit[:1] == plain[:1]] if len(there) > COMPARED else there
    near = sorted(difflib.get_close_matches(plain, alike[:COMPARED], n=3, cutoff=0.5))
    meant = f"; did you mean {' or '.join(repr(unit) for unit in near)}?" if near else "."
    listed = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
    return RecipeError(
        f"splits.groups.{split}: no {what} is named {name!r}{meant} There {'is' if len(there) == 1 else 'are'} "
        f"{listed} ({len(there):,} in all). A name that meets nothing leaves its samples to the shares; correct it, or "
        "leave it out"
    )
