"""Scenes in a folder: which files of a recipe's pattern belong to which scene, band and date."""

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.errors import LabelError, RecipeError, SourceError
from tasks.imagery.clouds import LAYERS
from tasks.imagery.scenes.catalogue import SceneCatalogue, seconds_of
from tasks.labels.rasters import raster_of
from tasks.raster.found import matching, parted
from tasks.raster.scene import IMAGE, Asset, LocalAsset, Scene, SceneItem
from tasks.recipe.model import Recipe
from tasks.recipe.patterns import PLACEHOLDER, compiled, linear
from tasks.recipe.sources import RasterLabels, ScenesImagery
from tasks.samples.window import safe_name

SHOWN = 8  # entries of a folder in a message
MAX_FILES = 1_000_000  # that a pattern may match
MAX_LISTED = 10_000  # entries of a folder that are looked at to say what is there

_Found = dict[str, dict[str, dict[str, Path]]]  # scene's name as the files have it -> date or "" -> asset key -> file


def folder_catalogue(recipe: Recipe) -> SceneCatalogue:
    """The imagery of a recipe with ``imagery.source: scenes``. Raises as :func:`folder_scenes`, once it is asked."""
    return SceneCatalogue(recipe, lambda: folder_scenes(recipe))


def folder_scenes(recipe: Recipe) -> list[Scene]:
    """The scenes of ``imagery.images``, by name, with the label rasters that ``labels`` names.

    Raises RecipeError for a pattern that cannot be used, SourceError when nothing matches or two files claim one
    place, LabelError for a scene without its label unless ``labels.missing`` is ``skip``.
    """
    imagery = recipe.imagery
    assert isinstance(imagery, ScenesImagery)
    found = _find(recipe, imagery)
    rasters = recipe.labels if isinstance(recipe.labels, RasterLabels) else None
    if rasters and "{scene}" not in rasters.path and len(found) > 1:
        raise RecipeError(f"labels.path: {rasters.path} has no {{scene}} in it, and there are {len(found)} scenes")
    named = {safe_name(spelled): spelled for spelled in found}
    if lost := sorted(found.keys() - set(named.values())):
        pattern, name = recipe.resolve(imagery.images), safe_name(lost[0])
        raise SourceError(f"{pattern}: scenes {lost[0]!r} and {named[name]!r} would both be named {name}; rename one")
    return [
        Scene(
            name=name,
            group=_group(imagery.group, spelled),
            items=tuple(_item(name, date, assets) for date, assets in sorted(found[spelled].items())),
            labels=_label(recipe, rasters, spelled) if rasters else None,
        )
        for name, spelled in sorted(named.items())
    ]


def _find(recipe: Recipe, imagery: ScenesImagery) -> _Found:
    pattern = _resolved(recipe, "imagery.images", imagery.images)
    root, below = parted(pattern)
    keys = sorted({*imagery.bands, *imagery.file_bands, *LAYERS.values()}, key=len, reverse=True)
    strict = _regex(below, "|".join(re.escape(key) for key in keys))
    files = list(_files(pattern, root))
    scenes: _Found = {}
    for path, relative in files:
        if match := strict.fullmatch(relative):
            _add(scenes, path, match.groupdict(), root, pattern)
    if scenes:
        return scenes
    loose = _regex(below, "[^/]+")
    found = (match.groupdict() for _, name in files if (match := loose.fullmatch(name)))
    if others := {values["band"] for values in found if "band" in values}:
        raise SourceError(
            f"imagery.bands: {pattern} has no file for any of {', '.join(imagery.bands)}; "
            f"in the place of {{band}} stand {_some(sorted(others))}"
        )
    advice = " ".join(recipe.about.files.split()) or "Put the files there, or correct the pattern"
    raise SourceError(f"imagery.images: no file matches {pattern}; {_seen(root)}. {advice}")


def _resolved(recipe: Recipe, key: str, path: str) -> Path:
    try:
        return recipe.resolve(path)
    except (OSError, RuntimeError, ValueError) as error:  # a link that leads to itself, a name that cannot be
        raise RecipeError(f"{key}: {path} cannot be looked up ({error}); correct the path") from None


def _files(pattern: Path, root: Path) -> list[tuple[Path, str]]:
    """Files that may match, with their path below ``root``."""
    paths = sorted(islice(matching(pattern), MAX_FILES + 1))
    if len(paths) > MAX_FILES:
        raise SourceError(f"imagery.images: {pattern} matches over {MAX_FILES:,} files; write a narrower path")
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise SourceError(
                f"{LocalAsset(path).name}: its name is not UTF-8; rename the file or its folder"
            ) from None
    return [(path, path.relative_to(root).as_posix()) for path in paths]


def _regex(below: str, band: str) -> Any:
    """What the pattern below the root means; a placeholder that comes again stands for the same text.

    RE2 cannot tell that two texts are the same. Python's own can, in a time that grows with every ``*``; a recipe
    that needs it has few of them (:func:`tasks.recipe.patterns.path_pattern`).
    """
    names = PLACEHOLDER.findall(below)
    text = re.escape(below).replace(r"\*", "[^/]*")
    for name, meaning in (("scene", "[^/]+?"), ("date", r"\d{8}|\d{4}-\d{2}-\d{2}"), ("band", band)):
        place = re.escape(f"{{{name}}}")
        text = text.replace(place, f"(?P<{name}>{meaning})", 1).replace(place, f"(?P={name})")
    return re.compile(text) if len(set(names)) < len(names) else linear(text)


def _add(scenes: _Found, path: Path, values: Mapping[str, str], root: Path, pattern: Path) -> None:
    # Without {scene} there is one: a file alone lends it its name, files of several bands or dates their folder.
    spelled = values.get("scene") or (root.name if values or "*" in str(pattern) else path.stem)
    date = values.get("date", "").replace("-", "")
    if date and seconds_of(date) is None:
        raise SourceError(f"{path}: {date} in the place of {{date}} is no date; expected YYYYMMDD or YYYY-MM-DD")
    assets = scenes.setdefault(spelled, {}).setdefault(date, {})
    key = values.get("band", IMAGE)
    if key in assets:
        raise SourceError(
            f"imagery.images: {assets[key]} and {path} are the same image to the pattern; "
            "put {scene}, {band} or {date} where their names differ"
        )
    assets[key] = path


def _item(scene: str, date: str, files: Mapping[str, Path]) -> SceneItem:
    assets = {key: LocalAsset(path) for key, path in files.items()}
    return SceneItem(f"{scene}_{date}" if date else scene, assets, seconds_of(date))


def _group(expression: str | None, scene: str) -> str:
    if expression is None:
        return safe_name(scene)
    if not (match := compiled(expression).search(scene)) or not match.group():
        raise SourceError(f"imagery.group: {expression} matches nothing in the name of scene {scene}")
    return str(match.group())


def _label(recipe: Recipe, labels: RasterLabels, scene: str) -> Asset | None:
    pattern = _resolved(recipe, "labels.path", labels.path)
    if (path := raster_of(pattern, scene)) is not None:
        return LocalAsset(path)
    if labels.missing == "skip":
        return None
    path = Path(str(pattern).replace("{scene}", scene))
    raise LabelError(
        f"labels.path: scene {scene} has no label raster; {path} does not exist. "
        f"{_seen(parted(path)[0])}. Put it there, correct labels.path, or set labels.missing: skip"
    )


def _seen(folder: Path) -> str:
    """What there is instead, for a message."""
    existing = next((one for one in (folder, *folder.parents) if _exists(one)), folder)
    if existing != folder:
        return f"{existing} exists, {folder} does not"
    names: list[str] = []
    with suppress(OSError):  # a folder that may not be read
        names = sorted(path.name + "/" * path.is_dir() for path in islice(folder.iterdir(), MAX_LISTED))
    return f"{folder} holds {_some(names) or 'nothing'}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
