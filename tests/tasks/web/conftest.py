"""The servers of these tests: one that is scripted, and one that does wrong."""

from tests.tasks.labels.conftest import faults, faulty, server

__all__ = ["faults", "faulty", "server"]
