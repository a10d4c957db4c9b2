"""Files that a path with placeholders and ``*`` means."""

import glob
import re
from collections.abc import Iterator
from contextlib import suppress
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
    with suppress(OSError):  # a folder that cannot be looked into, or whose name is too long to be one
        for path in root.glob(re.sub(r"\*{2,}", "*", wild)):
            if is_file(path) and not any(part.startswith(".") for part in path.relative_to(root).parts):
                yield path


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
