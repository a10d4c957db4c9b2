"""The README's loader, run as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.stores import draw, write_store

ROOT = Path(__file__).resolve().parents[2]


def test_the_readmes_loader_works_with_workers(tmp_path: Path) -> None:
    """It hung for ever where workers were forked from a process that had a store open."""
    write_store(tmp_path / "store", {"train": draw([f"a/{i}" for i in range(5)])})
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "DataLoader" in block]
    told = block.replace("stores/osm-sandbox", str(tmp_path / "store")).replace("batch_size=16", "batch_size=2")
    made, _, loader = told.partition("\nloader = ")
    program = tmp_path / "program.py"
    run = f"loader = {loader.strip()}\nprint(sum(len(masks) for _, masks in loader))"
    guarded = "if __name__ == '__main__':\n" + "\n".join(f"    {line}" for line in run.splitlines())
    program.write_text(f"import torch\nimport tasks.versions.read\n{made}\n{guarded}\n")
    result = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert result.stdout.strip() == "5", result.stderr
