"""Files that a path with placeholders and ``*`` means."""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.recipe.patterns import PLACEHOLDER
from tasks.recipe.yaml import is_file


def parted(pattern: Path) -> tuple[Path, str]:
    """The folder above the first placeholder or ``*`` of a path, and the rest."""
    parts = pattern.parts
    wild = (at for at, part in enumerate(parts) if "*" in part or PLACEHOLDER.search(part))
    fixed = next(wild, len(parts) - 1)
    return Path(*parts[:fixed]), "/".join(parts[fixed:])


def matching(pattern: Path, scene: str | None = None) -> Iterator[Path]:
    """Files that may match, unsorted; hidden ones (a Mac's ``._name``) are left out.

    ``{scene}`` stands for ``scene`` when it is given; other placeholders, and ``*``, for anything within one name, and
    ``**`` as a whole name for any folders, or none.
    """
    root, below = parted(pattern)
    # A scene's own name may lie in folders too.
    yield from _below(root, [name for part in below.split("/") for name in _in_name(part, scene).split("/")])


def _below(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Files whose path from ``folder`` has these names, each a pattern as :mod:`fnmatch` has it.

    Not by :meth:`Path.glob`, whose expressions take for ever to match some names (Python 3.13).
    """
    matches = re.compile(fnmatch.translate(parts[0])).match
    try:
        with os.scandir(folder) as entries:
            there = [entry for entry in entries if not entry.name.startswith(".")]
    except (OSError, ValueError):  # none, one that cannot be looked into, or whose name cannot be one
        return
    if parts[0] == "**" and parts[1:]:
        yield from _below(folder, parts[1:])
        for entry in there:
            if entry.is_dir(follow_symlinks=False):  # a link may lead back
                yield from _below(folder / entry.name, parts)
        return
    for entry in there:
        if not matches(entry.name):
            continue
        if parts[1:]:
            yield from _below(folder / entry.name, parts[1:])
        elif is_file(folder / entry.name):
            yield folder / entry.name


def _in_name(part: str, scene: str | None) -> str:
    """One part of a path as :mod:`fnmatch` has it."""
    if part == "**":
        return part
    pieces = (_in_glob(piece, scene) for piece in re.split(r"(\*|\{[^{}]*\})", part))
    return re.sub(r"\*{2,}", "*", "".join(pieces))


def _in_glob(part: str, scene: str | None) -> str:
    if part == "{scene}" and scene is not None:
        return glob.escape(scene)
    return "*" if part == "*" or PLACEHOLDER.fullmatch(part) else glob.escape(part)
