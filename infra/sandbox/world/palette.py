"""Colours of the synthetic region, as 8-bit RGB."""

import numpy as np

Colour = tuple[int, int, int]

GROUND: dict[str, Colour] = {
    "old_town": (148, 142, 131),
    "suburb": (108, 121, 82),
    "industrial": (140, 137, 131),
    "park": (96, 118, 70),
    "forest": (52, 64, 42),
    "wild": (116, 122, 84),
}
FIELDS: list[Colour] = [
    (150, 138, 98), (124, 132, 78), (98, 118, 66), (168, 152, 112), (122, 104, 80), (136, 146, 92), (88, 108, 60),
]  # fmt: skip
ROADS: dict[str, Colour] = {
    "primary": (106, 106, 108),
    "secondary": (112, 111, 112),
    "residential": (120, 118, 116),
    "service": (118, 117, 116),
    "track": (160, 146, 120),
}
SIDEWALK: Colour = (156, 152, 145)
MARKING: Colour = (214, 213, 206)
WATER: Colour = (58, 78, 80)
BANK: Colour = (104, 116, 78)
POOL: Colour = (96, 176, 188)
BARE: Colour = (158, 142, 118)
CARS: list[Colour] = [(228, 228, 226), (70, 72, 76), (36, 38, 42), (150, 40, 38), (46, 66, 112), (176, 178, 180)]

# Several roofs are near a ground colour on purpose: colour alone must not tell a roof.
ROOFS_OLD: list[Colour] = [
    (156, 100, 78), (144, 90, 72), (166, 118, 94), (128, 86, 72), (110, 106, 106), (146, 130, 112),
]  # fmt: skip
ROOFS_SUBURB: list[Colour] = [
    (158, 94, 72), (122, 78, 64), (98, 98, 102), (118, 116, 116), (140, 122, 98), (104, 96, 76), (172, 164, 152),
]  # fmt: skip
ROOFS_HALL: list[Colour] = [(196, 196, 192), (140, 138, 134), (116, 118, 122), (128, 140, 150), (158, 142, 124)]


def pick(random: np.random.Generator, colours: list[Colour], spread: float = 9.0) -> Colour:
    """One of the colours, a little changed."""
    base = np.array(colours[int(random.integers(len(colours)))], dtype=float)
    tone = random.normal(0, spread) + random.normal(0, spread / 5, 3)
    red, green, blue = np.clip(base + tone, 20, 245).astype(int).tolist()
    return red, green, blue
