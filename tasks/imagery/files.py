"""Image files of tiles: ``folder/z/x/y.jpg``, ``.png`` or ``.webp``, named for what the bytes are."""

from pathlib import Path

from tasks.errors import DiskError
from tasks.grid import Tile
from tasks.imagery.decode import ImageFormat

_SUFFIXES: dict[ImageFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def image_path(folder: Path, tile: Tile) -> Path | None:
    """The tile's image file in ``folder``, or None when there is none."""
    for suffix in _SUFFIXES.values():
        path = folder / str(tile.z) / str(tile.x) / f"{tile.y}.{suffix}"
        if path.is_file():
            return path
    return None


def write_image(folder: Path, tile: Tile, form: ImageFormat, data: bytes) -> None:
    """Write the tile's image file under a temporary name, then rename it. An older one in another format goes.

    It is not forced to the disk: after a power cut the ledger's sha256 tells a torn file from a whole
    one. Raises DiskError.
    """
    column = folder / str(tile.z) / str(tile.x)
    temporary = column / f"{tile.y}.part"  # one name per tile, so that what a killed run left is overwritten
    try:
        try:
            temporary.write_bytes(data)
        except FileNotFoundError:  # the first tile of its column
            column.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
        temporary.replace(column / f"{tile.y}.{_SUFFIXES[form]}")
        for other, suffix in _SUFFIXES.items():
            if other != form:
                (column / f"{tile.y}.{suffix}").unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(
            f"{column}: cannot write tile {tile.name} ({error.strerror or error}); "
            "free space or give another work directory, then run the same command again"
        ) from None
