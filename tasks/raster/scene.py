"""A catalogue of scenes: what a folder of GeoTIFFs or an MLHub collection comes down to.

A scene (or chip) has one image or more, each taken at a time, and perhaps a label raster. Where its files come from
is hidden in :class:`Asset`, so that windows over a folder and over a download are read by the same code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

IMAGE = "image"  # key of an asset that holds all bands in one file


class Asset(Protocol):
    """A raster file that is on this machine, or can be fetched to it."""

    @property
    def name(self) -> str:
        """Path or URL for messages, tokens removed."""

    def path(self) -> Path:
        """The file, fetched when it is not here yet. Raises WindowReadError, SourceError, CredentialError."""


@dataclass(frozen=True)
class LocalAsset:
    """A file that is here."""

    file: Path

    @property
    def name(self) -> str:
        return "".join(one if one.isprintable() else "?" for one in str(self.file))

    def path(self) -> Path:
        return self.file


@dataclass(frozen=True)
class SceneItem:
    """A scene at one time."""

    id: str
    assets: Mapping[str, Asset]  # by band or layer ("B02", "SCL", "CLD", "cloudmask"), or IMAGE for one file of all
    acquired_at: int | None = None  # Unix seconds, UTC


@dataclass(frozen=True)
class Scene:
    """One scene or chip; its items have one pixel grid, which its labels share unless they are to be aligned."""

    name: str
    group: str
    items: tuple[SceneItem, ...] = ()
    labels: Asset | None = None
    size: tuple[int, int] | None = None  # width and height of its images, told where labels are to be aligned to them
