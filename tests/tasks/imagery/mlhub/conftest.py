"""No key of the person who runs the tests, and pauses that tests can wait for."""

import pytest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLHUB_API_KEY", raising=False)
    monkeypatch.setattr("tasks.imagery.mlhub.catalogue.FIRST_PAUSE", 0.01)
