"""Priors over a large dynamic range: diffusion of linear light, or of stretched light.

Three ways to separate light whose brightest pixels are from half to thousands of times the noise,
with priors trained on clean images, so that nothing but the way differs:

* ``linear``: diffusion in linear flux with a wide range of noise, as the package does; also with
  more iterations of the solver;
* ``stretched``: diffusion of asinh(x / s), and an observation that is linearized at each step
  (`benchmarks.dynamic_range.stretched`);
* ``amortized``: for two sources, the joint posterior learned from simulated observations.

Networks, training images, steps of the sampler and iterations of the solver are the same. Settings
of the stretched way are tried first, on observations of their own, and the best that takes no more
iterations goes on. Writes a JSON, and with ``--docs`` the picture of the documentation's page:

    python -m benchmarks.dynamic_range --out benchmarks/results/dynamic_range.json --docs docs
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.solvers import GMRES
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.samplers import Ancestral

from ..record import write_record
from .networks import TRAINING, Linear, Networks, stretched_way
from .pictures import draw_fluxes
from .problem import LIGHT, SHAPE, SIZE, Light, observe
from .summary import summarise

FULL = {
    "light": {"n_shapes": 800, "peaks": (0.5, 3000.0), "n_los": 1.5, "los_slope": 0.2, "seed": 1},
    "n_images": 16_000,
    "n_posterior_images": 32_000,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "n_steps": 16,
    "amortized_steps": 24,
    "chains_batch": 128,
    "n_settle": 24,
    "n_settle_draws": 3,
    "n_observations": 64,
    "n_draws": 5,
    "n_prior": 200,
    # Noise ranges begin at sigma_min and end at ten times the root mean square of bright images.
    # The second takes as many products as three linearizations of the stretched way.
    "linear": [{"sigma_min": 0.1, "iterations": 2}, {"sigma_min": 0.1, "iterations": 6}],
    "stretched": [
        {"softening": 1.0, "sigma_min": 0.1, "linearizations": 1, "iterations": 2},
        {"softening": 1.0, "sigma_min": 1e-3, "linearizations": 1, "iterations": 2},
        {"softening": 1.0, "sigma_min": 1e-3, "linearizations": 3, "iterations": 2},
        {"softening": 10.0, "sigma_min": 1e-2, "linearizations": 1, "iterations": 2},
        {"softening": 10.0, "sigma_min": 1e-2, "linearizations": 3, "iterations": 2},
        {"softening": 10.0, "sigma_min": 1e-3, "linearizations": 3, "iterations": 2},
        {"softening": 10.0, "sigma_min": 1e-3, "linearizations": 3, "iterations": 8},
        {"softening": 100.0, "sigma_min": 1e-3, "linearizations": 1, "iterations": 2},
        {"softening": 100.0, "sigma_min": 1e-3, "linearizations": 3, "iterations": 2},
    ],
}
QUICK = FULL | {
    "light": FULL["light"] | {"n_shapes": 200},
    "n_images": 640,
    "n_posterior_images": 640,
    "n_steps": 6,
    "amortized_steps": 6,
    "n_settle": 12,
    "n_settle_draws": 2,
    "n_observations": 24,
    "n_draws": 2,
    "n_prior": 32,
    "stretched": [FULL["stretched"][k] for k in (1, 5)],
}
# How the package runs chains of an amortized posterior.
AMORTIZED = Amortized()
# Of `seeded` and of rows: what random numbers are for.
_SETTLING, _EVALUATION, _PRIOR = range(TRAINING + 1, TRAINING + 4)


def run_chain(denoiser, rows: Rows, size: int, n_steps: int, sampler) -> torch.Tensor:
    """A draw for each observation of a joint denoiser, from the top of the noise schedule."""
    time_ = torch.ones(())
    z = denoiser.schedule(time_)[1] * rows.normal(size)
    x = z
    for _ in range(AMORTIZED.n_starts):  # towards the mean, which may be far above the noise
        x = denoiser(x, time_).mean + z
    x = sampler.run(denoiser, x, rows, start=1.0, steps=n_steps)
    return denoiser(x, torch.zeros_like(time_)).mean


def draw_posterior(view, make_joint, inverse, n_draws: int, *, batch_size, n_steps, sampler):
    """Draws of all sources of a view, in light, and their reduced chi-squared.

    Returns
    -------
    draws : ndarray, shape (n_draws, N, n_sources, ny, nx)
    chi2 : ndarray, shape (n_draws, N)
    seconds : float
        Processor time of one draw.
    """
    started = time.process_time()
    index = np.tile(np.arange(len(view)), n_draws)
    samples = np.repeat(np.arange(n_draws), len(view))
    streams = Rows.of(_EVALUATION, ids=view.ids[index], samples=samples, device=torch.device("cpu"))
    shapes, draws, chi2 = dict.fromkeys(view.sources, SHAPE), [], []
    for part in np.array_split(np.arange(len(index)), -(-len(index) // batch_size)):
        observation = JointObservation(view.batch(index[part]), shapes)
        size = sum(observation.sizes)
        x = inverse(run_chain(make_joint(observation), streams[part], size, n_steps, sampler))
        draws.append(x)
        chi2.append(observation.chi2(x))
    draws = torch.cat(draws).reshape(n_draws, len(view), len(shapes), SIZE, SIZE)
    chi2 = torch.cat(chi2).reshape(n_draws, -1).numpy()
    return draws.numpy(), chi2, (time.process_time() - started) / chi2.size


def draw_prior(denoiser, way, light: Light, source: str, configuration: dict) -> np.ndarray:
    """Prior samples in light, of shape (n, ny, nx)."""
    images = way.transform(light.draw(source, 2000)).flatten(1)
    mean, n = images.mean(dim=0), configuration["n_prior"]
    weights = torch.randn(n, len(images)) / len(images) ** 0.5
    top = denoiser.schedule(torch.ones(()))[1]
    # At the top of the noise schedule the prior and a Gaussian of its covariance are the same.
    x = (mean + weights @ (images - mean)).unflatten(1, SHAPE) + top * torch.randn(n, *SHAPE)
    rows = Rows.of(_PRIOR, source, ids=range(n), device=torch.device("cpu"))
    with torch.no_grad():
        x = Ancestral().run(denoiser, x, rows, start=1.0, steps=2 * configuration["n_steps"])
        return way.inverse(denoiser(x, torch.zeros(())).mean)[:, 0].numpy()


class Study:
    """Truth, observations and networks, and what comes of them."""

    def __init__(self, configuration: dict, folder: Path | None):
        self.configuration = configuration
        self.light = Light(**configuration["light"])
        self.networks = Networks(configuration, self.light, folder)
        self.linear = {
            name: (Linear(GMRES(setting["iterations"])), setting)
            for name, setting in zip(
                ("linear", "linear, deeper"), configuration["linear"], strict=True
            )
        }

    def truth(self, sources, n: int, seed: int) -> dict[str, torch.Tensor]:
        """Images that no network has seen."""
        with seeded(seed, device=torch.device("cpu")):
            return {source: self.light.draw(source, n) for source in sources}

    def separate(self, sources, way, sigma_min, view, n_draws):
        """Draws by the denoisers of all sources and their Jacobians."""
        denoisers = [self.networks.prior(source, way, sigma_min) for source in sources]

        def joint(observation):
            return way.joint(denoisers, observation)

        return self._draw(view, joint, way.inverse, n_draws, "n_steps", Ancestral())

    def amortized(self, view, n_draws):
        """Draws by the joint posterior that was learned."""
        linear, setting = self.linear["linear"]
        given = self.networks.posterior(setting["sigma_min"]).given
        return self._draw(
            view, given, linear.inverse, n_draws, "amortized_steps", AMORTIZED.sampler
        )

    def _draw(self, view, make_joint, inverse, n_draws, steps, sampler):
        configuration = self.configuration
        return draw_posterior(
            view,
            make_joint,
            inverse,
            n_draws,
            batch_size=configuration["chains_batch"],
            n_steps=configuration[steps],
            sampler=sampler,
        )

    def settle(self) -> list[dict]:
        """Try all settings on observations of single galaxies."""
        n, n_draws = self.configuration["n_settle"], self.configuration["n_settle_draws"]
        truth = self.truth(["galaxy"], n, _SETTLING)
        settings = [
            *((way, setting) for way, setting in self.linear.values()),
            *((stretched_way(s, self.configuration), s) for s in self.configuration["stretched"]),
        ]
        rows = []
        for way, setting in settings:
            with seeded(_SETTLING, 1, device=torch.device("cpu")):
                view = observe(truth, degraded=False)
                draws, chi2, _ = self.separate(["galaxy"], way, setting["sigma_min"], view, n_draws)
            row = summarise(view, truth["galaxy"][:, 0].numpy(), draws[:, :, 0], chi2)
            del row["decades"]
            rows.append({"way": way.name, **setting, **row})
            print(rows[-1], flush=True)
        return rows

    def evaluate(self, problem: str, ways: dict) -> list[dict]:
        """Separate the observations of one problem in all ways.

        ``ways`` maps names to functions of the sources, the view and the number of draws.
        """
        sources = LIGHT if problem == "galaxy + line of sight" else LIGHT[:1]
        truth = self.truth(sources, self.configuration["n_observations"], _EVALUATION)
        rows = []
        for name, separate in ways.items():
            with seeded(_EVALUATION, 1, device=torch.device("cpu")):
                view = observe(truth, degraded=problem == "galaxy, degraded")
                draws, chi2, seconds = separate(sources, view, self.configuration["n_draws"])
            for k, source in enumerate(sources):
                result = summarise(view, truth[source][:, 0].numpy(), draws[:, :, k], chi2)
                rows.append({"problem": problem, "way": name, "source": source, **result,
                             "cpu_time_per_draw_s": seconds})  # fmt: skip
                print({k: v for k, v in rows[-1].items() if k != "decades"}, flush=True)
        return rows

    def priors(self, ways: dict) -> list[dict]:
        """How far prior samples' fluxes are from the truth's."""
        rows = []
        for name, (way, setting) in ways.items():
            for source in LIGHT:
                denoiser = self.networks.prior(source, way, setting["sigma_min"])
                with seeded(_PRIOR, device=torch.device("cpu")):
                    samples = draw_prior(denoiser, way, self.light, source, self.configuration)
                    true = self.light.draw(source, 20_000)[:, 0].numpy()
                rows.append({
                    "way": name,
                    "source": source,
                    "ks_flux": float(ks_2samp(samples.sum((1, 2)), true.sum((1, 2))).statistic),
                    "ks_peak": float(ks_2samp(samples.max((1, 2)), true.max((1, 2))).statistic),
                    "ks_expected": 0.87 / len(samples) ** 0.5,
                    "negative": float(np.mean(samples < -1)),
                })  # fmt: skip
                print(rows[-1], flush=True)
        return rows

    def run(self) -> dict:
        """All of the study."""
        settled = self.settle()
        iterations = self.configuration["linear"][0]["iterations"]
        best = min(
            (r for r in settled if r["way"] == "stretched" and r["iterations"] == iterations),
            key=lambda row: row["failed"] + abs(row["bias"]) + row["scatter"],
        )
        way = stretched_way(best, self.configuration)
        chosen = self.linear | {"stretched": (way, best)}
        ways = {
            name: lambda sources, view, n, way=way, setting=setting: self.separate(
                sources, way, setting["sigma_min"], view, n
            )
            for name, (way, setting) in chosen.items()
        }
        both = ways | {"amortized": lambda _, view, n: self.amortized(view, n)}
        results = [
            *self.evaluate("galaxy", ways),
            *self.evaluate("galaxy, degraded", ways),
            *self.evaluate("galaxy + line of sight", both),
        ]
        return {
            "settings": settled,
            "chosen": {k: best[k] for k in self.configuration["stretched"][0]},
            "results": results,
            "priors": self.priors({name: chosen[name] for name in ("linear", "stretched")}),
            "networks": self.networks.rows,
        }


def main(arguments=None):
    """Run the study and write its record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a small version of the study")
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for the picture")
    parser.add_argument("--networks", type=Path, help="folder in which trained networks are kept")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    configuration = QUICK if options.quick else FULL
    if options.networks:
        options.networks.mkdir(parents=True, exist_ok=True)
    figures = Study(configuration, options.networks).run()
    write_record(
        options.out,
        study="dynamic_range",
        configuration=configuration,
        figures=figures,
        device="cpu",
        started=started,
    )
    if options.docs:
        draw_fluxes(options.docs / "_static" / "dynamic_range.png", figures["results"])
