"""Training on a pinned dataset version: fit, test, register, and promote when better.

The network, loss and schedule are the configuration's. Validation loss decides the schedule, the stop and which
epoch's weights are kept; the test split is looked at once, with those weights.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping

from tasks.errors import TrainingError
from tasks.versions.read import DatasetVersion, open_version, parse_reference
from tasks.versions.schema import SPLITS, TEST, TRAIN, VALIDATION
from training.config import TrainingConfig
from training.data import ImageDtype, SplitReader, content_digest
from training.inference import check_side, evaluate, load_model
from training.metrics import Scores
from training.model_files import DatasetMetadata, save_model
from training.models import build_model
from training.module import MONITOR, SegmentationModule
from training.registry import FOLDER, Registered, Registry, flat, git_revision, judge

FOREGROUND = "building"


@dataclass(frozen=True)
class EpochReport:
    """What an epoch came to."""

    epoch: int  # from 1
    max_epochs: int
    train_loss: float
    validation_loss: float
    validation: Scores
    lr: float
    seconds: float  # of training and validation

    def __str__(self) -> str:
        """One line for a person."""
        return (
            f"epoch {self.epoch}/{self.max_epochs}  loss {self.train_loss:.4f}  validation loss "
            f"{self.validation_loss:.4f} Dice {self.validation.dice:.4f}  lr {self.lr:.2g}  {self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class TrainingResult:
    """What a training run came to; the command line's ``--json`` is this."""

    model_name: str
    model_version: str
    run_id: str
    tracking_uri: str
    champion: bool
    champion_reason: str
    dice: float  # of the test split, all pixels counted together
    jaccard: float
    dice_mean: float  # mean over the samples of the test split
    jaccard_mean: float
    epochs: int
    best_epoch: int
    seconds: float
    images_per_second: float  # in training steps
    device: str
    dataset: str
    dataset_version: str
    snapshot: str
    checkpoint: str  # the model's folder


Progress = Callable[[EpochReport], None]


def train(
    reference: str,
    config: TrainingConfig,
    *,
    config_name: str = "custom",
    out: Path | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train on ``STORE`` or ``STORE@VERSION`` (the newest by default) and register the model.

    config_name: recorded with the run. out: where to leave the model's folder; without it, only MLflow keeps the
    model. tracking_uri: see :class:`training.registry.Registry`. progress: called after each epoch.
    Raises StoreError when the store or version is not there, TrainingError when configuration and data do not fit
    or the loss is not finite.
    """
    started = time.monotonic()
    version = open_version(*parse_reference(reference))
    device = pick_device(config)
    with ExitStack() as exits:
        metadata = read_metadata(version)
        model = new_model(config, metadata)
        readers = open_readers(version, config, pin=device == "cuda")
        registry = Registry(tracking_uri)
        tags = describe(metadata, config, config_name)
        run_id = exits.enter_context(
            registry.run(
                metadata.dataset, f"{config_name} on {metadata.version}", tags, flat(config.model_dump(mode="json"))
            )
        )
        folder = (out or Path(exits.enter_context(TemporaryDirectory(prefix="tilewright-train-")))) / FOLDER
        epochs = _Epochs(folder, config, metadata, lambda report: _report(registry, run_id, report, progress))
        fit(model, config, metadata, version, readers, device, epochs)

        predictor = load_model(folder, device=device)
        scores = evaluate(predictor, readers[TEST], metadata.foreground)
        registry.log_metrics(run_id, {**scores.as_metrics(TEST), "images_per_second": epochs.images_per_second})
        measured = {f"test_{name}": repr(getattr(scores, name)) for name in ("dice", "jaccard")}
        registered = registry.register(run_id, folder, metadata, {**tags, **measured})

        def measure(present: Registered) -> float:
            with registry.files(present) as files:
                return evaluate(load_model(files, device=device), readers[TEST], metadata.foreground).dice

        verdict = judge(scores.dice, metadata.test_split, registry.champion(metadata.dataset), measure)
        registry.tag(registered, "champion_reason", verdict.reason)
        if verdict.champion:
            registry.promote(registered)
        return TrainingResult(
            model_name=registered.name,
            model_version=registered.version,
            run_id=run_id,
            tracking_uri=registry.uri,
            champion=verdict.champion,
            champion_reason=verdict.reason,
            dice=scores.dice,
            jaccard=scores.jaccard,
            dice_mean=scores.dice_mean,
            jaccard_mean=scores.jaccard_mean,
            epochs=epochs.done,
            best_epoch=epochs.best_epoch,
            seconds=time.monotonic() - started,
            images_per_second=epochs.images_per_second,
            device=device,
            dataset=metadata.dataset,
            dataset_version=metadata.version,
            snapshot=metadata.snapshot,
            checkpoint=str(folder) if out else registered.uri,
        )


def pick_device(config: TrainingConfig) -> str:
    """``cpu`` or ``cuda``. Raises TrainingError when the configuration asks for a GPU and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device: cuda, but PyTorch sees no CUDA GPU; use device: auto or cpu")
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def read_metadata(version: DatasetVersion) -> DatasetMetadata:
    """What a model must know about a version. Raises TrainingError when it cannot be trained on."""
    where, attributes = f"{version.uri}@{version.version}", version.attributes
    for split in SPLITS:
        if len(version.split(split)) == 0:
            raise TrainingError(
                f"{where}: the {split} split is empty; build with more samples, or give splits.{split} a larger share"
            )
    values = {entry["name"]: int(entry["value"]) for entry in attributes["classes"]}
    if FOREGROUND not in values:
        raise TrainingError(
            f"{where}: no class named {FOREGROUND!r} (there are {', '.join(values)}); training tells one class from "
            f"the rest: in the recipe's classes name it {FOREGROUND}, and build"
        )
    bands = [str(band) for band in attributes["bands"]]
    image = version.split(TRAIN).image
    _, stored, height, side = image.shape
    dtype = next((name for name in get_args(ImageDtype) if name == str(image.dtype)), None)
    if dtype is None:
        raise TrainingError(
            f"{where}: images are {image.dtype}, expected one of {', '.join(get_args(ImageDtype))}; "
            "build the version again"
        )
    if stored != len(bands):
        raise TrainingError(
            f"{where}: images have {stored} bands, the version's attributes name {len(bands)} ({', '.join(bands)}); "
            "build the version again"
        )
    return DatasetMetadata(
        dataset=str(attributes["dataset"]),
        version=version.version,
        snapshot=version.snapshot,
        recipe_hash=str(attributes["recipe_hash"]),
        software_version=package_version("tilewright"),
        bands=bands,
        dtype=dtype,
        mean=[float(value) for value in attributes["mean"]],
        std=[float(value) or 1.0 for value in attributes["std"]],  # a band that never changes is only centred
        foreground=values[FOREGROUND],
        ignore_index=version.ignore_index,
        side=int(side),
        height=None if height == side else int(height),
        test_split=content_digest(version.split(TEST), version.ignore_index),
    )


def new_model(config: TrainingConfig, metadata: DatasetMetadata) -> torch.nn.Module:
    """The configured network with weights that the seed decides. Raises TrainingError when the images do not fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config.model, len(metadata.bands))
    check_side(metadata.height or metadata.side, metadata.side, int(getattr(model, "multiple", 1)))
    return model


def open_readers(version: DatasetVersion, config: TrainingConfig, *, pin: bool) -> dict[str, SplitReader]:
    """A reader for each split; only the train split is shuffled."""
    return {
        split: SplitReader(
            version.split(split),
            config.batch,
            shuffle=split == TRAIN,
            seed=config.seed,
            window=config.shuffle_window,
            cache=config.cache,
            pin=pin,
            ignore_index=version.ignore_index,
        )
        for split in SPLITS
    }


def describe(metadata: DatasetMetadata, config: TrainingConfig, config_name: str) -> dict[str, str]:
    """Tags of a run and of the model that comes out of it."""
    return {
        "dataset": metadata.dataset,
        "dataset_version": metadata.version,
        "snapshot": metadata.snapshot,
        "recipe_hash": metadata.recipe_hash,
        "test_split": metadata.test_split,
        "config": config_name,
        "config_hash": config.hash(),
        "software_version": metadata.software_version,
        "git_revision": git_revision() or "unknown",
    }


def fit(
    model: torch.nn.Module,
    config: TrainingConfig,
    metadata: DatasetMetadata,
    version: DatasetVersion,
    readers: dict[str, SplitReader],
    device: str,
    epochs: "_Epochs",
) -> None:
    """Run the epochs; ``epochs`` keeps the best weights. Raises TrainingError."""
    ids = {split: version.split(split).sample_id for split in (TRAIN, VALIDATION)}
    module = SegmentationModule(model, config, metadata, ids)
    stop = EarlyStopping(MONITOR, patience=config.stop.patience, min_delta=0.0, check_finite=False)
    with _quiet():
        trainer = pl.Trainer(
            accelerator=device,
            devices=1,
            precision=_precision(config, device),
            max_epochs=config.stop.max_epochs,
            callbacks=[epochs, stop],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=epochs.folder.parent,
        )
        try:
            trainer.fit(module, readers[TRAIN], readers[VALIDATION])
        except torch.cuda.OutOfMemoryError:
            raise TrainingError(
                f"out of GPU memory with batch {config.batch}; try --set batch={max(1, config.batch // 2)}"
            ) from None


class _Epochs(pl.Callback):
    """Keeps the weights of the best epoch in the model's folder, measures time, and reports."""

    def __init__(self, folder: Path, config: TrainingConfig, metadata: DatasetMetadata, report: Progress) -> None:
        self.folder, self.done, self.best_epoch = folder, 0, 0
        self._config, self._metadata, self._report = config, metadata, report
        self._best = float("inf")
        self._images, self._seconds = 0, 0.0

    @property
    def images_per_second(self) -> float:
        """Of all training steps together, validation and writing left out."""
        return self._images / self._seconds if self._seconds else 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(self, _trainer: Any, _module: Any, _outputs: Any, batch: Any, *_: Any) -> None:
        self._images += len(batch.rows)

    def on_validation_start(self, *_: Any) -> None:
        self._seconds += time.monotonic() - self._started

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not isinstance(module, SegmentationModule) or module.validation_scores is None:
            raise TrainingError("no validation before the end of an epoch; training cannot go on")
        self.done += 1
        loss = float(trainer.callback_metrics[MONITOR])
        if loss < self._best:
            self._best, self.best_epoch = loss, self.done
            save_model(self.folder, module.model, self._config, self._metadata)
        self._report(
            EpochReport(
                epoch=self.done,
                max_epochs=self._config.stop.max_epochs,
                train_loss=float(trainer.callback_metrics["train_loss"]),
                validation_loss=loss,
                validation=module.validation_scores,
                lr=float(trainer.optimizers[0].param_groups[0]["lr"]),
                seconds=time.monotonic() - self._started,
            )
        )


def _report(registry: Registry, run_id: str, report: EpochReport, progress: Progress | None) -> None:
    registry.log_metrics(
        run_id,
        {
            "train_loss": report.train_loss,
            "validation_loss": report.validation_loss,
            **report.validation.as_metrics(VALIDATION),
            "lr": report.lr,
        },
        step=report.epoch,
    )
    if progress is not None:
        progress(report)


def _precision(config: TrainingConfig, device: str) -> Any:
    if config.precision == "bf16" or (config.precision == "auto" and device == "cuda"):
        return "bf16-mixed"
    return "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's tips and hints; its errors still come."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning(\.|$)|pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)
