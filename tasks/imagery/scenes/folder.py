"""Scenes in a folder: which files of a recipe's pattern belong to which scene, band and date."""

import glob
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tasks.errors import LabelError, RecipeError, SourceError
from tasks.imagery.clouds import LAYERS
from tasks.imagery.scenes.catalogue import SceneCatalogue
from tasks.raster.scene import IMAGE, Asset, LocalAsset, Scene, SceneItem
from tasks.recipe.model import Recipe
from tasks.recipe.sources import RasterLabels, ScenesImagery
from tasks.samples.window import safe_name

PLACEHOLDERS = ("scene", "band", "date")
SHOWN = 8  # entries of a folder in a message

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


@dataclass
class _Files:
    """What was found of one scene."""

    spelled: str  # the scene's name as the files have it
    by_date: dict[str, dict[str, Path]] = field(default_factory=dict)  # date or "" -> asset key -> file


def folder_catalogue(recipe: Recipe) -> SceneCatalogue:
    """The imagery of a recipe with ``imagery.source: scenes``. Raises as :func:`folder_scenes`, once it is asked."""
    return SceneCatalogue(recipe, lambda: folder_scenes(recipe))


def folder_scenes(recipe: Recipe) -> list[Scene]:
    """The scenes of ``imagery.images``, by name, with the label rasters that ``labels`` names.

    Raises RecipeError for a pattern that cannot be used, SourceError when nothing matches or two files claim one
    place, LabelError for a scene without its label unless ``labels.missing`` is ``skip``.
    """
    imagery = recipe.imagery
    if not isinstance(imagery, ScenesImagery):
        raise RecipeError(f"imagery.source: expected scenes, got {imagery.source}")
    found = _find(recipe, imagery)
    rasters = recipe.labels if isinstance(recipe.labels, RasterLabels) else None
    if rasters and "{scene}" not in rasters.path and len(found) > 1:
        raise RecipeError(f"labels.path: {rasters.path} has no {{scene}} in it, and there are {len(found)} scenes")
    return [
        Scene(
            name=name,
            group=_group(imagery.group, files.spelled),
            items=tuple(_item(name, date, assets) for date, assets in sorted(files.by_date.items())),
            labels=_label(recipe, rasters, files.spelled) if rasters else None,
        )
        for name, files in sorted(found.items())
    ]


def _find(recipe: Recipe, imagery: ScenesImagery) -> dict[str, _Files]:
    pattern = recipe.resolve(imagery.images)
    unknown = sorted(set(_PLACEHOLDER.findall(str(pattern))) - set(PLACEHOLDERS))
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise RecipeError(f"imagery.images: unknown placeholder {{{unknown[0]}}} in {imagery.images}; valid: {known}")
    root, parts = _split(pattern)
    keys = sorted({*imagery.bands, *imagery.file_bands, *LAYERS.values()}, key=len, reverse=True)
    strict = _regex(parts, "|".join(re.escape(key) for key in keys))
    files = list(_matching(root, parts))
    scenes: dict[str, _Files] = {}
    for path, relative in files:
        match = strict.fullmatch(relative)
        if match:
            _add(scenes, path, match.groupdict(), root, pattern)
    if scenes:
        return scenes
    loose = _regex(parts, "[^/]+")
    others = {match["band"] for _, name in files if (match := loose.fullmatch(name)) and "band" in match.groupdict()}
    if others:
        raise SourceError(
            f"imagery.bands: {pattern} has no file for any of {', '.join(imagery.bands)}; "
            f"in the place of {{band}} stand {_some(sorted(others))}"
        )
    raise SourceError(f"imagery.images: no file matches {pattern}; {_seen(root)}. {_advice(recipe)}")


def _split(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder above the first placeholder, and the names below it."""
    parts = pattern.parts
    fixed = next((i for i, part in enumerate(parts) if "*" in part or _PLACEHOLDER.search(part)), len(parts) - 1)
    return Path(*parts[:fixed]), parts[fixed:]


def _matching(root: Path, parts: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Files that may match, with their path below ``root``; hidden ones (a Mac's ``._name``) are left out."""
    stars = [re.sub(r"\*+", "*", _PLACEHOLDER.sub("*", part)) for part in parts]
    loose = "/".join("*".join(glob.escape(text) for text in part.split("*")) for part in stars)
    for path in sorted(root.glob(loose)):
        relative = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield path, relative.as_posix()


def _regex(parts: tuple[str, ...], band: str) -> re.Pattern[str]:
    meaning = {"scene": "[^/]+?", "band": band, "date": r"\d{8}|\d{4}-\d{2}-\d{2}"}
    named: set[str] = set()

    def expression(piece: str) -> str:
        name = piece[1:-1]
        if piece == "*":
            return "[^/]*"
        if not piece.startswith("{"):
            return re.escape(piece)
        if name in named:
            return f"(?P={name})"
        named.add(name)
        return f"(?P<{name}>{meaning[name]})"

    return re.compile("".join(expression(piece) for piece in re.split(r"(\{\w+\}|\*)", "/".join(parts)) if piece))


def _add(scenes: dict[str, _Files], path: Path, values: Mapping[str, str], root: Path, pattern: Path) -> None:
    # Without {scene} there is one: a file alone lends it its name, files of several bands or dates their folder.
    spelled = values.get("scene") or (root.name if values or "*" in str(pattern) else path.stem)
    name = safe_name(spelled)
    scene = scenes.setdefault(name, _Files(spelled))
    if scene.spelled != spelled:
        raise SourceError(f"{pattern}: scenes {scene.spelled!r} and {spelled!r} would both be named {name}; rename one")
    date = values.get("date", "").replace("-", "")
    if date and _seconds(date) is None:
        raise SourceError(f"{path}: {date} in the place of {{date}} is no date; expected YYYYMMDD or YYYY-MM-DD")
    assets = scene.by_date.setdefault(date, {})
    key = values.get("band", IMAGE)
    if key in assets:
        raise SourceError(
            f"imagery.images: {assets[key]} and {path} are the same image to the pattern; "
            "put {scene}, {band} or {date} where their names differ"
        )
    assets[key] = path


def _seconds(date: str) -> int | None:
    try:
        return int(datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None


def _item(scene: str, date: str, files: Mapping[str, Path]) -> SceneItem:
    assets: dict[str, Asset] = {key: LocalAsset(path) for key, path in files.items()}
    return SceneItem(f"{scene}_{date}" if date else scene, assets, _seconds(date) if date else None)


def _group(expression: str | None, scene: str) -> str:
    if expression is None:
        return safe_name(scene)
    match = re.search(expression, scene)
    if match is None or not match.group():
        raise SourceError(f"imagery.group: {expression} matches nothing in the name of scene {scene}")
    return match.group()


def _label(recipe: Recipe, labels: RasterLabels, scene: str) -> Asset | None:
    path = recipe.resolve(labels.path.replace("{scene}", scene))
    if path.is_file():
        return LocalAsset(path)
    if labels.missing == "skip":
        return None
    raise LabelError(
        f"labels.path: scene {scene} has no label raster; {path} does not exist. "
        f"{_seen(path.parent)}. Put it there, correct labels.path, or set labels.missing: skip"
    )


def _seen(folder: Path) -> str:
    """What there is instead, for a message."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    if existing != folder:
        return f"{existing} exists, {folder} does not"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir()) if folder.is_dir() else []
    return f"{folder} holds {_some(names) or 'nothing'}"


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _advice(recipe: Recipe) -> str:
    return " ".join(recipe.about.files.split()) or "Put the files there, or correct the pattern"
