"""The train flow: a pinned version of a store in, a registered model out."""

from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

if TYPE_CHECKING:
    from training.train import TrainingResult


@flow(name="train")
def train(store: str, config: str = "unet-dice", set: list[str] | None = None) -> "TrainingResult":
    """Train a model on a version of a dataset and register it.

    store: ``URI`` or ``URI@VERSION`` (the newest by default; the run is pinned to what it is now).
    config: a name in ``training/configs`` or a file. set: ``key=value`` changes to it.
    """
    from tasks.store import open_version, parse_reference
    from training.config import load_config
    from training.train import train as fit

    logger = get_run_logger()
    configuration = load_config(config, set or [])
    uri, version = parse_reference(store)
    pinned = open_version(uri, version)
    logger.info("training %s on %s@%s", config, uri, pinned.version)
    result = task(name="fit", cache_policy=NO_CACHE)(fit)(f"{uri}@{pinned.version}", configuration)
    create_markdown_artifact(
        key="train-summary",
        markdown="\n".join(
            [
                f"# {result.model_name} version {result.model_version}" + (" is champion" if result.champion else ""),
                "",
                f"- dataset `{uri}@{pinned.version}`, snapshot `{pinned.snapshot}`",
                f"- test Dice {result.dice:.3f}, Jaccard {result.jaccard:.3f}",
                f"- {result.epochs} epochs, {result.images_per_second:.0f} images/s, {result.seconds:.0f} s",
            ]
        ),
    )
    return result
