"""How near training and drawing come to the networks that they have to evaluate.

A *step* of training is timed against the forward and backward pass of its bare network at the same
batch in the same precision; a *draw* of the amortized posterior against the 14 evaluations of its
network; an evaluation of moment matching against the forward passes and vector-Jacobian products
that it needs. All take turns in one process. On a processor times are processor times, so that
other work on the machine does not count; on a GPU they are those of the clock, and both a training
step and its bare network are CUDA graphs.

The amortized posterior of the default network is trained as often by the loop as it was
(`reference`), on the same simulations: its images a second, and both losses on held-out ones.

Not captured as CUDA graphs, and why:

* what chains do once a batch: their first draws (those under mixtures of Gaussians choose their
  precision by their values) and their samplers' own few operations a step; each evaluation of a
  denoiser is a graph;
* views of several tiles whose PSFs or kinds of noise differ (`~astro_ddprism.mixing.joined`): which
  rows of a batch are of which, the host finds out;
* photon noise on noise of patterns (`~astro_ddprism.mixing.LowRankNoise`), which is factorized anew
  for every batch.

What falls back runs as it is, and the log says so.

    python -m benchmarks.throughput --out benchmarks/results/throughput.json
"""

import itertools
import time
from functools import partial

import numpy as np
import torch
from azula.noise import VESchedule
from torch.utils.flop_counter import FlopCounterMode

from astro_ddprism.diffusion.capture import captured
from astro_ddprism.diffusion.learning.data import Simulations, images
from astro_ddprism.diffusion.learning.training import Training, TrainingStep
from astro_ddprism.diffusion.networks import UNet
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.posteriors.solvers import GMRES
from astro_ddprism.diffusion.priors.build import build_denoiser
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule, time_of
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.chains import Chains
from astro_ddprism.diffusion.variety import Variety
from astro_ddprism.mixing import Identity
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.dataset import MultiViewDataset

from ..record import run_study
from . import reference

FULL = {
    "training": [
        {"size": 32, "batch_size": 512, "channels": [32, 64], "blocks": [1, 1]},
        {"size": 32, "batch_size": 512, "channels": [48, 96], "blocks": [1, 1]},
        {"size": 32, "batch_size": 1024, "channels": [128, 256], "blocks": [2, 2]},
        {"size": 64, "batch_size": 256, "channels": [48, 96], "blocks": [1, 1]},
        {"size": 128, "batch_size": 64, "channels": [48, 96], "blocks": [1, 1]},
    ],
    "precision": "bfloat16",
    "draws": [64, 512, 4096],
    "n_observations": 4096,
    "repeats": 20,
    "steps_at_a_time": 10,
    "loss_steps": 2000,
    "turns": 1,  # of the loop as it was and today's
}
QUICK = FULL | {
    "training": [{"size": 32, "batch_size": 32, "channels": [32, 64], "blocks": [1, 1]}],
    "precision": "float32",
    "draws": [64],  # as few as the whole study has
    "n_observations": 256,
    "repeats": 20,
    "steps_at_a_time": 1,
    "loss_steps": 40,
    "turns": 4,
}
SOURCES = ("los", "galaxy")


class Clock:
    """Times of functions that take turns, so that all of them see a machine at all its speeds."""

    def __init__(self, device, repeats, at_a_time=1):
        self.device, self.repeats, self.at_a_time = device, repeats, at_a_time

    def __call__(self, *functions):
        """Least seconds of a call of each."""
        return self.turns(*functions).min(axis=1).tolist()

    def ratio(self, function, bare):
        """Least seconds of both, and the median of their ratio in a turn."""
        times = self.turns(function, bare)
        return *times.min(axis=1).tolist(), float(np.median(times[0] / times[1]))

    def turns(self, *functions):
        """Seconds of each call of each, (functions, repeats)."""
        for function in functions:
            function()
        turns = [[self.once(function) for function in functions] for _ in range(self.repeats)]
        return np.transpose(turns)

    def once(self, function) -> float:
        """Time of a call."""
        cuda = self.device.type == "cuda"
        now = time.perf_counter if cuda else time.process_time
        if cuda:
            torch.cuda.synchronize(self.device)
        started = now()
        for _ in range(self.at_a_time):
            function()
        if cuda:
            torch.cuda.synchronize(self.device)
        return (now() - started) / self.at_a_time


def make_problem(size: int, n: int, device):
    """A view of two sources with masked pixels, its loader, and draws of the sources."""
    rng, shape = np.random.default_rng(0), (1, size, size)
    view = MultiViewDataset.from_arrays(
        {
            "galaxy": {
                "data": rng.normal(size=(n, *shape)) * 5,
                "variance": rng.uniform(0.5, 2, size=(n, *shape)),
                "mask": rng.random((n, *shape)) < 0.02,
                "mixing": dict.fromkeys(SOURCES, Identity(shape)),
            }
        }
    )["galaxy"]
    y, x = np.mgrid[:size, :size] - size // 2
    widths = rng.uniform(1, 4, size=(1024, 1, 1, 1))
    blob = 30 * np.exp(-(x**2 + y**2) / 2 / widths**2)
    places = rng.integers(-size // 2, size // 2, size=(1024, 2))
    moved = [np.roll(b, place, axis=(1, 2)) for b, place in zip(blob, places, strict=True)]
    samples = {
        source: torch.as_tensor(np.array(part), dtype=torch.float32)
        for source, part in zip(SOURCES, (moved, blob), strict=True)
    }
    return view, ViewLoader(view, 1.0, device), samples


def make_simulations(loader, samples):
    """Simulations of the view."""
    return Simulations(
        samples,
        [loader],
        symmetries=dict.fromkeys(SOURCES, ("rotations", "flips")),
        schedule=VESchedule(0.1, 100.0),
        learning=SOURCES,
        light=None,
        seeing={source: torch.full((len(x),), torch.nan) for source, x in samples.items()},
    )


def bare_step(network, n_features, shape, n, execution):
    """Forward and backward pass of a network, and nothing but them."""
    device, precision = execution.torch_device, execution.dtype_of(network)
    features = torch.randn(n, n_features, *shape, device=device)
    log_sigma, out = torch.randn(n, device=device), torch.zeros((), device=device)

    def step():
        network.zero_grad()
        with torch.autocast(
            device.type, precision, enabled=precision != torch.float32, cache_enabled=False
        ):
            output = network(features, log_sigma)
        loss = output.float().square().mean()
        loss.backward()
        out.copy_(loss.detach())

    with FlopCounterMode(display=False) as counter:
        step()
    return captured(step, lambda: [out], device, "the bare network"), counter.get_total_flops()


def matrix_rate(execution, clock) -> float:
    """Multiplications and additions a second of matrix products."""
    n = 8192 if execution.torch_device.type == "cuda" else 1024
    a = torch.randn(n, n, device=execution.torch_device, dtype=execution.dtype_of(None))
    (seconds,) = clock(lambda: a @ a)
    return 2 * n**3 / seconds


def activity(step, device, n: int = 3) -> dict:
    """Operations that a step starts, and the part of its time in which a GPU does nothing."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type != "cuda":
        with torch.profiler.profile(activities=kinds) as profile:
            step()
        own = [e for e in profile.events() if e.name.startswith("aten::") and e.cpu_parent is None]
        return {"operations": len(own)}
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=kinds) as profile:
        started = time.perf_counter()
        for _ in range(n):
            step()
        torch.cuda.synchronize(device)
        wall = time.perf_counter() - started
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(e.device_time_total for e in kernels) * 1e-6
    return {"launches": len(kernels) / n, "idle": max(1 - busy / wall, 0.0)}


def measure_training(case, configuration, execution, rate) -> list[dict]:
    """A prior and an amortized posterior, each against its bare network."""
    device, shape = execution.torch_device, (1, case["size"], case["size"])
    network = UNet(tuple(case["channels"]), tuple(case["blocks"]))
    training = Training(batch_size=case["batch_size"])
    clock = Clock(device, configuration["repeats"], configuration["steps_at_a_time"])
    _, loader, samples = make_problem(case["size"], configuration["n_observations"], device)
    simulations, rows = make_simulations(loader, samples), []
    schedule = VESchedule(0.1, 100.0)
    for kind in ("prior", "amortized"):
        if kind == "prior":
            denoiser = build_denoiser(network, shape, schedule, 5.0).to(device)
            draw = images(samples["galaxy"], ("rotations", "flips"), device)
            stacked = shape
        else:
            shapes = simulations.source_shapes
            denoiser = Amortized(network).build(shapes, 5.0, schedule, execution)
            (draw,) = simulations.draws({"galaxy": (0.2, 4.0)}, ("galaxy",), Variety()).draws
            stacked = (2, *shape[1:])
        own = TrainingStep(denoiser, training, execution, 10_000)
        own.rate.fill_(1e-4)

        def eager(own=own, draw=draw):
            own(draw)

        step = captured(eager, own.state, device, f"training of the {kind}")
        backbone = network.build(stacked, denoiser.n_features).to(device)
        bare, flops = bare_step(
            backbone, denoiser.n_features, stacked, training.batch_size, execution
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, least, ratio = clock.ratio(step, bare)
        rows.append(
            {
                "kind": kind,
                **case,
                "images_per_s": training.batch_size / seconds,
                "ratio": ratio,
                "captured": step is not eager,
                "of_matrix_rate": flops / seconds / rate,
                "bare_of_matrix_rate": flops / least / rate,
                **activity(step, device),
            }
        )
        if device.type == "cuda":
            rows[-1]["memory"] = torch.cuda.max_memory_allocated(device)
        print(kind, {k: rows[-1][k] for k in ("size", "images_per_s", "ratio")}, flush=True)
    return rows


def measure_draws(n: int, configuration, execution) -> list[dict]:
    """Draws of both posteriors of the default network, against what they have to evaluate."""
    device, size = execution.torch_device, 32
    shape, clock = (1, size, size), Clock(device, configuration["repeats"])
    _, loader, _ = make_problem(size, configuration["n_observations"], device)
    schedule, method = VESchedule(0.1, 100.0), Amortized()
    posterior = method.build(loader.source_shapes, 5.0, schedule, execution).requires_grad_(False)
    priors = Priors(NoiseSchedule(), learned={SOURCES: posterior})
    for source in SOURCES:
        denoiser = build_denoiser(UNet(), shape, schedule, 5.0).to(device)
        priors.denoisers[source] = denoiser.requires_grad_(False)
    index = torch.arange(n, device=device) % len(loader)
    keys = torch.arange(2 * n, device=device).view(n, 2)
    features = torch.randn(n, posterior.n_features, 2, size, size, device=device)
    log_sigma = torch.randn(1, device=device)
    evaluations = method.n_steps + method.n_starts + 1

    def draw():
        return method.run(priors, loader.observe(index), Rows(keys), chains=Chains(), start=1.0)

    @torch.no_grad()
    def bare():
        for _ in range(evaluations):
            with torch.autocast(
                device.type, posterior.precision, enabled=posterior.precision != torch.float32
            ):
                posterior.backbone(features, log_sigma)

    seconds, _, ratio = clock.ratio(draw, bare)
    rows = [
        {
            "kind": "amortized",
            "batch_size": n,
            "s_per_draw": seconds / n,
            "evaluations": evaluations,
            "ratio": ratio,
        }
    ]
    observation, iterations = loader.observe(index), GMRES().iterations
    joint = MomentMatching().denoiser(priors, observation)
    x_t, t = 10 * torch.randn(n, 2 * size**2, device=device), time_of(0.6, device)

    def parts():
        own = [part.detach().requires_grad_() for part in observation.split(x_t)]
        means = [priors.denoisers[s](part, t).mean for s, part in zip(SOURCES, own, strict=True)]
        vectors = [mean.detach() for mean in means]
        for k in range(iterations):
            torch.autograd.grad(means, own, vectors, retain_graph=k < iterations - 1)

    seconds, _, ratio = clock.ratio(lambda: joint(x_t, t), parts)
    rows.append(
        {
            "kind": "moment matching",
            "batch_size": n,
            "s_per_evaluation": seconds,
            "ratio": ratio,
        }
    )
    for row in rows:
        print("draws", row, flush=True)
    return rows


def measure_against_reference(configuration, execution) -> dict:
    """The loop as it was, and today's: images a second, and losses on held-out simulations."""
    device = execution.torch_device
    view, loader, samples = make_problem(32, configuration["n_observations"], device)
    simulations, training = make_simulations(loader, samples), Training()
    n_steps, found = configuration["loss_steps"], {}
    times = {"reference": [], "today": []}
    for name in [*times] * configuration["turns"]:
        with seeded(1, device=device):
            plain = Execution(execution.device) if name == "reference" else execution
            posterior = Amortized().build(
                simulations.source_shapes, 5.0, VESchedule(0.1, 100.0), plain
            )
            posterior.weigh(simulations.draws({}, (), Variety()))
            if name == "reference":
                draw = reference.draws(view, samples, device)
                steps = reference.train(posterior, draw, training, n_steps, device)
            else:
                (draw,) = simulations.draws({}, (), Variety()).draws
                steps = _steps(posterior, draw, training, execution, n_steps)
            clock = Clock(device, 1)
            times[name] += [clock.once(partial(next, steps)) for _ in range(n_steps)]
            next(steps, None)
        found[name] = {
            "images_per_s": training.batch_size / float(np.median(times[name])),
            "loss": held_out(posterior, simulations, device),
        }
    found["speed_up"] = found["today"]["images_per_s"] / found["reference"]["images_per_s"]
    print("reference", found, flush=True)
    return found


def _steps(posterior, draw, training, execution, n_steps):
    step = TrainingStep(posterior, training, execution, n_steps)
    run = captured(lambda: step(draw), step.state, execution.torch_device, "training")
    for k in range(n_steps):
        step.rate.fill_(step.rate_of(k))
        run()
        yield
    step.finish()


@torch.no_grad()
def held_out(posterior, simulations, device, n=256) -> float:
    """Mean loss on simulations that no training has seen, all at the weights of their own power."""
    draws = simulations.draws({}, (), Variety())
    with seeded(99, device=device):
        posterior.weigh(draws)
        (draw,) = draws.draws
        losses = []
        for _ in range(n // 32):
            x, observation = draw(32)
            t = (torch.arange(32, device=device) + torch.rand(32, device=device)) / 32
            losses.append(posterior.loss(x, t, torch.randn_like(x), observation).mean())
    return float(torch.stack(losses).mean())


def run(configuration: dict, device) -> dict:
    """All cases."""
    execution = Execution(str(device), configuration["precision"])
    rate = matrix_rate(execution, Clock(device, configuration["repeats"]))
    with seeded(0, device=device):
        training = list(
            itertools.chain.from_iterable(
                measure_training(case, configuration, execution, rate)
                for case in configuration["training"]
            )
        )
        draws = list(
            itertools.chain.from_iterable(
                measure_draws(n, configuration, execution) for n in configuration["draws"]
            )
        )
    return {
        "matrix_rate": rate,
        "training": training,
        "draws": draws,
        "against_reference": measure_against_reference(configuration, execution),
        "largest_ratio_of_training": max(row["ratio"] for row in training),
        "largest_ratio_of_draws": max(row["ratio"] for row in draws),
    }


def main(arguments=None):
    """Run the study from the command line."""
    run_study("throughput", __doc__.partition("\n")[0], run, FULL, QUICK, arguments)
