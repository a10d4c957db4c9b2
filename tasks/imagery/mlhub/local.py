"""Collections that are on this machine: a folder, a folder of archives, or one archive."""

import os
from pathlib import Path

from tasks.errors import SourceError
from tasks.imagery.mlhub.archives import SUFFIXES, read_archive
from tasks.imagery.mlhub.layouts import Choice, Collector
from tasks.raster.scene import LocalAsset, Scene


def local_scenes(path: Path, work: Path, choice: Choice, max_bytes: int) -> list[Scene]:
    """The scenes of ``path``; files of archives are unpacked into ``work``.

    Archives in a folder, also deeper ones, count with the files beside them. Raises SourceError, DiskError.
    """
    if path.is_dir():
        files, archives = _listing(path)
    elif path.is_file() and path.name.endswith(SUFFIXES):
        files, archives = [], [path]
    else:
        found = "is a file of another kind" if path.exists() else "does not exist"
        raise SourceError(
            f"{path}: {found}; imagery.path is a folder, a folder of {' or '.join(SUFFIXES)} archives, or one archive"
            " (relative to the recipe)"
        )
    collector = Collector(choice, str(path))
    for name in files:
        if hit := collector.offer(name):
            collector.add(hit, LocalAsset(path / name))
    for archive in archives:
        read_archive(archive, work, choice, collector, max_bytes)
    return collector.scenes()


def _listing(folder: Path) -> tuple[list[str], list[Path]]:
    """Relative names of files with ``/``, and archives; both sorted."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be read ({error.strerror}); correct imagery.path or its rights")

    files, archives = [], []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            file = Path(place, name)
            if name.endswith(SUFFIXES):
                archives.append(file)
            else:
                files.append(file.relative_to(folder).as_posix())
    return files, archives
