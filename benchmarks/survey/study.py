"""A survey of tiles that overlap: what it costs, and whether it holds.

A simulated field is cut into tiles that overlap. *Whether it holds* is seen with Gaussian priors,
which cost next to nothing: the tiles are separated by one process and by workers of Dask; a square
of them by one worker, and by workers one of which is killed in the middle, while the whole run is
killed and started again at random moments. All catalogs must agree, row by row, and no two rows be
one object. What processes need of memory is watched from the first tile to the last.

*What it costs* is measured with the model that comes with the package: seconds of one core, by
step, on one tile, with few samples and with more, with few objects and with more. Prices of a
square degree are these seconds for each pixel, object and sample, times the pixels and the galaxies
of the survey.

    python -m benchmarks.survey --out benchmarks/results/survey.json --docs docs

With ``--work FOLDER`` tiles and finished runs are kept there, and a study that was ended goes on
behind them. On a machine with a GPU ``--device cuda`` measures the costs there.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ..record import write_record
from .pictures import draw
from .processes import Session
from .tiles import (
    DETECTION,
    PSF_FWHM,
    catalog_of,
    galaxies_of,
    make_tiles,
    n_missing,
    n_twice,
    same,
)

FULL = {
    "across": 8, "side": 1024, "overlap": 128, "density": 3.0, "seed": 0, "samples": 2,
    # Galaxies that must not be missing: signal to noise (of all: 10), and pixels from the edges.
    "clear": [15, 18],
    # Side of the square of tiles in which runs are killed, and which one worker does.
    "small": 4, "kills": 5, "workers": 2, "first": 8,
    "model": "kids-r", "costs": [[2, 10], [16, 10], [2, 40]],  # samples, least signal to noise
}  # fmt: skip
QUICK = FULL | {"across": 2, "side": 256, "overlap": 48, "small": 2, "kills": 1, "first": 2,
                "costs": [[1, 10], [2, 10]]}  # fmt: skip
# Galaxies in a square arcminute, and side of a pixel in arcseconds.
SURVEYS = {
    "LSST, i < 25.3": (55.0, 0.2),
    "HSC Wide, i < 24.5": (24.6, 0.168),
    "Euclid Wide, I < 24.5": (30.0, 0.1),
}
STEPS = ("reading", "detection", "cutting out", "sampling", "photometry", "writing")


def program(tiles, model, folder, *, detection=DETECTION, **options) -> list[str]:
    """The command that separates tiles in processes of its own."""
    arguments = {
        "tiles": list(map(str, tiles)), "model": str(model), "folder": str(folder),
        "detection": detection, "psf_fwhm": PSF_FWHM, "device": "cpu", "progress": False,
        **options,
    }  # fmt: skip
    return [sys.executable, "-m", "benchmarks.survey.run", json.dumps(arguments)]


class Study:
    """All runs over one set of tiles.

    Parameters
    ----------
    folder : Path
        Of tiles and results.
    configuration : dict
    device : str
        Where costs are measured.
    """

    def __init__(self, folder, configuration, device):
        self.folder, self.configuration, self.device = folder, configuration, device
        self.tiles = make_tiles(folder, configuration)
        n = configuration["small"]
        self.few = [t for i, t in enumerate(self.tiles)
                    if max(divmod(i, configuration["across"])) < n]  # fmt: skip
        self.rng = np.random.default_rng(configuration["seed"])

    def known(self, name, measure, *arguments) -> dict:
        """What a run came to, now or before."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            shutil.rmtree(self.folder / name, ignore_errors=True)
            figures = measure(self.folder / name, *arguments)
            path.write_text(json.dumps(figures))
            print(name, figures, file=sys.stderr)
        return json.loads(path.read_text())

    def run(self, out, tiles, n_workers) -> dict:
        """Tiles in some number of workers, 0 for none but the process itself."""
        command = self._command(out, tiles, n_workers)
        session = Session(command, lambda: n_done(out))
        figures = session.wait()
        workers = session.workers()[:n_workers]
        figures |= {"tiles": len(tiles), "workers": n_workers, "objects": len(catalog_of(out))}
        records = json.loads((out / "manifest.json").read_text())["tiles"]
        seconds = [sum(record["processor_times"].values()) for record in records]
        doing = workers or [session.seen[session.process.pid]]
        return figures | {
            "tiles_cpu_s": round(sum(seconds), 1),
            "worker_cpu_s": [round(one["cpu_s"], 1) for one in doing],
            "history": [one["history"] for one in doing],
        }

    def killed(self, out, tiles, seconds) -> dict:
        """A run that is killed, in part and whole, over and over, and then left to end.

        Each time it has done a tile before; then a worker goes within about the time of one more,
        ``seconds``, and all within another.
        """
        workers, whole = 0, 0
        while whole < self.configuration["kills"]:
            done = n_done(out)
            session = Session(self._command(out, tiles, self.configuration["workers"]))
            while session.is_running and n_done(out) == done:
                time.sleep(0.1)
            if not self._survives(session, self.rng.uniform(0, 1) * seconds):
                break
            workers += session.kill_a_worker()
            if not self._survives(session, self.rng.uniform(0, 1) * seconds):
                break
            session.kill()
            whole += 1
        Session(self._command(out, tiles, self.configuration["workers"])).wait()
        return {"killed_workers": workers, "killed_runs": whole}

    def costs(self, out, samples, min_snr) -> dict:
        """One tile under the shipped model, in one process, and the seconds of each step."""
        command = program(
            self.tiles[:1], self.configuration["model"], out, n_workers=0, n_samples=samples,
            detection=DETECTION | {"min_snr": min_snr}, device=self.device,
        )  # fmt: skip
        figures = Session(command).wait()
        (record,) = json.loads((out / "manifest.json").read_text())["tiles"]
        kind = "processor_times" if self.device == "cpu" else "times"
        return figures | {
            "samples": samples,
            "objects": record["counts"]["separated"],
            "steps": {name: round(record[kind][name], 2) for name in STEPS},
            "start_s": round(figures["cpu_s"] - sum(record["processor_times"].values()), 1),
        }

    def figures(self) -> dict:
        """All of the study."""
        few, workers = self.few, self.configuration["workers"]
        alone = self.known("one-worker", self.run, few, 1)
        killed = self.known("killed", self.killed, few, alone["wall_s"] / alone["tiles"])
        costs = [
            self.known(f"costs-{n}-{snr}", self.costs, n, snr)
            for n, snr in self.configuration["costs"]
        ]
        many = self.known("many", self.run, self.tiles, workers)
        one = self.known("one", self.run, self.tiles, 0)
        expected = catalog_of(self.folder / "one")
        clear = galaxies_of(self.folder / "field.fits", *self.configuration["clear"])
        first = self.configuration["first"]
        runs = {"worker": many, "process": one}
        memory = {who: growth(run["history"], first) for who, run in runs.items()}
        holds = {
            "tiles": len(self.tiles),
            "objects": len(expected),
            "catalog of workers is that of one process": same(
                expected, catalog_of(self.folder / "many")
            ),
            "objects that come twice": n_twice(expected),
            "clear galaxies of the field, searched as a whole": len(clear),
            "of these missing": n_missing(expected, clear),
            "tiles of the runs that were killed": len(few),
            "kills of a worker": killed["killed_workers"],
            "kills of the whole run": killed["killed_runs"],
            "catalog after kills is that of an unbroken run": same(
                catalog_of(self.folder / "one-worker"), catalog_of(self.folder / "killed")
            ),
        }
        for who, found in memory.items():
            holds |= {
                f"memory of a {who} after {first} tiles [MiB]": found["at_first_MiB"],
                f"memory of a {who} after all tiles [MiB]": found["at_last_MiB"],
            }
        return {
            "memory_growth": memory,
            "holds": [{"what": what, "found": found} for what, found in holds.items()],
            "scaling": scaling([alone, many]),
            "one_process": one,
            "costs": costs,
            "steps": shares(costs[0]["steps"]),
            **prices(costs, self.configuration),
        }

    def _command(self, out, tiles, n_workers):
        options = {"n_workers": n_workers, "n_samples": self.configuration["samples"]}
        return program(tiles, self.folder / "gaussian.asdf", out, **options)

    def _survives(self, session, seconds) -> bool:
        """Whether a run is still at work some time later."""
        time.sleep(seconds)
        return session.is_running


def n_done(out) -> int:
    """Tiles that a run has done so far."""
    return len(list((out / "tiles").glob("*.json")))


def scaling(runs) -> list[dict]:
    """How much faster tiles are done than in the first run, of one worker.

    By the clock; and by the processor time of the worker that did the most, less that of its start,
    which is what one worker took beyond its tiles.
    """
    start = max(runs[0]["worker_cpu_s"]) - runs[0]["tiles_cpu_s"]

    def rates(run):
        return run["tiles"] / run["wall_s"], run["tiles"] / (max(run["worker_cpu_s"]) - start)

    first = rates(runs[0])
    ratios = [[own / one for own, one in zip(rates(run), first, strict=True)] for run in runs]
    return [
        run | {"times_as_fast": round(wall, 2), "times_as_fast_cpu": round(cpu, 2)}
        for run, (wall, cpu) in zip(runs, ratios, strict=True)
    ]


def growth(histories, first) -> dict:
    """Largest peak of any worker when some tiles were done, and when all were, in MiB."""
    at_first = max(max(peak for done, peak in one if done <= first) for one in histories)
    at_last = max(max(peak for _, peak in one) for one in histories)
    return {"first": first, "at_first_MiB": at_first, "at_last_MiB": at_last,
            "ratio": round(at_last / at_first, 3)}  # fmt: skip


def shares(steps) -> list[dict]:
    """Seconds and share of each step."""
    total = sum(steps.values())
    return [{"step": n, "seconds": s, "share": round(s / total, 3)} for n, s in steps.items()]


def prices(costs, configuration) -> dict:
    """What a pixel, an object and a draw cost, and of these a square degree.

    Parameters
    ----------
    costs : list of dict
        With few samples, with more, and (from the third on) of other numbers of objects.
    configuration : dict
    """
    few, more = costs[:2]
    n_pixels = configuration["side"] ** 2
    before = [sum(one["steps"][name] for name in STEPS[:3]) for one in (few, more)]
    after = [sum(one["steps"][name] for name in STEPS[3:]) for one in (few, more)]
    by_draw = (after[1] - after[0]) / (few["objects"] * (more["samples"] - few["samples"]))
    by_object = after[0] / few["objects"] - few["samples"] * by_draw
    by_megapixel = np.mean(before) / n_pixels * 1e6
    surveys = []
    for name, (density, scale) in SURVEYS.items():
        galaxies, megapixels = density * 3600, (3600 / scale) ** 2 / 1e6
        hours = {
            f"core_hours_{n}": round(
                (megapixels * by_megapixel + galaxies * (by_object + n * by_draw)) / 3600, 1
            )
            for n in (2, 16)
        }
        surveys.append({"survey": name, "galaxies": round(galaxies),
                        "megapixels": round(megapixels), **hours})  # fmt: skip
    rates = [
        {
            "samples": n,
            "by_megapixel_s": round(by_megapixel, 3),
            "by_object_s": round(by_object, 5),
            "by_draw_s": round(by_draw, 5),
            "objects_a_second": round(1 / (by_object + n * by_draw), 1),
        }
        for n in (2, 16)
    ]
    return {"rates": rates, "surveys": surveys}


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for the picture")
    parser.add_argument("--work", type=Path, help="folder of what was measured before")
    parser.add_argument("--quick", action="store_true", help="four small tiles")
    parser.add_argument("--device", default="cpu", help="where costs are measured")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    configuration = QUICK if options.quick else FULL
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        folder = options.work or Path(folder)
        folder.mkdir(exist_ok=True)
        figures = Study(folder, configuration, options.device).figures()
    write_record(options.out, study="survey", configuration=configuration, figures=figures,
                 device=options.device, started=started)  # fmt: skip
    if options.docs is not None:
        draw(figures, options.docs / "_static" / "survey.png")
