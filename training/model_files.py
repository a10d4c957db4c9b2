"""A trained model on disk: a folder of three plain files, no pickle.

``weights.safetensors`` the network's parameters and buffers, ``config.yaml`` the training configuration,
``data.json`` what it was trained on (:class:`DatasetMetadata`).
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tasks.errors import TrainingError
from tasks.recipe.yaml import StrictModel, load_strict
from training.config import TrainingConfig
from training.data import ImageDtype
from training.models import build_model

WEIGHTS, CONFIG, DATA = "weights.safetensors", "config.yaml", "data.json"


class DatasetMetadata(StrictModel):
    """What a model was trained on, and what it must know about its input."""

    dataset: str
    version: str
    snapshot: str
    recipe_hash: str
    software_version: str
    bands: list[str]
    dtype: ImageDtype = "uint8"  # of the images; files from before there was another do not say
    mean: list[float]  # of each band over the train split, on the images' scale
    std: list[float]
    foreground: int  # the mask's value for building
    ignore_index: int | None = None  # the mask's value for pixels without a usable label, where there is one
    side: int  # pixels from the left to the right of a sample
    height: int | None = None  # pixels from its top to its bottom, when these are not as many
    test_split: str  # SHA-256 of the contents of the test split

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.bands) == len(self.mean) == len(self.std) or not self.bands:
            raise ValueError(
                f"{len(self.bands)} bands, {len(self.mean)} of mean and {len(self.std)} of std; expected one of each"
            )
        if not all(map(math.isfinite, self.mean)) or not all(0 < one < math.inf for one in self.std):
            raise ValueError("expected finite numbers as mean, and as std such above 0")
        return self

    @model_validator(mode="before")
    @classmethod
    def _take_former_name(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "ignore" in data:
            return {"ignore_index" if key == "ignore" else key: value for key, value in data.items()}
        return data


def save_model(folder: Path, model: nn.Module, config: TrainingConfig, metadata: DatasetMetadata) -> None:
    """Write the three files, the weights last and at once, so that a killed run leaves a whole model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    (folder / DATA).write_text(json.dumps(metadata.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    temporary = folder / f"{WEIGHTS}.tmp"
    save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, temporary)
    temporary.replace(folder / WEIGHTS)


def load_files(folder: Path) -> tuple[nn.Module, TrainingConfig, DatasetMetadata]:
    """The network with its weights, its configuration and its data, from a folder of :func:`save_model`.

    Raises TrainingError, or RecipeError for the configuration, when a file is missing, damaged or of another network.
    """
    config = load_strict(folder / CONFIG, TrainingConfig)
    try:
        metadata = DatasetMetadata.model_validate_json((folder / DATA).read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(f"{folder / DATA}: not a model's data file ({_first_line(error)}); train again") from None
    model = build_model(config.model, len(metadata.bands))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"{folder / WEIGHTS}: damaged, or the weights of another network than {CONFIG} says "
            f"({_first_line(error)}); train again"
        ) from None
    return model, config, metadata


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, "))))
    return str(error).strip().partition("\n")[0]
