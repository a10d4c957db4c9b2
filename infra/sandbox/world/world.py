"""The synthetic region for a seed: landscape, houses, ground and trees, with an index for drawing."""

from dataclasses import dataclass
from functools import lru_cache

from infra.sandbox.world.houses import House
from infra.sandbox.world.landscape import Landscape, build_landscape
from infra.sandbox.world.region import ABSENT_TILES_Z18, REGION_BOUNDS
from infra.sandbox.world.scenery import Patch, Trees, build_ground, build_trees
from infra.sandbox.world.settlement import build_settlement

__all__ = ["ABSENT_TILES_Z18", "REGION_BOUNDS", "World", "build_world"]


@dataclass(frozen=True)
class World:
    """Everything in the region. Lengths in local metres (see ``infra.sandbox.world.region``)."""

    seed: int
    landscape: Landscape
    houses: list[House]
    ground: list[Patch]
    trees: Trees


@lru_cache(maxsize=4)
def build_world(seed: int = 0) -> World:
    """The region for a seed; the same seed gives the same region. Takes about 2 s."""
    landscape = build_landscape(seed)
    houses = build_settlement(seed, landscape)
    return World(seed, landscape, houses, build_ground(seed, landscape, houses), build_trees(seed, landscape, houses))
