"""How much faster several processes are than one, that share out draws and training.

One, then several processes draw from the amortized posterior and by moment matching, and train,
with a thread (or a GPU) each, as ``torchrun`` would start them. ``scaling`` is the processor time
of one over that of the slowest of several: what is left is what all of them do, so that other work
on the machine does not count; ``scaling_of_clock`` is that of the clock, waiting included. On GPUs,
it is the one that counts.

    python -m benchmarks.scaling --out benchmarks/results/scaling.json
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion import ranks
from astro_ddprism.diffusion.learning.training import Training, TrainingStep
from astro_ddprism.diffusion.networks import UNet
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.priors.build import build_denoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.chains import Chains, draw_sources
from astro_ddprism.diffusion.variety import Variety

from ..record import write_record
from ..throughput.study import SOURCES, make_problem, make_simulations

FULL = {"processes": [2], "n_draws": 256, "n_matched": 128, "n_steps": 40, "batch_size": 64}
QUICK = FULL | {"n_draws": 32, "n_matched": 16, "n_steps": 6}


def work(configuration: dict, device: str) -> dict:
    """What every process does: the processor's and the clock's times of each kind of work."""
    execution, n = Execution(device, "float32"), configuration["n_draws"]
    device, size = execution.torch_device, 32
    _, loader, samples = make_problem(size, n, device)
    schedule, simulations = VESchedule(0.1, 100.0), make_simulations(loader, samples)
    with seeded(0, device=device):
        posterior = Amortized().build(loader.source_shapes, 5.0, schedule, execution)
        priors = Priors(NoiseSchedule(), learned={SOURCES: posterior.requires_grad_(False)})
        for source in SOURCES:
            factor = 5 * torch.randn(size**2, 8, device=device)
            priors.gaussians[source] = GaussianPrior(factor.new_zeros(size**2), factor)
            denoiser = build_denoiser(UNet(), (1, size, size), schedule, 5.0).to(device)
            priors.denoisers[source] = denoiser.requires_grad_(False)
        learning = Amortized().build(loader.source_shapes, 5.0, schedule, execution)
        (draw,) = simulations.draws({}, (), Variety()).draws
        training = Training(batch_size=configuration["batch_size"])
        step = TrainingStep(learning, training, execution, configuration["n_steps"])
        run = step.captured(draw, "training")

    def drawing(method, n):
        index = np.arange(n)
        rows = Rows.of("draws", ids=loader.ids[:n], device=device)
        options = {"chains": Chains(n_redraws=0), "batch_size": 16, "track": iter}
        return lambda: draw_sources(method, priors, loader, index, rows, **options)

    def train():
        for _ in range(configuration["n_steps"]):
            run()

    jobs = {
        "amortized draws": drawing(Amortized(), n),
        "draws by moment matching": drawing(MomentMatching(), configuration["n_matched"]),
        "training": train,
    }
    times = {}
    for name, job in jobs.items():
        ranks.sum_(torch.zeros(1))  # all begin together
        clock, processor = time.perf_counter(), time.process_time()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times[name] = [time.process_time() - processor, time.perf_counter() - clock]
    return times


def start(n: int, folder: Path, options) -> list[dict]:
    """Run the work in several processes; what each of them found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for k in range(n):
        of_rank = {"RANK": k, "LOCAL_RANK": k, "WORLD_SIZE": n, "MASTER_PORT": port}
        environment = {name: str(value) for name, value in of_rank.items()}
        environment |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.scaling", "--worker", "--device"]
        command += [options.device, "--out", folder / f"{n}-{k}.json"]
        command += ["--quick"] if options.quick else []
        environment = {**os.environ, **environment}
        processes.append(subprocess.Popen(command, env=environment))  # noqa: S603
    status = [process.wait() for process in processes]
    if any(status):
        raise SystemExit(f"{n} processes: found that one has failed, see above")
    return [json.loads((folder / f"{n}-{k}.json").read_text()) for k in range(n)]


def compare(one: dict, several: list[dict]) -> list[dict]:
    """Times of one process over those of the slowest of several."""
    rows = []
    for name, alone in one.items():
        slowest = np.max([each[name] for each in several], axis=0).tolist()
        scaling = {
            f"scaling{of}": own / other
            for of, own, other in zip(("", "_of_clock"), alone, slowest, strict=True)
        }
        rows.append({"work": name, "processes": len(several), "one_s": alone[0], **scaling})
        print(rows[-1], flush=True)
    return rows


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a small version of the study")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options, started = parser.parse_args(arguments), time.perf_counter()
    configuration = QUICK if options.quick else FULL
    if options.worker:
        with ranks.joined():
            options.out.write_text(json.dumps(work(configuration, options.device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        (one,) = start(1, Path(folder), options)
        rows = [
            row
            for n in configuration["processes"]
            for row in compare(one, start(n, Path(folder), options))
        ]
    write_record(
        options.out,
        study="scaling",
        configuration=configuration,
        figures={"rows": rows},
        device=torch.device(options.device),
        started=started,
    )
