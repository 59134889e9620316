"""What is lost when a command is killed.

``ddprism fit`` and ``ddprism separate`` run on a small dataset, are killed (SIGKILL) at random
moments and called again, until they have been killed as often as asked for; then they are left to
end. What they leave after each kill must be absent or whole, and of what was done at most the last
step may be lost: an EM iteration of a fit, a part of a separation. The final model and the final
product must equal those of unbroken runs to the last bit, and so must every one that is there when
a kill comes.

Commands run in children of a process that has imported the package, so that few kills fall into
its import, and on a disk that takes its time (each flush sleeps), so that many fall into writing.

    python -m benchmarks.kill --out benchmarks/results/kill.json
"""

import argparse
import collections
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits

from astro_ddprism import MultiViewDataset
from astro_ddprism.cli import main as ddprism
from astro_ddprism.io.asdf import read_tree
from astro_ddprism.mixing import Identity
from astro_ddprism.separator import SourceSeparator, tiles
from astro_ddprism.separator.plan import FitBar

from ..record import write_record

FULL = {"fit_kills": 120, "separate_kills": 80, "n_em_iterations": 5, "n_images": 3000,
        "n_observations": 64, "at_a_time": 8, "flush_s": 0.1, "seed": 0}  # fmt: skip
QUICK = FULL | {"fit_kills": 3, "separate_kills": 3, "n_em_iterations": 1, "n_images": 1000}
SHAPE, SOURCES = (1, 8, 8), ("los", "galaxy")


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


class Command:
    """One command, which is run until it ends by itself.

    Parameters
    ----------
    folder : Path
        Where its inputs lie.
    output : str
        Name of what it makes.
    configuration : dict
    """

    step = ""  # what it says when it begins what may be lost

    def __init__(self, folder: Path, output: str, configuration: dict):
        self.folder, self.output, self.configuration = folder, folder / output, configuration
        self.log = folder / f"{output}.log"

    def run(self, seconds: float | None = None) -> bool:
        """Run to the end, or kill after so many seconds; True if it ended by itself."""
        child = multiprocessing.get_context("fork").Process(target=self._be)
        child.start()
        child.join(seconds)
        if child.exitcode is None:
            child.kill()
            child.join()
            return False
        if child.exitcode:
            raise RuntimeError(f"{self.output}: ddprism ended with status {child.exitcode}")
        return True

    def said(self) -> list[str]:
        """What was begun; half a line does not count."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [line.strip() for line in lines if line.endswith("\n")]

    def begun(self) -> int:
        """Steps that were begun."""
        return sum(self.step in line for line in self.said())

    def _be(self):
        """Be the command, with announcements of what is begun, and end."""
        handle = os.open(self.log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)

        def announced(function, name):
            def call(*args, **options):
                os.write(handle, f"{name(*args)}\n".encode())
                return function(*args, **options)

            return call

        def flush(file, fsync=os.fsync):
            time.sleep(self.configuration["flush_s"])
            fsync(file)

        os.fsync = announced(flush, lambda _: "writing")
        FitBar.__call__ = announced(FitBar.__call__, lambda *args: args[2])
        SourceSeparator.sample = announced(SourceSeparator.sample, lambda *_: "sampling")
        tiles.MOST_AT_A_TIME = self.configuration["at_a_time"]
        status = 70
        try:
            status = ddprism([str(a) for a in self.arguments()])
        finally:
            os._exit(status)


class Fit(Command):
    """``ddprism fit``, whose steps are EM iterations."""

    step = " E-step "

    def arguments(self):
        """Of the command line."""
        return ["fit", self.folder / "views.asdf", "-o", self.output, "--config",
                self.folder / "fit.toml", "--device", "cpu", "--preset", "none", "--resume",
                "--quiet"]  # fmt: skip

    def kept(self) -> int:
        """EM iterations in the checkpoint; raises where it is not whole."""
        path = self.folder / f"{self.output.name}.checkpoint"
        return (
            len(dict(read_tree(path, "model")["state"]["history"])["loss"]) if path.exists() else 0
        )

    def content(self) -> dict:
        """All arrays of the model, and its history but for the times."""
        state = read_tree(self.output, "model")["state"]
        arrays = {
            f"{kind} {source} {name}": np.asarray(array)
            for kind in ("denoisers", "gaussians")
            for source, parts in state[kind].items()
            for name, array in parts.items()
        }
        history = {n: np.asarray(v) for n, v in state["history"] if not n.endswith("_time")}
        return arrays | history


class Separation(Command):
    """``ddprism separate``, whose steps are its parts."""

    step = "sampling"

    def arguments(self):
        """Of the command line."""
        return ["separate", self.folder / "views.asdf", "--model", self.folder / "unbroken.asdf",
                "-o", self.output, "--samples", 2, "--device", "cpu", "--quiet"]  # fmt: skip

    def kept(self) -> int:
        """Parts that are whole."""
        return len(list((self.folder / f".{self.output.name}.parts").glob("[0-9]*.ecsv")))

    def content(self) -> dict:
        """All data of the product."""
        with fits.open(self.output, checksum=True) as hdus:
            return {
                f"{hdu.name} {name}": np.array(hdu.data if name is None else hdu.data[name])
                for hdu in hdus[1:]
                for name in (hdu.data.names if hdu.data.dtype.names else [None])
            }


def same(first: dict, second: dict) -> bool:
    """Whether all arrays agree to the last bit."""
    return list(first) == list(second) and all(
        np.array_equal(array, second[name], equal_nan=array.dtype.kind == "f")
        for name, array in first.items()
    )


def study(command, ending: str, n_kills: int, folder: Path, configuration: dict) -> dict:
    """Kill a command and call it again, and compare what it makes with that of an unbroken run."""
    unbroken = command(folder, f"unbroken{ending}", configuration)
    broken = command(folder, f"broken{ending}", configuration)
    started = time.perf_counter()
    unbroken.run()
    seconds = time.perf_counter() - started
    n_steps, expected = unbroken.begun(), unbroken.content()
    rng = np.random.default_rng(configuration["seed"])
    kills, ended_early = [], 0

    def check():
        if not same(broken.content(), expected):
            raise RuntimeError(f"{broken.output}: found other content than of an unbroken run")
        broken.output.unlink()

    while len(kills) < n_kills:
        before = broken.kept()
        if broken.run(rng.uniform(0.1, 3) * seconds / n_steps):
            ended_early += 1
            check()
            continue
        said, kept = broken.said(), broken.kept()
        # What was begun and is not kept, of what this call did.
        lost = 0 if broken.output.exists() else before + broken.begun() - kept
        kills.append({"within": _phase(said), "before": before, "kept": kept, "lost": max(lost, 0)})
        if broken.output.exists():
            check()  # killed between writing it and leaving
    broken.run()
    names = {"views.asdf", "fit.toml"}
    for name in ("broken", "unbroken"):
        names |= {f"{name}{end}{log}" for end in (".asdf", ".fits") for log in ("", ".log")}
    left = [path.name for path in folder.iterdir() if path.name not in names]
    return {
        "kills": len(kills),
        "within": collections.Counter(kill["within"] for kill in kills),
        "most_steps_lost": max(kill["lost"] for kill in kills),
        "final_equals_unbroken": same(broken.content(), expected),
        "ended_before_a_kill": ended_early,
        "other_files_left": sorted(left),
        "steps": n_steps,
        "unbroken_time_s": round(seconds, 2),
        "each": kills,
    }


def _phase(said) -> str:
    """What was begun last, without the source and the number."""
    if not said:
        return "start"
    for name in ("writing", "sampling", "warm start", "E-step", "M-step"):
        if name in said[-1]:
            return name
    return said[-1]


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--quick", action="store_true", help="six kills")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    torch.set_num_threads(1)  # a child has no threads but its own
    configuration = QUICK if options.quick else FULL
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), configuration)
        for name, command, ending in (("fit", Fit, ".asdf"), ("separate", Separation, ".fits")):
            n_kills = configuration[f"{name}_kills"]
            figures[name] = study(command, ending, n_kills, Path(folder), configuration)
            told = {key: value for key, value in figures[name].items() if key != "each"}
            print(f"{name}: {told}", flush=True)
    write_record(
        options.out,
        study="kill",
        configuration=configuration,
        figures=figures,
        device="cpu",
        started=started,
    )
