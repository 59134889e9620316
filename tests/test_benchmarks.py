"""Studies run as they are documented, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_overhead(tmp_path):
    out = tmp_path / "overhead.json"
    command = [sys.executable, "-W", "error", "-m", "benchmarks.overhead", "--quick", "--out", out]
    subprocess.run(
        [*command, "--device", "cpu"], cwd=ROOT, check=True, timeout=120, capture_output=True
    )
    record = json.loads(out.read_text())
    assert record["study"] == "overhead"
    assert set(record) >= {"configuration", "device", "versions", "wall_time_s"}
    rows = record["figures"]["rows"]
    assert [(row["n_sources"], row["iterations"]) for row in rows[::2]] == [
        (1, 1), (1, 2), (2, 1), (2, 2)
    ]  # fmt: skip
    assert record["figures"]["largest_ratio"] == max(row["ratio"] for row in rows)
    # The target is 1.3; a machine that others use too gets some leave here.
    assert record["figures"]["largest_ratio_of_minima"] < 1.6
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
