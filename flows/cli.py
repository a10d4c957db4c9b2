"""The command line. Every expected error is one message on stderr and an exit code, never a traceback."""

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.ending import Signals, told
from flows.warned import show_warnings
from tasks.errors import DeploymentError, TilewrightError
from tasks.secrets import guard_logs, redact, remember_environment

app = typer.Typer(
    help="Versioned segmentation datasets from a place, imagery and labels; and models trained on them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
errors = Console(stderr=True, highlight=False)

_INTERRUPTED = 130  # what typer returns for a KeyboardInterrupt

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
StoreOption = Annotated[str | None, typer.Option("--store", metavar="URI", help="Default: stores/<recipe name>.")]


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    guard_logs()
    remember_environment()
    show_warnings(errors)
    with Signals("nothing is lost, run the same command again to go on") as signals:
        try:
            left = app(standalone_mode=False)
        except (KeyboardInterrupt, typer.Abort):
            signals.leave()
        except TilewrightError as error:
            _fail(str(error), error.exit_code)
        except MemoryError:
            _fail("the memory is full; take a smaller area or smaller windows, or a machine with more memory", 1)
        except Exception as error:  # noqa: BLE001 - the last handler
            if hasattr(error, "format_message"):  # of the command line itself, in whichever of typer's classes
                _fail(error.format_message(), getattr(error, "exit_code", 2))
            failure = told(error)
            _fail(str(failure), failure.exit_code)
        if left == _INTERRUPTED:
            signals.leave()
    sys.exit(left if isinstance(left, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    errors.print(Text.assemble(("error:", "bold red"), " ", redact(message)), soft_wrap=True)
    sys.exit(code)


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name in ./datasets.")],
    store: StoreOption = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Build the next version of a dataset, in this process."""
    from flows.jobs import job_of

    job_of(recipe, store, set_ or [])  # a bad recipe or store is told before Prefect starts and keeps its parameters
    summary = _in_process("build", recipe=recipe, store=store, set=set_)
    state = "new version" if summary.new else "unchanged, still"
    values = {**dataclasses.asdict(summary), "kept": summary.accepted}  # also under the name that programs know
    _tell(as_json, values, f"{state} {summary.version} ({summary.snapshot})", summary.rows())


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name in ./datasets.")],
    store: StoreOption = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Show the funnel and what the imagery would cost; asks for labels, never for imagery."""
    from flows.plan import plan_build

    outcome = plan_build(recipe, store, set_ or [])
    _tell(as_json, outcome.as_dict(), outcome.title, outcome.rows())


@app.command()
def versions(store: Annotated[str, typer.Argument(help="A store.")], as_json: Json = False) -> None:
    """List the versions of a store."""
    from tasks.versions.read import versions as list_versions

    found = list_versions(store)
    if as_json:
        listed = [{**dataclasses.asdict(info), "written_at": info.written_at.isoformat()} for info in found]
        typer.echo(json.dumps({"store": store, "versions": listed}))
        return
    if not found:
        typer.echo(f"{store}: no version yet; a build that ends makes the first")
        return
    table = Table("version", "snapshot", "written", "train", "validation", "test", "software")
    for info in found:
        meta = info.metadata
        counts = [f"{int(meta.get(split, 0)):,}" for split in ("train", "validation", "test")]
        written = f"{info.written_at:%Y-%m-%d %H:%M} UTC"
        table.add_row(info.version, info.snapshot, written, *counts, str(meta.get("software_version", "")))
    Console().print(table)


class ExportFormat(StrEnum):
    """What ``export`` writes."""

    PNG = "png"
    GEOTIFF = "geotiff"


@app.command()
def export(
    reference: Annotated[str, typer.Argument(metavar="STORE[@VERSION]", help="A store, and the version to take.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is empty or does not exist.")],
    format_: Annotated[
        ExportFormat, typer.Option("--format", help="Pictures and masks, or GeoTIFFs with their georeference.")
    ] = ExportFormat.PNG,
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="SPLIT", help="train, validation or test; may be repeated. Default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a version's samples as files."""
    from rich.progress import Progress

    from tasks.versions.read import open_version, parse_reference
    from tasks.versions.schema import SPLITS
    from tasks.views.export import export_version

    version = open_version(*parse_reference(reference))
    with Progress(console=errors, disable=not errors.is_terminal, transient=True) as bars:
        bar = bars.add_task("export")
        summary = export_version(
            version,
            out,
            format_.value,
            split or SPLITS,
            lambda done, total: bars.update(bar, completed=done, total=total),
        )
    samples = ", ".join(f"{name} {count:,}" for name, count in summary.splits.items())
    rows = [("samples", samples), ("files", f"{summary.files:,}")]
    if format_ is ExportFormat.GEOTIFF:
        rows.append(("georeferenced", f"{summary.georeferenced:,}"))
    _tell(as_json, dataclasses.asdict(summary), f"{summary.version} exported to {summary.out}", rows)


@app.command()
def train(
    reference: Annotated[str, typer.Argument(metavar="STORE[@VERSION]", help="A store, and the version to pin.")],
    config: Annotated[
        str, typer.Option("--config", metavar="NAME|FILE", help="A training configuration.")
    ] = "unet-dice",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Train a model on a version and register it, in this process."""
    from tasks.state.workdir import WorkDir
    from tasks.versions.read import parse_reference

    WorkDir.of(parse_reference(reference)[0])  # a bad store is told before Prefect starts and keeps its parameters
    result = _in_process("train", store=reference, config=config, set=set_)
    values = dataclasses.asdict(result)
    rows = [
        (name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
        for name, value in values.items()
    ]
    _tell(as_json, values, f"{result.model_name} version {result.model_version}", rows)


@app.command()
def run(
    deployment: Annotated[str, typer.Argument(help="A deployment's name, with or without its flow.")],
    watch: Annotated[bool, typer.Option(help="Wait for the run to end.")] = True,
) -> None:
    """Start a deployment on the Prefect server, as ``prefect deployment run`` does."""
    from flows.remote import run_deployment_by_name

    run_deployment_by_name(deployment, watch=watch)


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to bind.")] = 8787,
    seed: Annotated[int, typer.Option(help="Another seed is another synthetic region.")] = 0,
    faults: Annotated[str | None, typer.Option(help="Inject a fault mix, for example 'peers'.")] = None,
    latency: Annotated[float, typer.Option(min=0, max=3600, help="Seconds each answer waits.")] = 0.0,
    files: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write made-up scenes and chips as published into DIR, and serve nothing."),
    ] = None,
) -> None:
    """Serve a synthetic region over the sources' own protocols, for trying things without a token."""
    if files is not None:
        from infra.sandbox.files.originals import write_all

        for folder in write_all(files, seed):
            typer.echo(folder)
        return
    from infra.sandbox.services.server import serve

    serve(host, port, seed=seed, faults=faults, latency=latency)


def _tell(as_json: bool, values: dict[str, Any], title: str, rows: Sequence[tuple[str, str]]) -> None:
    """The end of a command: a JSON object for programs, or a table for people."""
    if as_json:
        typer.echo(json.dumps(values, default=str))
        return
    table = Table(title=title, show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _in_process(flow: str, **parameters: Any) -> Any:
    """Run the flow of that name here: Prefect's own log kept off the screen, its server started if none is named.

    Prefect logs every exception with a traceback before it raises it; ours are told once, by ``main``.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    if sys.stderr.isatty() and not os.environ.get("PREFECT_API_URL"):
        errors.print("[dim]starting a Prefect server for this run, if none is configured (about ten seconds)[/]")
    from flows.server import prefect_api

    try:
        with prefect_api():
            return getattr(importlib.import_module(f"flows.{flow}"), flow)(**parameters)
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        raise DeploymentError(
            f"{str(error).splitlines()[0]}; start that Prefect server, or unset PREFECT_API_URL (and choose a Prefect "
            "profile without one) to have the run start a server of its own"
        ) from None


if __name__ == "__main__":
    main()
