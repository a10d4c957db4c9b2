"""``python -m tests.fuzz``: see ``--help``. The folder with the repository is the current one."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.kinds import KINDS
from tests.fuzz.run import again, run, shares, summary


def main() -> int:
    """Run cases, or one again."""
    parser = argparse.ArgumentParser("python -m tests.fuzz")
    cases, seed = (
        int(os.environ.get(f"TILEWRIGHT_FUZZ_{name}") or usual) for name, usual in (("CASES", 2000), ("SEED", 1))
    )
    parser.add_argument("--cases", type=int, default=cases, help="of all kinds together (TILEWRIGHT_FUZZ_CASES)")
    parser.add_argument("--seed", type=int, default=seed, help="another one draws other cases (TILEWRIGHT_FUZZ_SEED)")
    parser.add_argument(
        "--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), metavar="KIND", help=", ".join(KINDS)
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--failed", type=Path, default=Path("build/fuzz"), help="folder for what failing cases are made of"
    )
    parser.add_argument("--json", type=Path, help="write the outcomes there")
    parser.add_argument("--again", metavar="KIND:SEED:NUMBER", help="run one case in this process")
    given = parser.parse_args()
    if given.again:
        wrong, told = again(given.again)
        sys.stdout.write(f"said: {told or 'nothing'}\nwrong: {wrong or 'nothing'}\n")
        return bool(wrong)
    began = time.monotonic()
    outcomes = run(shares(given.cases, given.kinds), given.seed, given.jobs, given.failed.resolve())
    if given.json:
        given.json.write_text(json.dumps({name: asdict(one) for name, one in outcomes.items()}))
    failures = [failure for one in outcomes.values() for failure in one.failures]
    lines = [*failures, summary(outcomes), f"{time.monotonic() - began:.0f} s, seed {given.seed}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
