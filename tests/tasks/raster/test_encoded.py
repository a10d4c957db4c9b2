import io
import random
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from tasks.raster.encoded import BadImageError, WrongSizeError, check_image, decode_image, sniff
from tests.tasks.raster.pictures import SIDE, encode, picture, transparent

FORMS = {
    "jpeg": encode(picture(), "JPEG"),
    "jpeg progressive": encode(picture(), "JPEG", progressive=True),
    "jpeg gray": encode(picture()[..., 0], "JPEG"),
    "png": encode(picture(), "PNG"),
    "png alpha": transparent(0.0),
    "webp": encode(picture(), "WEBP"),
    "webp lossless": encode(picture(bands=4), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_first_bytes_tell_the_format(name: str) -> None:
    assert sniff(FORMS[name]) == name.split()[0]


@pytest.mark.parametrize("data", [b"", b"{}", b"<html>", b"GIF89a", b"RIFF1234WAVE", b"\x89PNG"])
def test_other_bytes_are_no_image(data: bytes) -> None:
    assert sniff(data) is None
    with pytest.raises(BadImageError, match=r"^not an image$"):
        check_image(data, SIDE)


@pytest.mark.parametrize("name", FORMS)
def test_whole_images_pass_also_with_bytes_after_their_end(name: str) -> None:
    assert check_image(FORMS[name], SIDE) == 0.0
    assert check_image(FORMS[name] + b"\0\0\0\0", SIDE) == 0.0
    assert decode_image(FORMS[name], SIDE)[0].shape == (3, SIDE, SIDE)


@pytest.mark.parametrize("name", FORMS)
def test_cut_images_are_refused_wherever_they_are_cut(name: str) -> None:
    data = FORMS[name]
    lengths = {len(data) * share // 100 for share in range(5, 100, 5)} | {len(data) - missing for missing in (1, 2, 8)}
    for length in lengths:
        with pytest.raises(BadImageError):
            check_image(data[:length], SIDE)


@pytest.mark.parametrize("name", FORMS)
def test_half_an_image_is_called_truncated(name: str) -> None:
    with pytest.raises(BadImageError, match=r"^truncated image$"):
        check_image(FORMS[name][: len(FORMS[name]) // 2], SIDE)


def test_a_changed_byte_in_a_png_is_noticed() -> None:
    data = bytearray(FORMS["png"])
    data[len(data) // 2] ^= 1
    with pytest.raises(BadImageError, match=r"^broken image$"):
        check_image(bytes(data), SIDE)


@pytest.mark.parametrize("name", FORMS)
def test_what_passes_decodes_and_nothing_but_our_error_comes_out(name: str) -> None:
    chance = random.Random(name)
    for _ in range(300):
        data = bytearray(FORMS[name])
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            check_image(bytes(data), SIDE)
        except BadImageError:
            continue
        assert decode_image(bytes(data), SIDE)[0].shape == (3, SIDE, SIDE)


def test_another_size_is_told_from_the_header_alone() -> None:
    with pytest.raises(WrongSizeError, match=r"^64 x 64 pixels$") as caught:
        check_image(encode(picture(side=64), "PNG")[:100], SIDE)
    assert (caught.value.width, caught.value.height) == (64, 64)
    with pytest.raises(WrongSizeError):
        decode_image(FORMS["webp"], 2 * SIDE)


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    header = bytearray(encode(Image.new("1", (8, 8)), "PNG"))
    header[16:24] = side.to_bytes(4, "big") * 2
    header[29:33] = crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(BadImageError, match=r"^image far too large$"):
        check_image(bytes(header), 256)
    with pytest.raises(BadImageError, match=r"^image far too large$"):
        decode_image(bytes(header))


def test_fully_transparent_pixels_are_nodata() -> None:
    assert check_image(transparent(0.25), SIDE) == 0.25
    assert check_image(transparent(1.0), SIDE) == 1.0
    half_seen = picture(bands=4)
    half_seen[..., 3] = 1
    assert check_image(encode(half_seen, "PNG"), SIDE) == 0.0


def test_transparency_of_palettes_gray_and_webp_counts_too() -> None:
    palette = Image.fromarray(np.repeat(np.array([[0], [1]], np.uint8), SIDE // 2, axis=0).repeat(SIDE, axis=1), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    data = encode(palette, "PNG", transparency=0)
    assert check_image(data, SIDE) == 0.5
    image, hidden = decode_image(data)
    assert image[:, 0, 0].tolist() == [255, 0, 0]
    assert hidden is not None
    assert hidden[:, 0].tolist() == [True] * (SIDE // 2) + [False] * (SIDE // 2)
    gray = np.dstack([picture()[..., 0], np.zeros((SIDE, SIDE), np.uint8)])
    assert check_image(encode(Image.fromarray(gray, "LA"), "PNG"), SIDE) == 1.0
    clear = picture(bands=4)
    clear[..., 3] = 0
    assert check_image(encode(clear, "WEBP", lossless=True), SIDE) == 1.0


def test_png_pixels_come_out_as_they_are_and_alpha_is_dropped_not_blended() -> None:
    pixels = picture()
    assert np.array_equal(decode_image(encode(pixels, "PNG"), SIDE)[0], pixels.transpose(2, 0, 1))
    clear = np.dstack([pixels, np.zeros((SIDE, SIDE), np.uint8)])
    assert np.array_equal(decode_image(encode(clear, "PNG"), SIDE)[0], pixels.transpose(2, 0, 1))


def test_hidden_pixels_are_those_of_alpha_0() -> None:
    seen, hidden = decode_image(transparent(0.25), SIDE)
    assert seen.shape == (3, SIDE, SIDE)
    assert hidden is not None
    assert hidden[: SIDE // 4].all()
    assert not hidden[SIDE // 4 :].any()
    faint = picture(bands=4)
    faint[..., 3] = np.arange(SIDE) < 3
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        _, hidden = decode_image(encode(faint, form, **options))
        assert hidden is not None
        assert np.array_equal(hidden, faint[..., 3] == 0)
    for name in ("jpeg", "jpeg gray", "png", "webp"):
        assert decode_image(FORMS[name])[1] is None


def test_gray_becomes_three_equal_bands_and_of_16_bits_the_upper_8_stay() -> None:
    gray = picture()[..., 0]
    assert np.array_equal(decode_image(encode(gray, "PNG"))[0], np.repeat(gray[np.newaxis], 3, axis=0))
    deep = encode(gray.astype(np.uint16) * 256 + 77, "PNG")
    with Image.open(io.BytesIO(deep)) as image:
        assert image.mode == "I;16"
    assert check_image(deep, SIDE) == 0.0
    assert np.array_equal(decode_image(deep)[0], np.repeat(gray[np.newaxis], 3, axis=0))


def test_cmyk_jpeg_decodes() -> None:
    data = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert check_image(data, SIDE) == 0.0
    assert decode_image(data)[0].shape == (3, SIDE, SIDE)


@pytest.mark.real
def test_nineteen_kampala_tiles_are_more_than_a_hundredth_transparent(shared_data: Path) -> None:
    files = sorted((shared_data / "xyz" / "kampala").rglob("*.png"))
    fractions = [check_image(path.read_bytes(), 256) for path in files]
    assert len(fractions) == 147
    assert sum(fraction > 0.01 for fraction in fractions) == 19
