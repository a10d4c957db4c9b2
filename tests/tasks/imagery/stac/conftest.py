"""Attempts follow each other at once."""

from collections.abc import Iterator

import pytest

from tests.support.stac_server import ScriptedApi


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.imagery.stac.reader.FIRST_PAUSE", 0.01)


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with ScriptedApi() as running:
        yield running
