"""The train flow: a pinned version of a store in, a registered model out."""

from typing import TYPE_CHECKING

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.ending import foreseen
from flows.progress import Stages
from tasks.secrets import remember_environment
from tasks.state.workdir import WorkDir
from tasks.versions.read import open_version, parse_reference

if TYPE_CHECKING:
    from training.train import TrainingResult


@flow(name="train")
@foreseen()
def train(store: str, config: str = "unet-dice", set: list[str] | None = None) -> "TrainingResult":
    """Train a model on a version of a dataset and register it.

    store: ``URI`` or ``URI@VERSION`` (the newest by default; the run is pinned to what it is now).
    config: a name in ``training/configs`` or a file. set: ``key=value`` changes to it.
    """
    remember_environment()
    from training.config import load_config
    from training.pictures import predictions_picture
    from training.train import EpochReport
    from training.train import train as fit

    logger = get_run_logger()
    configuration = load_config(config, set or [])
    uri, version = parse_reference(store)
    pinned = open_version(uri, version)
    dataset, folder = f"{uri}@{pinned.version}", WorkDir.of(uri).root
    logger.info("training %s on %s", config, dataset)
    with Stages() as stages, stages.stage("epochs", configuration.stop.max_epochs) as stage:

        def after_epoch(report: EpochReport) -> None:
            logger.info("%s", report)
            stage.advance()

        fit_task = task(name="fit", cache_policy=NO_CACHE)(foreseen()(fit))
        result = fit_task(dataset, configuration, config_name=config, out=folder, progress=after_epoch)
    predictions_picture(dataset, result.checkpoint, folder / "predictions.png")
    lines = [
        f"# {result.model_name} version {result.model_version}" + (" is champion" if result.champion else ""),
        "",
        f"- dataset `{dataset}`, snapshot `{pinned.snapshot}`",
        f"- test Dice {result.dice:.3f}, Jaccard {result.jaccard:.3f} ({result.champion_reason})",
        f"- {result.epochs} epochs, {result.images_per_second:.0f} images/s, {result.seconds:.0f} s",
        f"- pictures of test samples: `{folder / 'predictions.png'}`",
    ]
    create_markdown_artifact(key="train-summary", markdown="\n".join(lines))
    return result
