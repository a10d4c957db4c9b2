"""What Prefect costs: the same build through the flow and through the bare steps, taking turns.

    python -m benchmarks.orchestration [--runs 3] [--shards 8] [--json]

Shards of 512 tiles from a local server, a standing Prefect server with a SQLite database, both on the same
cores. The share is of the wall time between the start of the first task and the end of the last. What Prefect takes
around that, whatever the size of the build (engine, state, artifacts), is shown apart; ``by itself`` is a flow run
as ``tilewright build`` runs it when no server is named, which starts one for the time of the run.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.fetch import tile_server
from benchmarks.region import chequered, write_recipe
from benchmarks.timed import BuildTime, environment, prefect_server, time_build

SHARD_TILES = 512


def measure(runs: int, shards: int) -> dict[str, list[BuildTime]]:
    """Times of the builds by kind."""
    times: dict[str, list[BuildTime]] = {"bare": [], "flow": [], "flow by itself": []}
    with tempfile.TemporaryDirectory() as name, tile_server(0.0) as url:
        folder = Path(name)
        recipe = write_recipe(folder, url, chequered(shards))
        with prefect_server(folder) as env:
            for turn in range(runs):
                for how in ("bare", "flow") if turn % 2 == 0 else ("flow", "bare"):
                    times[how].append(time_build(how, recipe, env))
        (folder / "alone").mkdir()
        alone = environment(folder / "alone", PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120")
        times["flow by itself"].append(time_build("flow", recipe, alone))
    for builds in times.values():
        for build in builds:
            if (build.accepted, build.shards) != (shards * SHARD_TILES, shards):
                raise SystemExit(f"{build.accepted} tiles in {build.shards} shards; expected {shards} of {SHARD_TILES}")
    return times


def share(times: dict[str, list[BuildTime]]) -> float:
    """(flow - bare) / flow between the first and the last task, of the medians; below 0 when noise is larger."""
    bare, flow = (statistics.median(build.steps for build in times[how]) for how in ("bare", "flow"))
    return (flow - bare) / flow


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    times = measure(arguments.runs, arguments.shards)
    found = machine.versions("prefect")
    if arguments.json:
        builds = {how: [vars(build) for build in builds] for how, builds in times.items()}
        print(json.dumps({"machine": machine.machine(), "versions": found, "share": share(times), **builds}))
        return
    print(f"{arguments.shards} shards of {SHARD_TILES} tiles, 256 px")
    print(f"{machine.described(found)}; median of {arguments.runs} builds (least-most)\n")
    head = ["", "seconds, first to last task", "seconds around them"]
    rows = [
        [
            how,
            machine.spread([build.steps for build in builds], 2),
            machine.spread([build.around for build in builds], 2),
        ]
        for how, builds in times.items()
    ]
    print(machine.table(head, rows))
    print(f"\nPrefect's share between the first and the last task: {share(times):.1%}")


if __name__ == "__main__":
    main()
