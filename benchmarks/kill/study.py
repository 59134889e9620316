"""What is lost when a fit is killed.

``ddprism fit`` runs on a small dataset as a process of its own, is killed (SIGKILL) at a random
moment and called again with ``--resume``, until it has been killed as often as asked for; then it
is left to end. After each kill the checkpoint must be absent or whole, and at most one EM iteration
may be lost: the one that had begun last. The final model must equal that of an unbroken fit to the
last bit, and so must every model that a fit leaves before its kill comes.

A kill comes after a random part of the time that a process needs to start, and of that of two EM
iterations: reading, the warm start, both steps and the writing of checkpoints are all hit.

    python -m benchmarks.kill --out benchmarks/results/kill.json
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.io.asdf import read_tree
from astro_ddprism.mixing import Identity

from ..record import write_record

FULL = {"kills": 20, "n_em_iterations": 5, "n_images": 3000, "n_observations": 64, "seed": 0}
QUICK = FULL | {"kills": 3, "n_em_iterations": 1, "n_images": 1000}
SHAPE, SOURCES = (1, 8, 8), ("los", "galaxy")
# The command line, which says on standard output when it begins what.
PROGRAM = """
import sys
import time

started = time.perf_counter()

from astro_ddprism import cli
from astro_ddprism.separator.plan import FitBar

silent = FitBar.__call__

def announced(self, iterable, description, **options):
    print(f"begin {time.perf_counter() - started} {description}", flush=True)
    return silent(self, iterable, description, **options)

FitBar.__call__ = announced
sys.exit(cli.main(sys.argv[1:]))
"""


def make_files(folder: Path, configuration: dict):
    """Write a dataset of contrastive views, and the configuration of the fit."""
    rng = np.random.default_rng(configuration["seed"])
    y, x = np.mgrid[:8, :8] - 3.5
    blob = 6 * np.exp(-(x**2 + y**2) / 4)
    size = (configuration["n_observations"], *SHAPE)
    views = {
        name: {
            "data": rng.normal(0, 1.3, size) + blob * ("galaxy" in sources),
            "variance": 1.0,
            "mixing": dict.fromkeys(sources, Identity(SHAPE)),
        }
        for name, sources in {"random": SOURCES[:1], "galaxy": SOURCES}.items()
    }
    MultiViewDataset.from_arrays(views).write(folder / "views.asdf")
    (folder / "fit.toml").write_text(
        f"n_em_iterations = {configuration['n_em_iterations']}\n"
        f"training.n_first_images = {configuration['n_images']}\n"
        f"training.n_images = {configuration['n_images']}\n"
        'network = { name = "unet", channels = [8, 16], blocks = [1, 1], embedding = 16 }\n'
    )


class Fit:
    """One process of ``ddprism fit``.

    Parameters
    ----------
    folder : Path
        Where its inputs lie.
    output : str
        Name of the model.
    """

    def __init__(self, folder: Path, output: str):
        self.model = folder / output
        self.checkpoint = folder / f"{output}.checkpoint"
        self.log = folder / f"{output}.log"
        self.command = [
            sys.executable, "-c", PROGRAM, "fit", str(folder / "views.asdf"), "-o", str(self.model),
            "--config", str(folder / "fit.toml"), "--device", "cpu", "--preset", "none", "--resume",
            "--quiet",
        ]  # fmt: skip

    def run(self, seconds: float | None = None) -> bool:
        """Run to the end, or kill after so many seconds; True if it ended by itself."""
        with self.log.open("w") as log:
            process = subprocess.Popen(self.command, stdout=log)  # noqa: S603
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return False
        if process.returncode:
            raise RuntimeError(f"ddprism fit ended with status {process.returncode}")
        return True

    def begun(self) -> int | None:
        """EM iterations that were complete when the last one began; None if none was begun."""
        steps = self._e_steps()
        if not steps:
            return None
        *_, source, _, count = steps[-1].split()  # "begin 1.2 galaxy E-step 1/5"
        iteration, last = map(int, count.split("/"))
        return SOURCES.index(source) * (last + 1) + iteration

    def time_to_start(self) -> float:
        """Seconds until the first EM iteration began."""
        return float(self._e_steps()[0].split()[1])

    def _e_steps(self) -> list[str]:
        """What was said of E-steps, with which EM iterations begin; half a line does not count."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [line for line in lines if " E-step " in line and line.endswith("\n")]

    def done(self) -> int:
        """EM iterations in the checkpoint, 0 where there is none; raises where it is not whole."""
        if not self.checkpoint.exists():
            return 0
        history = dict(read_tree(self.checkpoint, "model")["state"]["history"])
        return len(history["loss"])

    def check_against(self, unbroken: "Fit"):
        """Raise if the model is not the one of an unbroken fit."""
        if not same(self.model, unbroken.model):
            raise RuntimeError("a resumed fit ended otherwise than the unbroken one")

    def remove(self):
        """Begin anew."""
        self.model.unlink()
        self.checkpoint.unlink(missing_ok=True)


def weights(path: Path) -> dict:
    """All arrays of a model, and its history but for the times."""
    state = read_tree(path, "model")["state"]
    arrays = {
        f"{kind} {source} {name}": np.asarray(array)
        for kind in ("denoisers", "gaussians")
        for source, parts in state[kind].items()
        for name, array in parts.items()
    }
    history = {name: np.asarray(v) for name, v in state["history"] if not name.endswith("_time")}
    return arrays | history


def same(path: Path, other: Path) -> bool:
    """Whether two models agree to the last bit."""
    first, second = weights(path), weights(other)
    return set(first) == set(second) and all(
        np.array_equal(array, second[name]) for name, array in first.items()
    )


def study(folder: Path, configuration: dict) -> dict:
    """Kill and resume a fit, and compare it with an unbroken one."""
    make_files(folder, configuration)
    unbroken, broken = Fit(folder, "unbroken.asdf"), Fit(folder, "broken.asdf")
    started = time.perf_counter()
    unbroken.run()
    unbroken_time = time.perf_counter() - started
    n_iterations = len(DiffusionSourceSeparator.read(unbroken.model).history_)
    start = unbroken.time_to_start()
    iteration = (unbroken_time - start) / n_iterations
    rng = np.random.default_rng(configuration["seed"])
    kills, ended_early = [], 0
    while len(kills) < configuration["kills"]:
        before = broken.done()
        seconds = rng.uniform(0.7, 1.3) * start + rng.uniform(0, 2.5) * iteration
        if broken.run(seconds):
            # It came to its end before the kill: begin anew.
            ended_early += 1
            broken.check_against(unbroken)
            broken.remove()
            continue
        begun, done = broken.begun(), broken.done()
        kills.append(
            {
                "seconds": round(seconds, 3),
                "iterations_before": before,
                "iterations_after": done,
                "in_iteration": begun is not None,
                "lost": 0 if begun is None else max(begun + 1 - done, 0),
                "model_exists": broken.model.exists(),
            }
        )
        if broken.model.exists():
            # Killed between writing the model and leaving: the model must be whole.
            broken.check_against(unbroken)
            broken.remove()
    broken.run()
    names = {"views.asdf", "fit.toml", *(f"{fit.model.name}{end}" for fit in (unbroken, broken)
             for end in ("", ".log"))}  # fmt: skip
    left = sorted(path.name for path in folder.iterdir() if path.name not in names)
    return {
        "kills": kills,
        "n_kills": len(kills),
        "n_kills_within_an_em_iteration": sum(kill["in_iteration"] for kill in kills),
        "most_iterations_lost": max(kill["lost"] for kill in kills),
        "unreadable_checkpoints": 0,  # reading one that is not whole raises, and ends the study
        "half_written_models": 0,  # as above
        "final_model_equals_unbroken": same(broken.model, unbroken.model),
        "fits_that_ended_before_a_kill": ended_early,
        "other_files_left": left,
        "em_iterations": n_iterations,
        "unbroken_time_s": round(unbroken_time, 2),
    }


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--quick", action="store_true", help="three kills")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    configuration = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        figures = study(Path(folder), configuration)
    write_record(
        options.out,
        study="kill",
        configuration=configuration,
        figures=figures,
        device="cpu",
        started=started,
    )
    print(
        f"{figures['n_kills']} kills, {figures['n_kills_within_an_em_iteration']} within an EM "
        f"iteration; at most {figures['most_iterations_lost']} EM iteration lost; final model "
        f"equal to the unbroken one: {figures['final_model_equals_unbroken']}"
    )
