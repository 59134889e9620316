"""What joint posterior sampling costs beyond the networks that it has to evaluate.

One evaluation of the joint posterior of ``S`` sources with ``K`` solver iterations is timed against
the sum of its bare parts: ``S`` forward passes and ``S (K + 2)`` vector-Jacobian products of the
same denoisers at the same batch, on the same kind of graph (``ratio``). Everything else (solver,
mixing, whitening, splits and joins) is overhead. The evaluation itself needs only ``S K`` products,
for the solvers keep those that the correction is made of: ``overhead`` is its time over that of its
own parts. The timings take turns, so that a busy machine slows all alike.

    python -m benchmarks.overhead --out benchmarks/results/overhead.json
"""

import itertools
import statistics
import time
from functools import partial

import numpy as np
import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion.networks import Network
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.moment_matching import JointPosteriorDenoiser
from astro_ddprism.diffusion.posteriors.solvers import GMRES
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.mixing import Convolution, Identity
from astro_ddprism.views.dataset import MultiViewDataset

from ..record import run_study

FULL = {
    "sizes": [32, 64],
    "n_sources": [1, 2, 3],
    "iterations": [1, 2, 4],
    "mixing": ["identity", "psf"],
    "batch_size": 8,
    "repeats": 7,
    "network": "unet",
}
QUICK = FULL | {
    "sizes": [32],
    "n_sources": [1, 2],
    "iterations": [1, 2],
    "batch_size": 4,
    "repeats": 5,
}


def make_problem(size: int, n_sources: int, mixing: str, configuration: dict, device):
    """Denoisers with random weights, and a batch of observations with masked pixels."""
    shape, names = (1, size, size), [f"source{k}" for k in range(n_sources)]
    rng = np.random.default_rng(0)
    if mixing == "psf":
        y, x = np.mgrid[-10:11, -10:11]
        kernel = np.exp(-(x**2 + y**2) / 2 / 1.7**2)
        operator = Convolution(kernel / kernel.sum(), shape)
    else:
        operator = Identity(shape)
    n = configuration["batch_size"]
    view = MultiViewDataset.from_arrays(
        {
            "view": {
                "data": rng.normal(size=(n, *shape)) * 5,
                "variance": 1.0,
                "mask": rng.random((n, *shape)) < 0.02,
                "mixing": dict.fromkeys(names, operator),
            }
        }
    )["view"]
    network = Network.from_tree(configuration["network"])
    with seeded(0, device=device):
        denoisers = [
            SourceDenoiser(
                network.build(shape, SourceDenoiser.n_features),
                VESchedule(0.1, 100.0),
                5.0,
            )
            .to(device)
            .requires_grad_(False)
            for _ in names
        ]
        x_t = 10 * torch.randn(n, n_sources * size**2, device=device)
    observation = JointObservation(view.batch(device=device), dict.fromkeys(names, shape))
    return denoisers, observation, x_t, torch.tensor(0.6, device=device)


def bare_parts(denoisers, observation, x_t, t, n_products: int):
    """Evaluate the networks, and nothing but them."""
    parts = [part.detach().requires_grad_() for part in observation.split(x_t)]
    means = [d(part, t).mean for d, part in zip(denoisers, parts, strict=True)]
    vectors = [mean.detach() for mean in means]
    for k in range(n_products):
        torch.autograd.grad(means, parts, vectors, retain_graph=k < n_products - 1)


def seconds(function, device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(size, n_sources, iterations, mixing, configuration, device) -> dict:
    """Time all three, in turns."""
    denoisers, observation, x_t, t = make_problem(size, n_sources, mixing, configuration, device)
    joint = JointPosteriorDenoiser(denoisers, observation, GMRES(iterations))
    bare = partial(bare_parts, denoisers, observation, x_t, t)
    tasks = (lambda: joint(x_t, t), lambda: bare(iterations + 2), lambda: bare(iterations))
    for task in tasks:
        task()
    times = [[seconds(task, device) for task in tasks] for _ in range(configuration["repeats"])]
    medians, minima = ([f(t) for t in zip(*times, strict=True)] for f in (statistics.median, min))
    return {
        "size": size,
        "n_sources": n_sources,
        "iterations": iterations,
        "mixing": mixing,
        "joint_s": medians[0],
        "parts_s": medians[1],
        "ratio": medians[0] / medians[1],
        "ratio_of_minima": minima[0] / minima[1],
        "overhead": minima[0] / minima[2],
    }


def run(configuration: dict, device) -> dict:
    """All combinations, and the largest ratio among them."""
    axes = (configuration[key] for key in ("sizes", "n_sources", "iterations", "mixing"))
    rows = []
    for size, n_sources, iterations, mixing in itertools.product(*axes):
        rows.append(measure(size, n_sources, iterations, mixing, configuration, device))
        row = rows[-1]
        print(
            f"{size} x {size}  S={n_sources}  K={iterations}  {mixing:8s}  "
            f"ratio {row['ratio']:.3f}  overhead {row['overhead']:.3f}",
            flush=True,
        )
    return {
        "largest_ratio": max(row["ratio"] for row in rows),
        "largest_ratio_of_minima": max(row["ratio_of_minima"] for row in rows),
        "largest_overhead": max(row["overhead"] for row in rows),
        "rows": rows,
    }


def main(arguments=None):
    """Run the study from the command line."""
    run_study("overhead", __doc__.partition("\n")[0], run, FULL, QUICK, arguments)
