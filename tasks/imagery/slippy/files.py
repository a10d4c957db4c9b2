"""Image files of tiles: ``folder/z/x/y.jpg``, ``.png`` or ``.webp``, named for what the bytes are."""

import os
from collections.abc import Iterable
from pathlib import Path

from tasks.errors import DiskError
from tasks.geo.tiles import Tile
from tasks.raster.encoded import ImageFormat

_SUFFIXES: dict[ImageFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_PART = "part"  # the ending of a file that is being written


def image_path(folder: Path, tile: Tile) -> Path | None:
    """The tile's image file in ``folder``, or None when there is none."""
    for suffix in _SUFFIXES.values():
        path = folder / str(tile.z) / str(tile.x) / f"{tile.y}.{suffix}"
        if path.is_file():
            return path
    return None


def remove_images(folder: Path, tiles: Iterable[Tile]) -> None:
    """Remove whatever an earlier run left of these tiles, whole or half written. Raises DiskError."""
    columns: dict[Path, list[Tile]] = {}
    for tile in tiles:
        columns.setdefault(folder / str(tile.z) / str(tile.x), []).append(tile)
    for column, inside in columns.items():
        try:
            present = {path.name for path in column.iterdir()}
            for tile in inside:
                for suffix in (*_SUFFIXES.values(), _PART):
                    if f"{tile.y}.{suffix}" in present:
                        (column / f"{tile.y}.{suffix}").unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _disk_error(column, error) from None


def write_image(folder: Path, tile: Tile, form: ImageFormat, data: bytes) -> None:
    """Write the tile's image file under a temporary name, then rename it. Raises DiskError.

    It is not forced to the disk: after a power cut the ledger's sha256 tells a torn file from a whole one.
    """
    column = f"{folder}/{tile.z}/{tile.x}"
    temporary = f"{column}/{tile.y}.{_PART}"
    try:
        try:
            _write(temporary, data)
        except FileNotFoundError:  # the first tile of its column
            Path(column).mkdir(parents=True, exist_ok=True)
            _write(temporary, data)
        os.rename(temporary, f"{column}/{tile.y}.{_SUFFIXES[form]}")  # noqa: PTH104 - see _write
    except OSError as error:
        raise _disk_error(column, error) from None


def _write(path: str, data: bytes) -> None:
    """Write a file with as few system calls as it takes: each lets go of the interpreter, and getting it back costs."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
    finally:
        os.close(handle)


def _disk_error(column: object, error: OSError) -> DiskError:
    return DiskError(
        f"{column}: cannot write images ({error.strerror or error}); "
        "free space or give another work directory, then run the same command again"
    )
