"""One process to fork commands from, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.commands import Tilewright
from tests.support.forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as found:
        yield found


@pytest.fixture(scope="session")
def tilewright(forks: Forks) -> Tilewright:
    """The command line, run to its end."""
    return Tilewright(forks)
