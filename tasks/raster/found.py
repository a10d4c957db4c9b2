"""Files that a path with placeholders and ``*`` means."""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.recipe.patterns import PLACEHOLDER


def parted(pattern: Path) -> tuple[Path, str]:
    """The folder above the first placeholder or ``*`` of a path, and the rest."""
    parts = pattern.parts
    wild = (at for at, part in enumerate(parts) if "*" in part or PLACEHOLDER.search(part))
    fixed = next(wild, len(parts) - 1)
    return Path(*parts[:fixed]), "/".join(parts[fixed:])


def matching(pattern: Path, scene: str | None = None) -> Iterator[Path]:
    """Files that may match, unsorted; hidden ones (a Mac's ``._name``) are left out.

    ``{scene}`` stands for ``scene`` when it is given; other placeholders, and ``*``, for anything within one name.
    """
    root, below = parted(pattern)
    wild = "".join(_in_glob(part, scene) for part in re.split(r"(\*|\{[^{}]*\})", below))
    yield from _below(root, re.sub(r"\*{2,}", "*", wild).split("/"))


def _below(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Files whose path from ``folder`` has these names, each a pattern as :mod:`fnmatch` has it.

    Not by :meth:`Path.glob`, whose expressions take for ever to match some names (Python 3.13).
    """
    matches = re.compile(fnmatch.translate(parts[0])).match
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and matches(entry.name)]
    except OSError:  # none, one that cannot be looked into, or whose name is too long to be one
        return
    for name in names:
        if parts[1:]:
            yield from _below(folder / name, parts[1:])
        elif is_file(folder / name):
            yield folder / name


def _in_glob(part: str, scene: str | None) -> str:
    if part == "{scene}" and scene is not None:
        return glob.escape(scene)
    return "*" if part == "*" or PLACEHOLDER.fullmatch(part) else glob.escape(part)


def is_file(path: Path) -> bool:
    """Whether a path is a file, or a link to one. No when it cannot be a path, such as one with too long a name."""
    try:
        return path.is_file()
    except OSError:
        return False
