"""Noise that is fixed to the world, so that neighbouring tiles meet without a seam.

Coordinates are the global pixels of a zoom (0, 0 at the north-west corner of the map). One octave is a periodic lattice
of random values, interpolated; its cells have the same size in metres at every zoom.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.sandbox.world.region import rng

Float32Array = NDArray[np.float32]

LATTICE = 256  # cells before an octave repeats
_SUPPORT = 3  # cells around a cut-out that bicubic interpolation may reach
_GRAIN_PERIOD, _GRAIN_SPAN = 256, 1024


@lru_cache(maxsize=64)
def _lattice(seed: int, octave: int) -> Float32Array:
    return rng(seed, f"texture {octave}").normal(0, 1, (LATTICE, LATTICE)).astype(np.float32)


def octave(seed: int, level: int, zoom: int, left: int, top: int, size: int) -> Float32Array | None:
    """One octave over ``size`` x ``size`` pixels from global pixel (left, top) of ``zoom``: mean 0, deviation under 1.

    Its cells are 2**level pixels of zoom 18 wide. None when they would be smaller than a pixel.
    """
    cell = 2.0 ** (level + zoom - 18)
    if cell < 1:
        return None
    first_column, first_row = int(left // cell) - _SUPPORT, int(top // cell) - _SUPPORT
    count = int(size // cell) + 2 * _SUPPORT + 2
    columns = (first_column + np.arange(count)) % LATTICE
    rows = (first_row + np.arange(count)) % LATTICE
    patch = Image.fromarray(_lattice(seed, level)[np.ix_(rows, columns)])
    x, y = left / cell - first_column, top / cell - first_row
    area = (x, y, x + size / cell, y + size / cell)
    return np.asarray(patch.resize((size, size), Image.Resampling.BICUBIC, box=area), dtype=np.float32)


@lru_cache(maxsize=4)
def _grain(seed: int) -> Float32Array:
    grain = rng(seed, "grain").normal(0, 1, (_GRAIN_PERIOD, _GRAIN_PERIOD, 3))
    grain = 0.75 * grain[..., :1] + 0.65 * grain  # channels of a sensor are partly alike
    repeat = _GRAIN_SPAN // _GRAIN_PERIOD
    return np.tile(grain, (repeat, repeat, 1)).astype(np.float32)


def grain(seed: int, left: int, top: int, size: int) -> Float32Array:
    """Sensor noise (size, size, 3) for the pixels from global pixel (left, top); ``size`` at most 768."""
    x, y = left % _GRAIN_PERIOD, top % _GRAIN_PERIOD
    return _grain(seed)[y : y + size, x : x + size]
