"""Training configurations: one YAML file for each row of networks and training.

A configuration is read strictly, as recipes are. Each part says by ``name`` what it is, so that another
network or loss is one more class here and one more entry of the union.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from tasks.errors import RecipeError
from tasks.recipe.yaml import StrictModel, is_file, load_strict

SHIPPED = Path(__file__).parent / "configs"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class UNetModel(StrictModel):
    """The U-Net of Ronneberger, Fischer and Brox (2015) with same padding and batch norm after each ReLU."""

    name: Literal["unet"]
    widths: list[Annotated[int, Field(ge=1, le=4096)]]  # channels of each level, from full resolution down

    @field_validator("widths")
    @classmethod
    def _check_widths(cls, value: list[int]) -> list[int]:
        if not 2 <= len(value) <= 8:
            raise ValueError("expected 2 to 8 levels, for example [64, 128, 256, 512]")
        return value


class DiceLoss(StrictModel):
    """The opposite of the soft Dice coefficient."""

    name: Literal["dice"]
    over: Literal["batch", "sample"] = "batch"  # one coefficient of the whole batch, or the mean of one a sample
    smooth: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0  # added above and below the fraction


class Adam(StrictModel):
    """Kingma and Ba (2015), with the usual moments."""

    name: Literal["adam"]
    lr: Positive


class PlateauSchedule(StrictModel):
    """Multiply the learning rate by ``factor`` whenever the validation loss made no progress for long."""

    name: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Annotated[int, Field(ge=1)] = 5  # epochs without progress
    min_delta: Annotated[float, Field(ge=0)] = 1e-4  # less than this is no progress


class Stop(StrictModel):
    """When training ends: after ``patience`` epochs without a lower validation loss, or ``max_epochs``."""

    patience: Annotated[int, Field(ge=1)] = 20
    max_epochs: Annotated[int, Field(ge=1)] = 200


class Augmentation(StrictModel):
    """What happens to every training sample every time, image and mask alike."""

    shift: Share = 0.0  # at most this share of the side, along each axis
    flip: bool = False  # left-right and up-down, each for half of the samples
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # at most that many degrees, either way


class TrainingConfig(StrictModel):
    """Everything that decides a training run but the data."""

    model: UNetModel
    loss: DiceLoss
    optimiser: Adam
    schedule: PlateauSchedule | None = None
    stop: Stop
    augmentation: Augmentation = Augmentation()
    batch: Annotated[int, Field(ge=1, le=65536)] = 32
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"  # auto: bf16 on a GPU, 32 on a CPU
    cache: Literal["auto", "host", "none"] = "auto"  # see training.data.SplitReader
    shuffle_window: Annotated[int, Field(ge=1)] = 1024  # samples that are shuffled among each other

    def hash(self) -> str:
        """SHA-256 of the values, as hex."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the program."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """A shipped configuration by its name, or any YAML file by its path.

    overrides: ``key=value`` pairs as ``--set`` takes them. Raises RecipeError, naming file, line, key and the
    nearest valid name, or listing the configurations that exist.
    """
    return load_strict(find_config(name_or_path), TrainingConfig, overrides)


def find_config(name_or_path: str) -> Path:
    """The file that a name or path means. Raises RecipeError, listing the configurations that exist."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not is_file(path):
            raise RecipeError(f"{path}: no such file; give a training configuration, or one of {_listed()}")
        return path
    if name_or_path not in shipped_configs():
        raise RecipeError(f"--config {name_or_path!r}: no such training configuration; there are {_listed()}")
    return SHIPPED / f"{name_or_path}.yaml"


def _listed() -> str:
    return ", ".join(shipped_configs())
