"""A case, and a kind of cases: how they are made, what takes them, and what may be said of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.server import Here


@dataclass(frozen=True)
class Case:
    """The files of a case, by path in its folder, and the words that go with them."""

    files: dict[str, bytes]
    words: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """One kind of input. ``door`` is given a folder with the case's files and feeds them to the program."""

    make: Callable[[Random], Case]
    door: Callable[[Path, Case, Here], None]
    names: Sequence[str]  # one of which stands in every message
    share: int  # of 100 cases
    also: tuple[type[Exception], ...] = ()  # raised by the door's own contract besides TilewrightError
    grows: int = 512  # MiB that one case may make memory grow by
