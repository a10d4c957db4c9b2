"""Where the windows of a raster lie, which share a block, and which a strip holds out for validation. All is pure.

A window is ``size`` x ``size`` pixels in all. With a padding its labelled core is ``size - 2 * padding`` wide, the
cores step by the stride, and the rim around a core is context for a network that loses it.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tasks.recipe.parts import PatchGrid

Edge = Literal["inside", "pad", "drop"]


class Placed(NamedTuple):
    """One window of a raster, in pixels; it may reach beyond the raster."""

    column: int  # of the upper left pixel, rim included
    row: int
    width: int
    height: int
    at: tuple[int, int] | None  # row and column of the core's upper left pixel: the window's name; None: all of it


def starts(extent: int, core: int, stride: int, edge: Edge) -> list[int]:
    """Where cores of ``core`` pixels start along an axis of ``extent`` pixels, ascending.

    ``inside`` moves the last one back so that it ends with the axis, ``pad`` lets it reach beyond, ``drop`` leaves
    out what does not fit. An axis shorter than a core has one that reaches beyond, with ``drop`` none.
    """
    beyond = extent - core  # the last start that stays inside
    if beyond < 0:
        return [] if edge == "drop" else [0]
    regular = list(range(0, beyond + 1, stride))
    if regular[-1] == beyond or edge == "drop":
        return regular
    return [*regular, beyond if edge == "inside" else regular[-1] + stride]


def place(width: int, height: int, grid: PatchGrid) -> list[Placed]:
    """The windows of a raster of ``width`` x ``height`` pixels, row by row; one without a name when it is all of it."""
    if grid.size == 0 or (width == height == grid.size and not grid.padding):
        return [Placed(0, 0, width, height, None)]
    core = grid.size - 2 * grid.padding
    columns = starts(width, core, grid.step, grid.edge)
    return [
        Placed(column - grid.padding, row - grid.padding, grid.size, grid.size, (row, column))
        for row in starts(height, core, grid.step, grid.edge)
        for column in columns
    ]


def block_of(one: Placed, grid: PatchGrid, side: int) -> tuple[int, int]:
    """Row and column of the block of ``side`` x ``side`` windows that a window lies in.

    A last window that was moved back lies in the block of the one before it, which it overlaps.
    """
    row, column = one.at or (0, 0)
    step = max(1, grid.step * side)
    return row // step, column // step


def hold_out(
    placed: Sequence[Placed], width: int, height: int, share: float, seed: int, scene: str
) -> list[bool | None]:
    """For each window whether a strip of about ``share`` of the raster holds it: True, False, or None astride.

    The strip lies at one side of the raster, drawn by a hash of seed and name: one of the two short sides, where its
    border is shortest and the fewest windows lie astride, and any of the four when all are alike. It ends where its
    innermost windows do, as near to the share as that can be while there are windows on both sides; where that cannot
    be, nothing is held out. A window's rim counts, for a network sees it.
    """
    draw = hashlib.sha256(f"{seed} {scene}".encode()).digest()
    across = draw[0] % 2 == 0 if width == height else width > height  # the strip cuts the columns, not the rows
    far = draw[1] % 2 == 0
    extent = width if across else height
    spans = [_span(one, across, extent) for one in placed]
    first_end, last_start = min((b for _, b in spans), default=0), max((a for a, _ in spans), default=0)
    edges = {a if far else b for a, b in spans}  # where the strip's windows may end, so that they fill it
    borders = sorted(at for at in edges if first_end <= at <= last_start)
    if not borders:
        return [False] * len(spans)
    border = min(borders, key=lambda at: abs((extent - at if far else at) - share * extent))
    return [None if a < border < b else (a >= border) == far for a, b in spans]


def _span(one: Placed, across: bool, extent: int) -> tuple[int, int]:
    """First pixel, and the one after the last, that a window covers of an axis."""
    start, length = (one.column, one.width) if across else (one.row, one.height)
    return max(start, 0), min(start + length, extent)
