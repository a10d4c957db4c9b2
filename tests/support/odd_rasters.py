"""Odd files: TIFFs, PNGs and JPEGs that are damaged, lie about themselves or are none, drawn by a ``random.Random``.

Each maker returns the bytes of a file. Most are hand-made, so that headers can say what no library would write.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from random import Random

from PIL import Image

Maker = Callable[[Random], bytes]
Tag = tuple[int, int, Sequence[float] | bytes]  # number, type as TIFF counts them, values

SHORT, LONG, ASCII, DOUBLE = 3, 4, 2, 12
UTM31 = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32631)  # a GeoKeyDirectory
PLACE = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 500_000.0, 5_800_000.0, 0.0)  # ModelPixelScale, ModelTiepoint
_PACKED = {SHORT: "H", LONG: "I", DOUBLE: "d"}


def tiff(tags: Sequence[Tag], data: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; ``data`` begins at byte 8."""
    directory, after = 8 + len(data), 8 + len(data) + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for number, kind, value in sorted(tags, key=lambda tag: tag[0]):
        packed = value if isinstance(value, bytes) else struct.pack(f"<{len(value)}{_PACKED[kind]}", *value)
        count = len(packed) if kind == ASCII else len(value)
        held = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", after + len(values))
        values += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", number, kind, count) + held
    return b"II*\0" + struct.pack("<I", directory) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4 + values


def image_tags(
    width: int, height: int, bands: int = 3, bits: int = 8, kind: int = 1, compression: int = 1, photometric: int = 1
) -> list[Tag]:
    """Tags of one strip of pixels from byte 8 on; ``kind`` is the SampleFormat."""
    size = min(width * bits * bands // 8 * height, 2**32 - 1)
    more: list[Tag] = [(338, SHORT, [0] * (bands - 1))] if bands > 1 else []
    return [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [bits] * bands),
        (259, SHORT, [compression]),
        (262, SHORT, [photometric]),
        (273, LONG, [8]),
        (277, SHORT, [bands]),
        (278, LONG, [height]),
        (279, LONG, [size]),
        (339, SHORT, [kind] * bands),
        *more,
    ]


def placed(
    scale: Sequence[float] = PLACE[0], tie: Sequence[float] = PLACE[1], keys: Sequence[int] = UTM31
) -> list[Tag]:
    """Tags that say where the pixels lie."""
    return [(33550, DOUBLE, list(scale)), (33922, DOUBLE, list(tie)), (34735, SHORT, list(keys))]


def turned(*matrix: float) -> list[Tag]:
    """Tags of a ModelTransformation of 16 numbers in EPSG:32631."""
    return [(34264, DOUBLE, list(matrix)), (34735, SHORT, list(UTM31))]


def whole_tiff(random: Random, side: int = 64) -> bytes:
    """A GeoTIFF of three bands with nothing odd."""
    return tiff(image_tags(side, side) + placed(), random.randbytes(side * side * 3))


def picture(random: Random, form: str, mode: str = "RGB", side: int = 64, **options: object) -> bytes:
    """A picture with nothing odd."""
    drawn = mode if mode in ("L", "RGB", "RGBA") else "RGB"
    image = Image.frombytes(drawn, (side, side), random.randbytes(side * side * len(drawn))).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def damaged(random: Random, data: bytes) -> bytes:
    """``data`` cut short, with bytes turned, with a part taken out or put in, or with a word of it made huge."""
    found = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(found)) if found else 0
        how = random.randrange(5)
        if how == 0:
            del found[at:]
        elif how == 1 and found:
            found[at] ^= 1 << random.randrange(8)
        elif how == 2:
            del found[at : at + random.randint(1, 64)]
        elif how == 3:
            found[at:at] = random.randbytes(random.randint(1, 64))
        else:
            found[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
    return bytes(found)


def png(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0, data: bytes = b"") -> bytes:
    """A PNG whose header says what it is told; ``data`` is what its pixels are compressed from."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    framed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def jpeg_that_says(random: Random, width: int, height: int) -> bytes:
    """A JPEG with other sides in its header than it has."""
    data = picture(random, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def vrt(target: str) -> bytes:
    """A file that would make GDAL open another file, or a URL."""
    return (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{target}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        "</VRTDataset>"
    ).encode()


def _strange(change: Callable[[list[Tag]], list[Tag]], side: int = 64) -> Maker:
    return lambda random: tiff(change(image_tags(side, side)), random.randbytes(side * side * 3))


def _typed(bits: int, kind: int, bands: int = 3, **more: int) -> Maker:
    return lambda random: tiff(
        image_tags(64, 64, bands, bits, kind, **more), random.randbytes(64 * 64 * bands * bits // 8)
    )


def _sized(width: int, height: int, **more: int) -> Maker:
    return lambda random: tiff(image_tags(width, height, **more) + placed(), random.randbytes(256))


def _without(number: int) -> Maker:
    return _strange(lambda tags: [tag for tag in tags if tag[0] != number])


def _with(*more: Tag) -> Maker:
    numbers = {tag[0] for tag in more}
    return _strange(lambda tags: [tag for tag in tags if tag[0] not in numbers] + list(more))


NAN, INF = float("nan"), float("inf")
# Files that cannot be used: each is to end in one line that names it.
USELESS: Mapping[str, Maker] = {
    "nothing": lambda _: b"",
    "one byte": lambda random: random.randbytes(1),
    "noise": lambda random: random.randbytes(random.randint(2, 4096)),
    "html": lambda _: b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>",
    "vrt of a url": lambda _: vrt("/vsicurl/http://127.0.0.1:9/other.tif"),
    "tiff, header only": lambda random: whole_tiff(random)[:8],
    "tiff, no directory": lambda _: b"II*\0\0\0\0\0",
    "tiff, directory beyond the end": lambda _: b"II*\0\xff\xff\xff\x7f" + b"\0" * 64,
    "tiff, directory of itself": lambda _: (
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 330, 4, 1, 8) + b"\x08\0\0\0"
    ),
    "tiff of no columns": _sized(0, 64),
    "tiff of no rows": _sized(64, 0),
    "tiff of 2^31-1 squared": _sized(2**31 - 1, 2**31 - 1),
    "tiff of 2^32-1 squared": _sized(2**32 - 1, 2**32 - 1),
    "tiff of one huge tile": _with(
        (322, LONG, [65536 * 4]), (323, LONG, [65536 * 4]), (324, LONG, [8]), (325, LONG, [9])
    ),
    "tiff of 10,000 bands": lambda random: tiff(image_tags(64, 64, 10_000) + placed(), random.randbytes(512)),
    "tiff of unknown compression": _with((259, SHORT, [65_000])),
    "tiff of JBIG": _with((259, SHORT, [34_661])),
    "tiff without sides": _without(256),
    "tiff, pixel size nan": _with(*placed(scale=(NAN, NAN, 0.0))),
    "tiff, pixel size infinite": _with(*placed(scale=(INF, INF, 0.0))),
    "tiff, place nan": _with(*placed(tie=(0.0, 0.0, 0.0, NAN, NAN, 0.0))),
    "tiff, all pixels in one point": _with(*turned(*[0.0] * 3, 500_000.0, *[0.0] * 3, 5_800_000.0, *[0.0] * 7, 1.0)),
    "png of 100,000 squared": lambda _: png(100_000, 100_000, data=b"\0" * 1000),
    "png of 100,000 squared, interlaced": lambda _: png(100_000, 100_000, interlace=1, data=b"\0" * 1000),
    "png of no columns": lambda _: png(0, 64),
    "png of an unknown depth": lambda _: png(64, 64, depth=7, data=b"\0" * 10_000),
    "png, header only": lambda random: picture(random, "PNG")[:40],
    "jpeg of 65,500 squared": lambda random: jpeg_that_says(random, 65_500, 65_500),
    "jpeg of no columns": lambda random: jpeg_that_says(random, 0, 64),
    "jpeg, header only": lambda random: picture(random, "JPEG")[:20],
    "gif": lambda random: picture(random, "GIF"),
    "bmp": lambda random: picture(random, "BMP"),
}
# Files of which the header is right and some pixels, or all, cannot be read.
TORN: Mapping[str, Maker] = {
    "tiff cut short": lambda random: whole_tiff(random)[: random.randint(100, 6000)],
    "tiff, strip beyond the end": _with((273, LONG, [2**31])),
    "tiff, no deflate data": _with((259, SHORT, [8])),
    "tiff, no jpeg data": _with((259, SHORT, [7])),
    "tiff, no lzw data": _with((259, SHORT, [5])),
    "png cut short": lambda random: (data := picture(random, "PNG"))[: len(data) // 2],
    "png with a byte turned": lambda random: (data := picture(random, "PNG"))[:300] + b"\xff\0\xff" + data[303:],
    "png with too few rows": lambda _: png(64, 64, data=b"\0" * 1000),
    "jpeg cut short": lambda random: (data := picture(random, "JPEG"))[: len(data) // 2],
}
# Files that are odd and right.
RARE: Mapping[str, Maker] = {
    "tiff of one bit": _typed(1, 1, bands=1),
    "tiff of four bits": _typed(4, 1, bands=1),
    "tiff of twelve bits": _typed(12, 1, bands=1),
    "tiff of 16-bit floats": _typed(16, 3),
    "tiff of doubles": _typed(64, 3),
    "tiff of complex numbers": _typed(64, 6, bands=1),
    "tiff of complex shorts": _typed(32, 5, bands=1),
    "tiff of signed bytes": _typed(8, 2),
    "tiff of 32-bit numbers": _typed(32, 1),
    "tiff of 64-bit numbers": _typed(64, 1),
    "tiff of NaNs that signal": lambda _: tiff(
        [*image_tags(64, 64, 1, 32, 3), (42113, ASCII, b"-9999\0")], struct.pack("<I", 0x7F800001) * 64 * 64
    ),
    "tiff with a palette": lambda random: tiff(
        [*image_tags(64, 64, 1, photometric=3), (320, SHORT, [random.randrange(65_536) for _ in range(768)])],
        random.randbytes(64 * 64),
    ),
    "tiff with alpha": lambda random: tiff(
        [*(tag for tag in image_tags(64, 64, 4, photometric=2) if tag[0] != 338), (338, SHORT, [2])],
        random.randbytes(64 * 64 * 4),
    ),
    "tiff, strip of no bytes": _with((279, LONG, [0])),
    "tiff, white is 0": _typed(8, 1, bands=1, photometric=0),
    "tiff, turned by 30 degrees": _with(
        *turned(0.433, 0.25, 0.0, 500_000.0, 0.25, -0.433, 0.0, 5_800_000.0, *[0.0] * 7, 1.0)
    ),
    "png of 16 bits": lambda random: png(
        64, 64, depth=16, colour=0, data=b"".join(b"\0" + random.randbytes(128) for _ in range(64))
    ),
    "png of one bit": lambda _: png(64, 64, depth=1, colour=0, data=b"\0\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa" * 64),
    "png with a palette": lambda random: picture(random, "PNG", "P"),
    "png with alpha": lambda random: picture(random, "PNG", "RGBA"),
    "jpeg in gray": lambda random: picture(random, "JPEG", "L"),
    "jpeg in CMYK": lambda random: picture(random, "JPEG", "CMYK"),
    "jpeg, progressive": lambda random: picture(random, "JPEG", progressive=True),
}
WHOLE: Mapping[str, Maker] = {
    "tiff": whole_tiff,
    "png": lambda random: picture(random, "PNG"),
    "jpeg": lambda random: picture(random, "JPEG"),
    "webp": lambda random: picture(random, "WEBP"),
}


def geo_keys(random: Random) -> bytes:
    """A GeoTIFF with a damaged GeoKeyDirectory."""
    keys = list(UTM31)
    for _ in range(random.randint(1, 4)):
        keys[random.randrange(len(keys))] = random.choice(
            [0, 1, 7, 1024, 3072, 32_767, 65_535, random.randrange(65_536)]
        )
    keys = keys[: random.randint(1, len(keys))]
    return tiff(image_tags(64, 64) + placed(keys=keys), random.randbytes(64 * 64 * 3))


def odd_raster(random: Random) -> bytes:
    """Any of all these, half of the time damaged once more."""
    makers = [*USELESS.values(), *TORN.values(), *RARE.values(), *WHOLE.values(), geo_keys]
    data = random.choice(makers)(random)
    return damaged(random, data) if random.random() < 0.5 else data
