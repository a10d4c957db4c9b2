"""The scripted server of the label sources' tests."""

from tests.tasks.labels.conftest import server

__all__ = ["server"]
