"""A picture of samples for people: each image above itself with its mask laid over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.atomic import writing
from tasks.views.picture import viewable

OVERLAY = np.array([235.0, 40.0, 110.0])  # a red that no roof has


def draw_samples(
    path: Path,
    samples: Sequence[tuple[NDArray[Any], NDArray[np.uint8]]],
    bands: Sequence[str],
    colors: Mapping[int, str],
    columns: int = 4,
) -> None:
    """Write a PNG of samples: each image (band, y, x) above itself with its mask (uint8 y, x) laid over.

    bands: names of the bands. colors: #rrggbb of every class; with two classes the foreground is drawn in a red
    that no roof has. Samples smaller than 256 px are enlarged by a whole factor. No samples, no picture. Raises
    DiskError.
    """
    if not samples:
        return
    palette = np.zeros((256, 3))
    painted = np.zeros(256, dtype=np.bool_)
    for value, color in colors.items():
        palette[value] = OVERLAY if len(colors) == 2 else [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        painted[value] = value != 0
    rows_of, columns_of = samples[0][1].shape
    scale = max(1, 256 // max(rows_of, columns_of))
    high, wide, gap = rows_of * scale, columns_of * scale, 6
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * (wide + gap) + gap, rows * (2 * high + 2 * gap) + gap), "#ffffff")
    for i, (image, mask) in enumerate(samples):
        x = gap + (i % columns) * (wide + gap)
        y = gap + (i // columns) * (2 * high + 2 * gap)
        pixels = np.moveaxis(viewable(image, bands), 0, -1)
        laid = np.where(painted[mask][..., None], 0.45 * pixels + 0.55 * palette[mask], pixels).astype(np.uint8)
        pair = np.concatenate((pixels, laid))
        sheet.paste(Image.fromarray(pair).resize((wide, 2 * high), Image.Resampling.NEAREST), (x, y))
    with writing(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
