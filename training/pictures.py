"""A picture of what a model sees: image, mask and prediction side by side."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tasks.versions.read import open_version, parse_reference
from tasks.versions.schema import TEST
from tasks.views.picture import viewable
from training.data import ignored_pixels
from training.inference import THRESHOLD, load_model

GAP, HEADER = 6, 20  # pixels
TITLES = ("image", "mask", "prediction")
MISSED, INVENTED, IGNORED = (214, 69, 65), (65, 131, 215), (128, 128, 128)


def predictions_picture(reference: str, model: Path | str, path: Path, count: int = 4, split: str = TEST) -> None:
    """Write a PNG of the first ``count`` samples of a split: a row each, image, mask and prediction.

    reference: ``STORE`` or ``STORE@VERSION``. model: a folder that training wrote. The mask's foreground has the
    class's colour; in the prediction, pixels that are wrong are red (building missed) or blue (building invented).
    Ignored pixels are grey in both. Images that are not RGB are shown as ``tasks.views.picture`` says.
    Raises StoreError and TrainingError.
    """
    version = open_version(*parse_reference(reference))
    predictor = load_model(model)
    arrays = version.split(split)
    images, masks, clouds = arrays.samples(slice(0, min(count, len(arrays))))
    predicted = predictor.predict(images) >= THRESHOLD
    foreground = predictor.metadata.foreground
    ignored = ignored_pixels(masks, clouds, version.ignore_index)
    shown = np.stack([viewable(image, predictor.metadata.bands) for image in images])
    color = next(entry["color"] for entry in version.attributes["classes"] if entry["value"] == foreground)
    draw_sheet(path, shown, masks == foreground, predicted, str(color), ignored)


def draw_sheet(
    path: Path,
    images: NDArray[np.uint8],
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    color: str,
    ignored: NDArray[np.bool_] | None = None,
) -> None:
    """Write the sheet. images: uint8 (n, 3, y, x). truth, predicted, ignored: bool (n, y, x). color: #rrggbb.

    Samples smaller than 256 px are enlarged by a whole factor.
    """
    scale = max(1, 256 // images.shape[-1])
    images = images.repeat(scale, -1).repeat(scale, -2)
    ignored = np.zeros_like(truth) if ignored is None else ignored
    truth, predicted, ignored = (mask.repeat(scale, -1).repeat(scale, -2) for mask in (truth, predicted, ignored))
    count, _, height, width = images.shape
    columns = len(TITLES)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, HEADER + count * (height + GAP)), "#ffffff")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, title in enumerate(TITLES):
        draw.text((GAP + column * (width + GAP), 3), title, fill="#222222", font=font)
    building = _rgb(color)
    for row in range(count):
        true, found = truth[row], predicted[row]
        mask = np.where(true[..., None], building, np.uint8(0))
        shown = np.where(found[..., None], building, np.uint8(0))
        shown[true & ~found] = MISSED
        shown[found & ~true] = INVENTED
        mask[ignored[row]] = shown[ignored[row]] = IGNORED
        for column, pixels in enumerate((np.moveaxis(images[row], 0, -1), mask, shown)):
            where = (GAP + column * (width + GAP), HEADER + row * (height + GAP))
            sheet.paste(Image.fromarray(pixels.astype(np.uint8)), where)
    sheet.save(path, "PNG", optimize=True)


def _rgb(color: str) -> NDArray[np.uint8]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.uint8)
