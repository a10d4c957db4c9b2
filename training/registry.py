"""Runs and models in MLflow: what is recorded, and when a model becomes champion.

A registered model is named for its dataset. Its files are those of :mod:`training.model_files`, wrapped so
that ``mlflow.pyfunc.load_model("models:/NAME@champion")`` gives a :class:`training.inference.Predictor`. The
default is a SQLite file in the current folder with the artifacts beside it; ``MLFLOW_TRACKING_URI`` changes that.
"""

import logging
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.errors import RecipeError, TrainingError
from tasks.secrets import redact
from training.model_files import DatasetMetadata

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
CHAMPION = "champion"
FOLDER = "model"  # name of a model's folder, which MLflow keeps
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Registered:
    """A registered model version."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def uri(self) -> str:
        """As MLflow names it."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class Verdict:
    """Whether a new model becomes champion, and why."""

    champion: bool
    reason: str


class Registry:
    """One MLflow server or database. Touches no global state of MLflow."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        """tracking_uri: by default ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db`` in the current folder."""
        self.uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI
        with self._calls():
            from mlflow import MlflowClient

            _quiet()
            if self._database is not None:
                self._database.parent.mkdir(parents=True, exist_ok=True)
            self._client = MlflowClient(self.uri)

    @contextmanager
    def run(self, dataset: str, name: str, tags: Mapping[str, str], parameters: Mapping[str, str]) -> Iterator[str]:
        """A run in the experiment named for the dataset; gives its id, and ends as finished or failed."""
        with self._calls():
            from mlflow.entities import Param

            experiment = self._client.get_experiment_by_name(dataset)
            experiment_id = (
                experiment.experiment_id
                if experiment
                else self._client.create_experiment(dataset, artifact_location=self._artifacts)
            )
            run_id = str(self._client.create_run(experiment_id, tags=dict(tags), run_name=name).info.run_id)
            self._client.log_batch(run_id, params=[Param(name, value) for name, value in parameters.items()])
        try:
            yield run_id
        except BaseException:
            with self._calls():
                self._client.set_terminated(run_id, "FAILED")
            raise
        with self._calls():
            self._client.set_terminated(run_id, "FINISHED")

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Record values of an epoch, or of the whole run as step 0."""
        now = int(time.time() * 1000)
        with self._calls():
            from mlflow.entities import Metric

            self._client.log_batch(run_id, [Metric(name, value, now, step) for name, value in values.items()])

    def register(self, run_id: str, folder: Path, metadata: DatasetMetadata, tags: Mapping[str, str]) -> Registered:
        """Store a model folder (named ``FOLDER``) with its run; register it as the next version of the model."""
        with self._calls(), tempfile.TemporaryDirectory() as scratch:
            import mlflow.pyfunc
            from mlflow.models import ModelSignature
            from mlflow.types import Schema, TensorSpec

            shape = (-1, len(metadata.bands), -1, -1)
            signature = ModelSignature(
                inputs=Schema([TensorSpec(np.dtype(metadata.dtype), shape)]),
                outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1, -1))]),
            )
            packed = Path(scratch) / "model"
            mlflow.pyfunc.save_model(
                packed,
                loader_module="training.inference",
                data_path=str(folder),
                signature=signature,
                pip_requirements=[f"tilewright[train]=={metadata.software_version}"],
            )
            self._client.log_artifacts(run_id, str(packed), "model")
            if not self._client.search_registered_models(f"name = '{metadata.dataset}'"):
                self._client.create_registered_model(metadata.dataset)
            source = f"{self._client.get_run(run_id).info.artifact_uri}/model"
            made = self._client.create_model_version(
                metadata.dataset, source, run_id, tags=dict(tags), await_creation_for=0
            )
        return Registered(metadata.dataset, str(made.version), run_id, dict(tags))

    def champion(self, name: str) -> Registered | None:
        """The present champion of a dataset, None when there is none."""
        with self._calls():
            for model in self._client.search_registered_models(f"name = '{name}'"):
                if CHAMPION in model.aliases:
                    found = self._client.get_model_version_by_alias(name, CHAMPION)
                    return Registered(name, str(found.version), str(found.run_id), dict(found.tags))
        return None

    def promote(self, model: Registered) -> None:
        """Make a model the champion of its dataset."""
        with self._calls():
            self._client.set_registered_model_alias(model.name, CHAMPION, model.version)

    def tag(self, model: Registered, name: str, value: str) -> None:
        """Add a tag to a model version."""
        with self._calls():
            self._client.set_model_version_tag(model.name, model.version, name, value)

    @contextmanager
    def files(self, model: Registered) -> Iterator[Path]:
        """The model's folder, as :func:`training.inference.load_model` reads it, while the context lasts."""
        with tempfile.TemporaryDirectory() as scratch:
            with self._calls():
                packed = Path(self._client.download_artifacts(model.run_id, "model", scratch))
            yield packed / "data" / FOLDER

    @property
    def _database(self) -> Path | None:
        return Path(self.uri.removeprefix(_SQLITE)).absolute() if self.uri.startswith(_SQLITE) else None

    @property
    def _artifacts(self) -> str | None:
        """Where artifacts go: beside a SQLite file; where the server says, otherwise."""
        return (self._database.parent / "mlruns").as_uri() if self._database else None

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """Around every use of MLflow: its errors become ours, and its warnings, about itself, are not shown."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow.exceptions import MlflowException

            try:
                yield
            except (MlflowException, OSError) as error:
                text = redact(str(error).strip().partition("\n")[0])
                raise TrainingError(
                    f"{redact(self.uri)}: MLflow failed ({text}); check MLFLOW_TRACKING_URI, or unset it to use "
                    f"{DEFAULT_TRACKING_URI} here"
                ) from None


def judge(dice: float, test_split: str, present: Registered | None, measure: Callable[[Registered], float]) -> Verdict:
    """Whether a model with this test Dice becomes champion; it must beat the present one on the same test split.

    test_split: digest of the test split that ``dice`` is from. measure: Dice of the present champion on that
    test split; asked only when none is recorded for it. Raises nothing of its own: a champion that
    cannot be measured there stays, and the reason says so.
    """
    if present is None:
        return Verdict(True, "first model of this dataset")
    if present.tags.get("test_split") == test_split and "test_dice" in present.tags:
        theirs, how = float(present.tags["test_dice"]), "on the same test split"
    else:
        try:
            theirs, how = measure(present), "measured on this version's test split"
        except (TrainingError, RecipeError) as error:
            return Verdict(
                False,
                f"the champion, version {present.version}, has no test Dice on this test split and cannot be run on "
                f"it ({error}); move the alias by hand if this model is to replace it",
            )
    better = dice > theirs
    comparison = f"test Dice {dice:.4f} against {theirs:.4f} of version {present.version}, {how}"
    return Verdict(better, f"{'better' if better else 'not better'}: {comparison}")


def git_revision() -> str | None:
    """The commit of the checkout this program runs from, None outside of one."""
    here = Path(__file__)
    for arguments in (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"]):
        try:
            answer = subprocess.run(["git", *arguments], cwd=here.parent, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if answer.returncode:
            return None
    return answer.stdout.strip()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as MLflow parameters: ``optimiser.lr`` and the like."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found


def _quiet() -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
