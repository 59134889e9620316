"""How fast the E-step of small networks is, against a plain loop of the same arithmetic.

Chains of a joint posterior with an exact solve, of sources of a few numbers with multilayer
perceptrons for priors, are run twice, in turns: by the package, and by a loop written down below as
one would first write it, with all chains in one batch, one vector-Jacobian product for each row of
the matrix, and one for the correction. Both evaluate the same networks, and are checked against
each other. ``floor_s`` is the time of the package's matrix products alone, at the speed of the
largest of them.

    python -m benchmarks.e_step --out benchmarks/results/e_step.json
"""

import argparse
import itertools
import math
import statistics
import time
from functools import partial

import numpy as np
import torch
from azula.noise import VESchedule
from torch.profiler import ProfilerActivity, profile

from astro_ddprism.diffusion.capture import CapturedDenoiser
from astro_ddprism.diffusion.networks import MLP
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.moment_matching import JointPosteriorDenoiser
from astro_ddprism.diffusion.posteriors.solvers import Dense
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.priors.schedule import time_of
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.samplers import PredictorCorrector
from astro_ddprism.views.dataset import MultiViewDataset

from ..record import write_record

FULL = {
    "n_observations": 16_384,
    "n_sources": 2,
    "n_features": 5,
    "n_values": 3,
    "n_steps": 64,
    "width": 256,
    "depth": 2,  # hidden layers: the first one, and as many residual ones as this
    "batch_size": 1024,
    "batch_sizes": [256, 512, 1024, 2048, 4096],
    "repeats": 3,
}
QUICK = FULL | {"n_observations": 512, "n_steps": 2, "batch_size": 256, "batch_sizes": [256]}

#: Noise of the observations; with sources of order one, in units of this.
SIGMA_Y = 0.01
#: Amplitude of a corrector step.
DELTA = 0.01
SCHEDULE = VESchedule(0.1, 1000.0)
#: Times at which the two are compared.
TIMES = (0.0, 0.2, 0.5, 0.8, 1.0)


class Problem:
    """Networks of random weights, and observations of sums of sources by random matrices."""

    def __init__(self, configuration: dict, device):
        n, size = configuration["n_observations"], configuration["n_features"]
        self.device, self.sources = device, [f"s{k}" for k in range(configuration["n_sources"])]
        self.shapes = dict.fromkeys(self.sources, (size,))
        rng = np.random.default_rng(0)
        mixing = rng.normal(size=(len(self.sources), n, configuration["n_values"], size))
        mixing /= math.sqrt(size)
        y = np.einsum("snij,snj->ni", mixing, rng.normal(size=(len(self.sources), n, size)))
        y += SIGMA_Y * rng.normal(size=y.shape)
        self.view = MultiViewDataset.from_arrays(
            {
                "view": {
                    "data": y,
                    "variance": SIGMA_Y**2,
                    "mixing": dict(zip(self.sources, mixing, strict=True)),
                }
            }
        )["view"]
        with seeded(0, device=device):
            self.denoisers = [self._denoiser(size, configuration) for _ in self.sources]
            self.noise = torch.randn(n, size * len(self.sources), device=device)
        # What the plain loop works on: whitened by hand.
        self.y = torch.tensor(y / SIGMA_Y, dtype=torch.float32, device=device)
        A = np.concatenate(list(mixing), axis=-1)
        self.A = torch.tensor(A, dtype=torch.float32, device=device)

    def _denoiser(self, size, configuration):
        options = {name: configuration[name] for name in ("width", "depth")}
        network = MLP(**options).build((size,), SourceDenoiser.n_features)
        # Random networks have covariances of any sign. This makes them small beside that of the
        # skip connection, so that chains behave as under trained networks.
        network.last.weight.data *= 0.1
        denoiser = SourceDenoiser(network, SCHEDULE, 1 / SIGMA_Y)
        return denoiser.to(self.device).requires_grad_(False)

    def joint(self, index) -> JointPosteriorDenoiser:
        """The package's denoiser for some observations."""
        batch = self.view.batch(index, scale=SIGMA_Y, device=self.device)
        return JointPosteriorDenoiser(self.denoisers, JointObservation(batch, self.shapes), Dense())

    def package(self, n_steps: int, batch_size: int) -> torch.Tensor:
        """Draw once for each observation, by the package."""
        sampler, draws = PredictorCorrector(corrections=1, delta=DELTA), []
        rows = Rows.of("chains", ids=self.view.ids, device=self.device)
        for index in torch.arange(len(self.y)).split(batch_size):
            on_device = index.to(self.device)
            joint = CapturedDenoiser.of(self.joint(index.numpy()), 2 * n_steps, self.device)
            x = SCHEDULE.sigma_max * self.noise[on_device]
            x = sampler.run(joint, x, rows[on_device], start=1.0, steps=n_steps)
            draws.append(joint(x, time_of(0.0, self.device)).mean)
        return torch.cat(draws)

    def plain(self, n_steps: int) -> torch.Tensor:
        """Draw once for each observation, by the plain loop."""
        times = torch.linspace(1, 0, n_steps + 1, device=self.device)
        x = SCHEDULE.sigma_max * self.noise
        for t, s in itertools.pairwise(times):
            sigma_t, sigma_s = SCHEDULE.sigma(t), SCHEDULE.sigma(s)
            mean = plain_mean(self.denoisers, self.A, self.y, x, t)
            x = mean + math.sqrt(1 - DELTA) * (x - mean)
            x = x + math.sqrt(DELTA) * sigma_t * torch.randn_like(x)
            mean = plain_mean(self.denoisers, self.A, self.y, x, t)
            x = mean + sigma_s / sigma_t * (x - mean)
        return plain_mean(self.denoisers, self.A, self.y, x, times[-1])

    def difference(self) -> float:
        """Largest difference of the two denoisers, relative to the largest estimate."""
        joint, largest = self.joint(np.arange(len(self.y))), 0.0
        for time_ in TIMES:
            t = torch.tensor(time_, device=self.device)
            x = SCHEDULE.sigma(t) * self.noise
            expected = plain_mean(self.denoisers, self.A, self.y, x, t)
            error = (joint(x, t).mean - expected).abs().max() / expected.abs().max()
            largest = max(largest, error.item())
        return largest


def plain_denoiser(denoiser, x, sigma):
    """One source's estimate, with the denoiser's weights and automatic differentiation."""
    network, s = denoiser.backbone, denoiser.data_scale
    encoding = network.embedding(sigma.log().view(1)).expand(len(x), -1)
    linear, compressed = x / (sigma**2 + s**2).sqrt(), torch.asinh(x / (sigma + 0.5))
    h = torch.cat([linear, compressed, encoding], dim=1)
    h = torch.nn.functional.silu(network.first(h))
    for layer in network.hidden:
        h = h + layer(h)
    r4 = (x / (4 * sigma)) ** 8
    m2 = s**2 + x**2 * (1 - 1 / (1 + r4))
    skip, out = m2 / (m2 + sigma**2), (m2 * sigma**2 / (m2 + sigma**2)).sqrt()
    return skip * x + out * network.last(h)


@torch.no_grad()
def plain_mean(denoisers, A, y, x, t):
    """The joint posterior mean, one vector-Jacobian product after another."""
    sigma, sizes = SCHEDULE.sigma(t), [x.shape[1] // len(denoisers)] * len(denoisers)
    parts = [part.detach().requires_grad_() for part in x.split(sizes, dim=1)]
    with torch.enable_grad():
        means = [plain_denoiser(d, part, sigma) for d, part in zip(denoisers, parts, strict=True)]
    mean = torch.cat(means, dim=1).detach()

    def covariance(v):
        products = torch.autograd.grad(means, parts, v.split(sizes, dim=1), retain_graph=True)
        return sigma**2 * torch.cat(products, dim=1)

    def mix(v):
        return torch.einsum("nij,nj->ni", A, v)

    columns = torch.stack([mix(covariance(A[:, k])) for k in range(A.shape[1])], dim=-1)
    M = torch.eye(A.shape[1], device=A.device) + columns
    z = torch.linalg.solve(M, y - mix(mean))
    return mean + covariance(torch.einsum("nij,ni->nj", A, z))


def seconds(function, device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matmul_speed(configuration: dict, device) -> float:
    """Operations a second of the largest matrix product of the package, at its best."""
    width, rows = configuration["width"], configuration["batch_size"] * configuration["n_values"]
    a, b = torch.randn(rows, width, device=device), torch.randn(width, width, device=device)
    out = torch.empty(rows, width, device=device)
    for _ in range(3):
        torch.mm(a, b, out=out)
    best = min(seconds(partial(torch.mm, a, b, out=out), device) for _ in range(50))
    return 2 * rows * width**2 / best


def operations(configuration: dict) -> float:
    """Of the package's matrix products: a forward pass, and a product for each row."""
    width, size = configuration["width"], configuration["n_features"]
    row = 2 * width * (SourceDenoiser.n_features * size + configuration["depth"] * width + size)
    passes = configuration["n_sources"] * (1 + configuration["n_values"])
    evaluations = configuration["n_observations"] * (2 * configuration["n_steps"] + 1)
    return evaluations * passes * row


def idle_fraction(function, device) -> float:
    """Part of the time of a call in which the GPU has nothing to do."""
    function()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        seconds(function, device)
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) * 1e-6
    return max(0.0, 1 - busy / seconds(function, device))


def run(configuration: dict, device) -> dict:
    """Time both, in turns."""
    problem = Problem(configuration, device)
    difference = problem.difference()
    print(f"largest difference {difference:.1e}", flush=True)
    figures = {"largest_difference": difference, "batch_sizes": []}
    t = torch.tensor(0.5, device=device)
    for batch_size in configuration["batch_sizes"]:
        index = np.arange(batch_size) % configuration["n_observations"]
        joint, x = problem.joint(index), 10 * problem.noise[torch.tensor(index, device=device)]
        best = min(seconds(partial(joint, x, t), device) for _ in range(20)) / batch_size
        figures["batch_sizes"].append({"batch_size": batch_size, "us_per_evaluation": best * 1e6})
        print(f"batch size {batch_size:5d}  {best * 1e6:.2f} us an evaluation", flush=True)
    package = partial(problem.package, batch_size=configuration["batch_size"])
    for task in (problem.plain, package):
        task(1)
    rows = []
    for _ in range(configuration["repeats"]):
        n_steps = configuration["n_steps"]
        row = {
            "plain_s": seconds(partial(problem.plain, n_steps), device),
            "package_s": seconds(partial(package, n_steps), device),
        }
        row["ratio"] = row["plain_s"] / row["package_s"]
        rows.append(row)
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
    if device.type == "cuda":
        figures["idle_fraction"] = {
            "plain": idle_fraction(partial(problem.plain, 2), device),
            "package": idle_fraction(partial(package, 2), device),
        }
    speed = matmul_speed(configuration, device)
    minima = {name: min(row[name] for row in rows) for name in ("plain_s", "package_s")}
    return figures | {
        "ratio": statistics.median(row["ratio"] for row in rows),
        "ratio_of_minima": minima["plain_s"] / minima["package_s"],
        **minima,
        "matmul_gflops": speed / 1e9,
        "floor_s": operations(configuration) / speed,
        "rows": rows,
    }


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a small version of the study")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("n_observations", "n_steps", "width", "depth", "batch_size", "repeats"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"{FULL[name]} if whole")
    options = vars(parser.parse_args(arguments))
    started, device = time.perf_counter(), torch.device(options["device"])
    configuration = dict(QUICK if options["quick"] else FULL)
    configuration |= {k: v for k, v in options.items() if k in configuration and v is not None}
    if device.type == "cuda" and options["batch_size"] is None:
        configuration["batch_size"] = configuration["n_observations"]  # memory is no matter
    write_record(
        options["out"],
        study="e_step",
        configuration=configuration,
        figures=run(configuration, device),
        device=device,
        started=started,
    )
