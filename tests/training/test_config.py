"""Configurations: what is shipped is the paper's, and what is wrong is told."""

from pathlib import Path

import pytest

from tasks.errors import RecipeError
from training.config import load_config, shipped_configs


def test_unet_dice_is_the_papers_row() -> None:
    config = load_config("unet-dice")
    assert config.model.widths == [64, 128, 256, 512]
    assert (config.batch, config.optimiser.lr) == (32, 1e-3)
    assert config.schedule is not None
    assert (config.schedule.factor, config.schedule.patience, config.stop.patience) == (0.5, 5, 20)
    assert config.augmentation.shift > 0
    assert config.augmentation.flip
    assert config.augmentation.rotate > 0


def test_every_shipped_configuration_loads() -> None:
    assert "unet-small" in shipped_configs()
    for name in shipped_configs():
        load_config(name)


def test_overrides_change_values_and_the_hash() -> None:
    changed = load_config("unet-dice", ["batch=64", "optimiser.lr=5e-4"])
    assert (changed.batch, changed.optimiser.lr) == (64, 5e-4)
    assert changed.hash() != load_config("unet-dice").hash()
    assert load_config("unet-dice", ["batch=32"]).hash() == load_config("unet-dice").hash()


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(RecipeError, match=r"'unet-dise'.*there are .*unet-dice.*unet-small"):
        load_config("unet-dise")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: no such file"):
        load_config(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("btach=8", "did you mean 'batch'"),
        ("model.name=segnet", "unknown value 'segnet'"),
        ("model.widths=[64]", "expected 2 to 8 levels"),
        ("batch=0", "greater than or equal to 1"),
        ("optimiser.lr=.inf", "finite number"),
        ("optimiser.lr=0", "greater than 0"),
        ("augmentation.rotate=270", "less than or equal to 180"),
        ("precision=fp8", "unknown value 'fp8'"),
    ],
)
def test_impossible_values_are_refused_with_the_key(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"{override.partition('=')[0]}.*{message}"):
        load_config("unet-dice", [override])


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model: {name: unet, widths: [8, 16]}\nloss: {name: dice, over: sample, smooth: 0}\n"
        "optimiser: {name: adam, lr: 1e-4}\nstop: {max_epochs: 3}\n"
    )
    assert load_config(str(path), ["loss.smooth=0.5"]).loss.smooth == 0.5
    path.write_text(path.read_text().replace("over: sample", "over: image"))
    with pytest.raises(RecipeError, match=rf"{path}:2: loss.over: unknown value 'image'"):
        load_config(str(path))
