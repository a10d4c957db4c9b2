"""Writing a version out as files: pictures and masks as scripts read them, or GeoTIFFs that keep the georeference.

``png``: ``SPLIT/images/NAME.png`` (8-bit RGB, see tasks.views.picture), ``SPLIT/masks/NAME.png``
(8-bit grey: the class values) and ``SPLIT/masks_rgb/NAME.png`` (the classes' colours). ``geotiff``:
``SPLIT/images/NAME.tif`` (all bands, the stored values) and ``SPLIT/masks/NAME.tif`` (the class values with a colour
table; the ignore_index is nodata). Both: ``SPLIT/unusable/NAME`` (1 under clouds) where the version has a cloud mask,
``samples.csv`` (tasks.views.listing) and ``dataset.json``.
"""

import csv
import functools
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning
from rasterio.io import MemoryFile

from tasks.errors import DiskError, StoreError
from tasks.geo.georeference import Georeference, tile_georeference
from tasks.geo.tiles import Tile
from tasks.secrets import redact
from tasks.versions.read import DatasetVersion, SplitArrays, store_errors
from tasks.views.listing import header
from tasks.views.listing import rows as sample_rows
from tasks.views.picture import viewable

FORMATS = ("png", "geotiff")
CLOUDS = "unusable"  # the folder of cloud masks, called so since before there was a word for them
PART = ".tilewright-export"  # a folder in the one asked for, until all files are written

Advance = Callable[[int, int], None]  # samples done, samples in all


@dataclass(frozen=True)
class ExportSummary:
    """What was written."""

    out: str
    version: str
    format: str
    splits: dict[str, int]  # samples
    files: int
    georeferenced: int  # samples; with png none


class _Sample(NamedTuple):
    name: str  # of its files
    image: NDArray[Any]  # (band, y, x)
    mask: NDArray[np.uint8]  # (y, x)
    cloud_mask: NDArray[np.uint8] | None
    georeference: Georeference | None
    holes: bool  # whether there are pixels without imagery, which are 0 in every band


class _Colors(NamedTuple):
    """What masks look like."""

    by_value: dict[int, tuple[int, int, int]]  # of the classes, and of the ignore_index
    ignore_index: int | None


def export_version(
    version: DatasetVersion, out: Path, file_format: str, splits: Sequence[str], advance: Advance
) -> ExportSummary:
    """Write the samples of ``splits`` (train, validation, test) into the folder ``out``, which is made or empty.

    Nothing but :data:`PART` is in the folder before everything is written. One chunk of the version is held at a time.
    For one thread of a process only: rasterio warns of files without a georeference, and is kept from it.

    Raises StoreError when the version has no such split or cannot be read, DiskError when ``out`` is not empty or
    cannot be written.
    """
    if file_format not in FORMATS:
        raise StoreError(f"no format {file_format!r}; there are {' and '.join(FORMATS)}")
    arrays = {name: version.split(name) for name in dict.fromkeys(splits)}
    attributes = version.attributes
    colors = _colors(attributes["classes"], version.ignore_index)
    bands = [str(name) for name in attributes.get("bands", [])]
    write = functools.partial(_write_png if file_format == "png" else _write_geotiff, bands=bands, colors=colors)
    total, done, files, georeferenced = sum(len(split) for split in arrays.values()), 0, 0, 0
    with _filled(out) as folder, (folder / "samples.csv").open("w", newline="", encoding="utf-8") as listing:
        rows, classes = csv.writer(listing, lineterminator="\n"), [str(one["name"]) for one in attributes["classes"]]
        rows.writerow(header(classes))
        for name, split in arrays.items():
            names = file_names(split.sample_id)
            rows.writerows(sample_rows(name, split, names, classes))
            for chunk in _chunks(version.uri, split, names):
                for sample in chunk:
                    files += write(folder / name, sample)
                    georeferenced += sample.georeference is not None and file_format == "geotiff"
                done += len(chunk)
                advance(done, total)
        counts = {name: len(split) for name, split in arrays.items()}
        about = _about(version, file_format, colors, counts)
        (folder / "dataset.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return ExportSummary(str(out), version.version, file_format, counts, files + 2, georeferenced)


@contextmanager
def _filled(out: Path) -> Iterator[Path]:
    """A folder to write into, whose content becomes that of ``out`` when all went well and is removed when not.

    It lies within ``out``, so that renaming works where ``out`` is a file system of its own.
    """
    made, part = False, out / PART
    try:
        made = not out.exists()
        if not made:
            other = next((entry.name for entry in sorted(out.iterdir()) if entry.name != PART), None)
            if other is not None:
                raise DiskError(f"{out}: is not empty (it holds {other}); choose another --out, or empty it")
            shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
        part.mkdir(parents=True)
        try:
            yield part
            for entry in sorted(part.iterdir(), key=lambda entry: entry.is_file()):
                entry.rename(out / entry.name)
            part.rmdir()
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            if made:
                out.rmdir()
            raise
    except OSError as error:
        raise DiskError(
            f"{out}: cannot be written ({error.strerror or error}); free space or choose another --out"
        ) from None


def _chunks(uri: str, split: SplitArrays, names: Sequence[str]) -> Iterator[list[_Sample]]:
    """The samples of a split, a chunk of its image array at a time."""
    with store_errors(uri):
        image = split.image
        places = _georeferences(split, width=image.shape[3])
        nodata = split.array("nodata_fraction") if "nodata_fraction" in split else np.zeros(len(split))
        holes = (nodata > 0).tolist()
    step = image.chunks[0]
    for start in range(0, len(split), step):
        part = slice(start, min(start + step, len(split)))
        images, masks, clouds = split.samples(part)
        hidden = [None] * len(images) if clouds is None else list(clouds)
        yield [
            _Sample(*sample)
            for sample in zip(names[part], images, masks, hidden, places[part], holes[part], strict=True)
        ]


def _georeferences(split: SplitArrays, width: int) -> list[Georeference | None]:
    if "crs" in split:
        crs, transforms = split.array("crs"), split.array("transform")
        return [
            Georeference(str(name), tuple(row.tolist())) if name and np.isfinite(row).all() else None
            for name, row in zip(crs, transforms, strict=True)
        ]
    # Schema 1 holds tiles only, and does not say where they lie in metres.
    return [tile_georeference(Tile(*tile), width) for tile in split.array("tile").tolist()]


def file_names(sample_ids: Iterable[str]) -> list[str]:
    """A file name (without its ending) for every sample of a split: its id, ``/`` as ``_``, and numbered if need be.

    Names are told apart without regard to case, as some file systems do.
    """
    names: list[str] = []
    taken: set[str] = set()
    for sample_id in sample_ids:
        plain = re.sub(r"[^A-Za-z0-9._@-]", "_", sample_id)
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _colors(classes: Iterable[Mapping[str, Any]], ignore_index: int | None) -> _Colors:
    """The classes' colours, and one that none of them has for the ignore_index."""
    by_value = {int(entry["value"]): _rgb(int(entry["color"][1:], 16)) for entry in classes}
    if ignore_index is not None:
        likely = (0x000000, 0xFFFFFF, 0xFF00FF)
        by_value[ignore_index] = next(
            color for color in map(_rgb, (*likely, *range(1 << 24))) if color not in by_value.values()
        )
    return _Colors(by_value, ignore_index)


def _rgb(code: int) -> tuple[int, int, int]:
    return code >> 16, code >> 8 & 255, code & 255


def _about(version: DatasetVersion, file_format: str, colors: _Colors, counts: dict[str, int]) -> dict[str, Any]:
    attributes = version.attributes
    kept = ("dataset", "title", "bands", "classes", "attributions", "licences", "software_version", "recipe_hash")
    ignore = None
    if colors.ignore_index is not None:
        color = "#{:02x}{:02x}{:02x}".format(*colors.by_value[colors.ignore_index])
        ignore = {"value": colors.ignore_index, "color": color}
    return {
        **{key: attributes[key] for key in kept if key in attributes},
        "ignore": ignore,
        "store": redact(version.uri),
        "version": version.version,
        "snapshot": version.snapshot,
        "format": file_format,
        "samples": counts,
    }


def _write_png(folder: Path, sample: _Sample, *, bands: Sequence[str], colors: _Colors) -> int:
    """Write a sample's files; returns how many."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for value, color in colors.by_value.items():
        palette[value] = color
    picture = viewable(sample.image, bands)
    pictures = {"images": np.moveaxis(picture, 0, -1), "masks": sample.mask, "masks_rgb": palette[sample.mask]}
    if sample.cloud_mask is not None:
        pictures[CLOUDS] = sample.cloud_mask
    for kind, pixels in pictures.items():
        level = 1 if kind == "images" else 6  # of real images level 6 is 4% smaller and takes four times as long
        path = _path(folder, kind, f"{sample.name}.png")
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=level)
    return len(pictures)


def _write_geotiff(folder: Path, sample: _Sample, *, bands: Sequence[str], colors: _Colors) -> int:
    """Write a sample's files; returns how many."""
    files = {
        "images": _geotiff(sample, sample.image, bands),
        "masks": _geotiff(sample, sample.mask[np.newaxis], ["class"], colors),
    }
    if sample.cloud_mask is not None:
        files[CLOUDS] = _geotiff(sample, sample.cloud_mask[np.newaxis], [CLOUDS])
    for kind, data in files.items():
        _path(folder, kind, f"{sample.name}.tif").write_bytes(data)
    return len(files)


def _path(folder: Path, kind: str, name: str) -> Path:
    (folder / kind).mkdir(parents=True, exist_ok=True)
    return folder / kind / name


@functools.lru_cache(maxsize=64)
def _crs(text: str) -> CRS:
    return CRS.from_user_input(text)


def _geotiff(sample: _Sample, pixels: NDArray[Any], bands: Sequence[str], colors: _Colors | None = None) -> bytes:
    """A GeoTIFF of pixels (band, y, x) where the sample lies, if it lies anywhere.

    Made in memory: a full disk is then told by the write, not lost in GDAL.
    """
    (count, height, width), lies = pixels.shape, sample.georeference
    profile: dict[str, Any] = {"driver": "GTiff", "count": count, "height": height, "width": width}
    profile |= {"dtype": pixels.dtype, "compress": "deflate"}
    if lies is not None:
        try:
            profile |= {"crs": _crs(lies.crs), "transform": Affine(*lies.transform)}
        except CRSError as error:
            raise StoreError(f"{sample.name}: has the CRS {lies.crs!r}, which PROJ does not know ({error})") from None
    if colors is not None:
        profile["nodata"] = colors.ignore_index
    else:
        if pixels is sample.image and (sample.holes or pixels.dtype != np.uint8):  # a picture may be black all the same
            profile["nodata"] = 0
        if pixels.dtype != np.uint8 or count != 3:
            profile["photometric"] = "minisblack"  # or GDAL takes the fourth of four bands for transparency
    with warnings.catch_warnings(), MemoryFile() as memory:
        if lies is None:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile) as file:
            if colors is not None:
                file.write_colormap(1, colors.by_value)
            file.write(pixels)
            for number, name in enumerate(bands, start=1):
                file.set_band_description(number, name)
        return bytes(memory.read())
