"""The picture of samples for people."""

from pathlib import Path

import numpy as np
from PIL import Image

from tasks.views.sheet import draw_samples

BANDS = ("red", "green", "blue")


def test_samples_are_drawn_with_their_masks(tmp_path: Path) -> None:
    image = np.full((3, 64, 64), 100, dtype=np.uint8)
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 1
    draw_samples(tmp_path / "sheet.png", [(image, mask)] * 5, BANDS, {0: "#000000", 1: "#ffffff"})
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 262 + 6, 2 * 524 + 6)
        assert sheet.getpixel((6 + 200, 6 + 100)) == (100, 100, 100)
        assert sheet.getpixel((6 + 10, 6 + 256 + 100)) == (100, 100, 100)
        red, green, _ = sheet.getpixel((6 + 200, 6 + 256 + 100))  # type: ignore[misc]
        assert red > 150 > green
    draw_samples(tmp_path / "none.png", [], BANDS, {})
    assert not (tmp_path / "none.png").exists()
