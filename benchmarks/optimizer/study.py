"""How many images a training needs: steps of matrices by Muon against AdamW alone.

A prior and an amortized posterior, each of the default network, are trained by today's steps
(`astro_ddprism.diffusion.learning.optimizer`) on all images and on parts of them, and on all of
them by the loop as it was (`benchmarks.throughput.reference`), whose optimizer is AdamW; all begin
with the same weights. The losses are on the same simulations, which no training has seen, and come
with the processor time of the training (on a GPU, of the clock).

    python -m benchmarks.optimizer --out benchmarks/results/optimizer.json [--quick]
"""

import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion.capture import captured
from astro_ddprism.diffusion.learning.data import images
from astro_ddprism.diffusion.learning.training import Training, TrainingStep
from astro_ddprism.diffusion.networks import UNet
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.priors.build import build_denoiser
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.variety import Variety

from ..record import run_study
from ..throughput import reference
from ..throughput.study import Clock, make_problem, make_simulations

FULL = {
    "size": 32,
    "n_observations": 4096,
    "n_images": 4_000_000,
    "batch_size": 512,
    "parts": [0.4, 0.6, 1.0],
    "n_held_out": 16_384,
}
QUICK = FULL | {
    "size": 24,
    "n_observations": 1024,
    "n_images": 8000,
    "batch_size": 32,
    "n_held_out": 2048,
}


def by_steps(denoiser, draw, training, n_steps, execution):
    """Train as the package does."""
    step = TrainingStep(denoiser, training, execution, n_steps)
    run = captured(lambda: step(draw), step.state, execution.torch_device, "training")
    for k in range(n_steps):
        step.rate.fill_(step.rate_of(k))
        run()
    step.finish()


def by_reference(denoiser, draw, training, n_steps, execution):
    """Train as the loop as it was did."""
    for _ in reference.train(denoiser, draw, training, n_steps, execution.torch_device):
        pass


@torch.no_grad()
def loss_of(denoiser, draw, n: int, device) -> float:
    """Mean loss on simulations that no training has seen."""
    size, losses = min(n, 256), []
    with seeded(99, device=device):
        for _ in range(n // size):
            x, *given = draw(size)
            t = (torch.arange(size, device=device) + torch.rand(size, device=device)) / size
            losses.append(denoiser.loss(x, t, torch.randn_like(x), *given).mean())
    return float(torch.stack(losses).mean())


def run(configuration, device) -> dict:
    """All trainings."""
    execution, shape = Execution(str(device)), (1, configuration["size"], configuration["size"])
    training = Training(batch_size=configuration["batch_size"])
    _, loader, samples = make_problem(shape[1], configuration["n_observations"], device)
    schedule, rows = VESchedule(0.1, 100.0), []
    draws = make_simulations(loader, samples).draws({}, (), Variety())

    def prior():
        return build_denoiser(UNet(), shape, schedule, 5.0).to(device)

    def amortized():
        posterior = Amortized().build(loader.source_shapes, 5.0, schedule, execution)
        posterior.weigh(draws)
        return posterior

    kinds = {
        "prior": (prior, images(samples["galaxy"], ("rotations", "flips"), device)),
        "amortized": (amortized, draws.draws[0]),
    }
    for kind, (build, draw) in kinds.items():
        ways = [("AdamW", by_reference, 1.0)]
        ways += [("Muon", by_steps, part) for part in configuration["parts"]]
        for optimizer, train, part in ways:
            n_images = int(part * configuration["n_images"])
            clock = Clock(device, 1)
            with seeded(1, device=device):
                denoiser = build()
                seconds = clock.once(
                    lambda denoiser=denoiser, train=train, n_images=n_images, draw=draw: train(
                        denoiser, draw, training, n_images // training.batch_size, execution
                    )
                )
            loss = loss_of(denoiser, draw, configuration["n_held_out"], device)
            rows.append(
                {
                    "kind": kind,
                    "optimizer": optimizer,
                    "n_images": n_images,
                    "loss": loss,
                    "time_s": seconds,
                }
            )
            print(rows[-1], flush=True)
    return {"rows": rows}


def main(arguments=None):
    """Run the study from the command line."""
    run_study("optimizer", __doc__.partition("\n")[0], run, FULL, QUICK, arguments)
