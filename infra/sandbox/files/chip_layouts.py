"""Chips as files, in every layout that the Radiant MLHub collections were published in.

Folders of the MLHub layouts hold ``{dataset}/{collection}/{item}/{asset}.tif``; :func:`archives` makes of them the
``{collection}.tar.gz`` that MLHub gave out.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra.sandbox.files.chips import GHANA_BANDS, RADAR_BANDS, MadeChip, MadeLook
from infra.sandbox.services.mlhub import pack
from infra.sandbox.world.ground import Place, write_raster

LANDCOVERNET_DATASET = "ref_landcovernet_af_v1"
GHANA_DATASET = "su_african_crops_ghana"
KENYA_DATASET = "ref_african_crops_kenya_02"
LANDCOVERNET_PRODUCT = "radiantearth/landcovernet"  # at Source Cooperative: account/product
GHANA_PRODUCT = "stanford/africa-crops-ghana"
_README = "Synthetic chips of the Tilewright sandbox. They show no place on Earth.\n"


def write_landcovernet(folder: Path, chips: Iterable[MadeChip], layout: Literal["A", "B", "C"]) -> Path:
    """The chips in one of three layouts; returns the folder of the dataset.

    A is MLHub's archive, with a collection for labels and one for Sentinel-2. B is what scripts made that walked over
    MLHub's items. C is Source Cooperative's, below ``radiantearth/landcovernet/landcovernet_af``, with Sentinel-1 too.
    """
    write = {"A": _landcovernet_a, "B": _landcovernet_b, "C": _landcovernet_c}[layout]
    root = {
        "A": folder / LANDCOVERNET_DATASET,
        "B": folder / "landcovernet",
        "C": folder / LANDCOVERNET_PRODUCT / "landcovernet_af",
    }[layout]
    for chip in chips:
        write(root, chip)
    return root


def _labels_of(chip: MadeChip) -> NDArray[Any]:
    assert chip.consensus is not None
    return np.stack([chip.labels, chip.consensus])


def _landcovernet_a(root: Path, chip: MadeChip) -> None:
    labels, source = f"{LANDCOVERNET_DATASET}_labels", f"{LANDCOVERNET_DATASET}_source_sentinel_2"
    write_raster(root / labels / f"{labels}_{chip.name}" / "labels.tif", _labels_of(chip), chip.place, nodata=0)
    for look in chip.looks:
        _write_look(root / source / f"{source}_{chip.name}_{look.date}", "{}.tif", look, chip.place)


def _landcovernet_b(root: Path, chip: MadeChip) -> None:
    item = root / f"ref_landcovernet_v1_labels_{chip.name}"
    write_raster(item / f"{chip.name}_2018_LC_10m.tif", _labels_of(chip), chip.place, nodata=0)
    for look in chip.looks:
        _write_look(item / _spaced(look.date), f"{chip.name}_{look.date}_{{}}_10m.tif", look, chip.place)


def _landcovernet_c(root: Path, chip: MadeChip) -> None:
    tile, _, number = chip.name.partition("_")
    item = root / "data" / "v1.0" / "2018" / tile / number
    write_raster(item / f"{chip.name}_2018_LC_10m.tif", _labels_of(chip), chip.place, nodata=0)
    (item / f"{chip.name}_labeling_dates.csv").write_text("\n".join(look.date for look in chip.looks) + "\n")
    for look in chip.looks:
        name = f"{chip.name}_{look.date}"
        _write_look(item / "S2" / name, f"{name}_{{}}_10m.tif", look, chip.place)
    if chip.radar is not None:
        name = f"{chip.name}_{chip.looks[0].date}"
        for band, values in zip(RADAR_BANDS, chip.radar, strict=True):
            write_raster(item / "S1" / name / f"{name}_{band}_10m.tif", values, chip.place)


def write_ghana_mlhub(folder: Path, chips: Iterable[MadeChip]) -> Path:
    """``su_african_crops_ghana`` with collections for labels, Sentinel-1 and Sentinel-2; returns that folder."""
    root = folder / GHANA_DATASET
    for chip in chips:
        labels = f"{GHANA_DATASET}_labels"
        write_raster(root / labels / f"{labels}_{chip.name}" / "labels.tif", chip.labels)
        for look in chip.looks:
            source = f"{GHANA_DATASET}_source_s2"
            item = root / source / f"{source}_{chip.name}_{_spaced(look.date)}"
            write_raster(item / "source.tif", _ten_bands(look))
            write_raster(item / "cloudmask.tif", look.layers["cloudmask"])
        if chip.radar is not None:
            source = f"{GHANA_DATASET}_source_s1"
            date = _spaced(chip.looks[0].date)
            write_raster(root / source / f"{source}_{chip.name}_{date}" / "source.tif", chip.radar)
    return root


def write_ghana_mirror(folder: Path, chips: Iterable[MadeChip]) -> Path:
    """``stanford/africa-crops-ghana`` with ``truth``, ``s1`` and ``s2``; returns that folder."""
    root = folder / GHANA_PRODUCT
    for chip in chips:
        truth = f"truth_ghana_{chip.name}"
        write_raster(root / "truth" / truth / f"{truth}_label.tif", chip.labels)
        for look in chip.looks:
            item = f"s2_ghana_{chip.name}_{_spaced(look.date)}"
            write_raster(root / "s2" / item / f"{item}_data.tif", _ten_bands(look))
            write_raster(root / "s2" / item / f"{item}_cloudmask.tif", look.layers["cloudmask"])
        if chip.radar is not None:
            item = f"s1_ghana_{chip.name}_{_spaced(chip.looks[0].date)}"
            write_raster(root / "s1" / item / f"{item}_data.tif", chip.radar)
    (root / "README.md").write_text(_README)
    return root


def write_kenya(folder: Path, tiles: Iterable[MadeChip]) -> Path:
    """``ref_african_crops_kenya_02`` with collections for labels and Sentinel-2; returns that folder."""
    root = folder / KENYA_DATASET
    for tile in tiles:
        item = root / f"{KENYA_DATASET}_labels" / f"{KENYA_DATASET}_{tile.name}_label"
        write_raster(item / "labels.tif", tile.labels)
        write_raster(item / "field_ids.tif", tile.labels.astype(np.uint32) * 1000)
        for look in tile.looks:
            item = root / f"{KENYA_DATASET}_source" / f"{KENYA_DATASET}_{tile.name}_{look.date}"
            _write_look(item, "{}.tif", look, None)
    return root


def archives(dataset: Path, folder: Path) -> list[Path]:
    """``{collection}.tar.gz`` in ``folder`` for every collection of a dataset in MLHub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for collection in sorted(path for path in dataset.iterdir() if path.is_dir()):
        archive = folder / f"{collection.name}.tar.gz"
        archive.write_bytes(pack(collection))
        made.append(archive)
    return made


def _write_look(item: Path, pattern: str, look: MadeLook, place: Place | None) -> None:
    for key, values in {**look.bands, **look.layers}.items():
        write_raster(item / pattern.format(key), values, place)


def _ten_bands(look: MadeLook) -> NDArray[Any]:
    return np.stack([look.bands[band] for band in GHANA_BANDS])


def _spaced(date: str) -> str:
    return f"{date[:4]}_{date[4:6]}_{date[6:]}"
