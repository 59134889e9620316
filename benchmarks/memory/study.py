"""How much memory a fit takes, against the number of its observations.

Files of ever more cutouts, one in forty of them of a galaxy, are fitted by processes of their own,
with networks and steps so few that nothing but the data counts: reading, checking, fingerprint,
warm starts, draws, templates, training, checkpoints. ``peak_mib`` is the
largest resident memory of such a process, pages of mapped files among it; ``anonymous_mib`` is the
largest seen, in looks ten times a second, of what is the process's own and no page of a file, which
the system could take back. ``above_mib`` is how much the peak is above that of the process before
it has read anything, and ``checkpoint_mib`` the size of the last checkpoint.

    python -m benchmarks.memory --out benchmarks/results/memory.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset, View
from astro_ddprism.mixing import Identity

from ..record import write_record

FULL = {"cutouts": [10_000, 200_000], "size": 16}
QUICK = FULL | {"cutouts": [2_000, 20_000]}
SOURCES = {"random": ("los",), "galaxy": ("los", "galaxy")}
CONFIGURATION = {
    "method": "diffusion",
    "execution": {"device": "cpu"},
    "progress": False,
    "network": {"name": "unet", "channels": [4], "blocks": [1], "embedding": 8},
    "training": {"n_first_images": 640, "n_images": 640},
    "chains": {"n_steps": 1},
    "warm_start": {"name": "gaussian", "rank": 4, "rank_new": 2, "iterations": 1},
    "n_em_iterations": {"los": 0, "galaxy": 1},
    "posterior": {
        "name": "amortized",
        "network": {"name": "unet", "channels": [4], "blocks": [1], "embedding": 8},
        "n_images": 640,
        "n_steps": 1,
        "templates": ["galaxy"],
        "flux_factors": {"galaxy": [0.2, 4.0]},
    },
}


def make_views(n: int, size: int) -> MultiViewDataset:
    """Faint light everywhere, and a blob in the middle of one cutout in forty."""
    rng, views = np.random.default_rng(0), {}
    y, x = np.mgrid[:size, :size] - size // 2
    blob = np.exp(-(x**2 + y**2) / 2 / 2.0**2).astype(np.float32)
    for name, sources in SOURCES.items():
        own = n // 40 if name == "galaxy" else n - n // 40
        data = rng.standard_normal((own, 1, size, size), np.float32)
        data += rng.normal(0, 1, (own, 1, 1, 1)).astype(np.float32)
        if name == "galaxy":
            data += rng.uniform(10, 100, (own, 1, 1, 1)).astype(np.float32) * blob
        mixing = dict.fromkeys(sources, Identity((1, size, size)))
        views[name] = View(data, variance=np.float32(1), mixing=mixing, name=name)
    return MultiViewDataset(views)


def memory(name="VmHWM") -> float:
    """A line of ``/proc/self/status``, in MiB: by default the largest resident memory so far.

    What ``getrusage`` tells may be that of the process which started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 2**10


class Anonymous(threading.Thread):
    """Looks at the memory that is the process's own, and no page of a file, in MiB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0

    def run(self):
        """Until the process ends."""
        while True:
            self.peak = max(self.peak, memory("RssAnon"))
            time.sleep(0.1)


def fit(path: Path):
    """What the process of a fit does: it prints its memory."""
    torch.set_num_threads(1)
    before, anonymous = memory(), Anonymous()
    anonymous.start()
    dataset = MultiViewDataset.read(path, memmap=True)
    read = memory()
    separator = DiffusionSourceSeparator.from_config(CONFIGURATION)
    checkpoint = path.with_suffix(".checkpoint")
    started = time.process_time()
    separator.fit(dataset, checkpoint=checkpoint)
    told = {"peak_mib": memory(), "anonymous_mib": anonymous.peak}
    told |= {"above_mib": memory() - before, "read_mib": read - before}
    told |= {"checkpoint_mib": checkpoint.stat().st_size / 2**20}
    told |= {"fit_s": time.process_time() - started}
    print(json.dumps(told))


def measure(n: int, size: int, folder: Path) -> dict:
    """Memory of a fit to so many cutouts."""
    path = folder / f"{n}.asdf"
    make_views(n, size).write(path)
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", path, "--out", path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    row = {"cutouts": n, "file_mib": path.stat().st_size / 2**20, **json.loads(done.stdout)}
    path.unlink()
    print(row, flush=True)
    return row


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a small version of the study")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options, started = parser.parse_args(arguments), time.perf_counter()
    if options.worker:
        fit(options.worker)
        return
    configuration = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(n, configuration["size"], Path(folder)) for n in configuration["cutouts"]]
    write_record(
        options.out,
        study="memory",
        configuration={**configuration, "fit": CONFIGURATION},
        figures={
            "rows": rows,
            "ratio": rows[-1]["peak_mib"] / rows[0]["peak_mib"],
            "ratio_anonymous": rows[-1]["anonymous_mib"] / rows[0]["anonymous_mib"],
        },
        device="cpu",
        started=started,
    )
