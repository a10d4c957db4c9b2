"""Where there are buildings, before there are windows: what a sample among buildings is drawn by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.geo.tiles import Tile
from tasks.labels.registry import footprint_source, label_origin
from tasks.recipe.model import Recipe


@dataclass(frozen=True)
class LabelOutlines:
    """The footprints of a recipe's labels. Satisfies :class:`tasks.samples.touched.Outlines`; does no I/O when made."""

    recipe: Recipe
    work: Path  # the folder for downloads of labels

    @property
    def origin(self) -> str:
        """The recipe's words, and the state of local files."""
        return label_origin(self.recipe)

    def near(self, tiles: Sequence[Tile]) -> Iterator[NDArray[np.object_]]:
        """Those of an extract as they are read, those of other sources at once, and cleaned. Raises LabelError."""
        from tasks.labels.pbf import PbfSource  # libosmium, which other sources need not

        source = footprint_source(self.recipe)
        if isinstance(source, PbfSource):
            yield from source.outlines(tiles, self.work)
        else:
            yield source.fetch(tiles, self.work).geometry
