"""Groups that a recipe puts into a split by name, and the parts of scenes that it holds out."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from tasks.errors import RecipeError

HELD_OUT = ":reserved"  # ends the group of windows in the part of a scene that is kept for validation; stores hold it


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
