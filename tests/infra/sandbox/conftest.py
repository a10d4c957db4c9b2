"""One running sandbox for all tests of this folder that ask nothing special of it."""

from collections.abc import Iterator

import pytest

from infra.sandbox.services.server import Running, running


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Running]:
    with running() as server:
        yield server
