"""One small store for the session, and one thread: tiny tensors lose more by sharing than they gain."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tasks.versions.read import DatasetVersion
from tests.training.samples import make_store
from training.config import TrainingConfig, load_config


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory) -> DatasetVersion:
    """24 + 8 + 8 samples of 32 px."""
    return make_store(tmp_path_factory.mktemp("store") / "town")


@pytest.fixture
def tiny() -> TrainingConfig:
    """Two epochs of a network of three narrow levels."""
    return load_config("unet-small", ["model.widths=[4,8,8]", "stop.max_epochs=2", "batch=8", "device=cpu"])


@pytest.fixture
def tracking(tmp_path: Path) -> str:
    """A tracking URI of the test's own."""
    return f"sqlite:///{tmp_path}/ml/mlflow.db"
