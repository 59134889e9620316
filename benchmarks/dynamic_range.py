"""Priors over a large dynamic range: diffusion of linear light, or of stretched light.

Three ways to separate light whose brightest pixels are from half to thousands of times the noise,
with priors trained on clean images, so that nothing but the way differs:

* ``linear``: diffusion in linear flux with a wide range of noise, as the package does; also with
  more iterations of the solver;
* ``stretched``: diffusion of asinh(x / s), and an observation that is linearized at each step
  (`benchmarks.dynamic_range_stretched`);
* ``amortized``: for two sources, the joint posterior learned from simulated observations.

Networks, training images and steps of the sampler are the same, and so are the solver's. Settings
of the stretched way are tried first, on observations of their own, and the best that takes no more
iterations goes on. Writes a
JSON, and with ``--docs`` the picture of the documentation's page:

    python -m benchmarks.dynamic_range --out benchmarks/results/dynamic_range.json --docs docs
"""

import argparse
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from azula.noise import VESchedule
from azula.sample import DDPMSampler
from scipy.stats import ks_2samp
from scipy.stats import t as student
from torch import nn

from astro_ddprism.diffusion.amortized import AmortizedPosterior, simulate
from astro_ddprism.diffusion.denoiser import SourceDenoiser
from astro_ddprism.diffusion.joint import JointPosteriorDenoiser
from astro_ddprism.diffusion.networks import UNet
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.diffusion.sampling import AMORTIZED_SAMPLER, AMORTIZED_STARTS
from astro_ddprism.diffusion.solvers import GMRES
from astro_ddprism.diffusion.training import train

from .dynamic_range_pictures import draw_fluxes
from .dynamic_range_problem import LIGHT, SIZE, Light, observe
from .dynamic_range_stretched import Stretch, StretchedPosteriorDenoiser
from .record import write_record

SHAPE = (1, SIZE, SIZE)
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
#: Brightest pixels, in units of the noise, at which observations are told apart.
DECADES = (0.5, 3.0, 30.0, 300.0, 3000.0)
# Of `seeded`: what random numbers are for.
_TRAINING, _SETTLING, _EVALUATION, _PRIOR = range(4)


@dataclass
class Linear:
    """Diffusion of linear light: what the package has."""

    solver: GMRES
    name = "linear"

    def transform(self, x):
        """Light to what diffuses."""
        return x

    def inverse(self, u):
        """What diffuses to light."""
        return u

    def joint(self, denoisers, observation):
        """The denoiser of the joint posterior."""
        return JointPosteriorDenoiser(denoisers, observation, self.solver)


@dataclass
class Stretched:
    """Diffusion of stretched light."""

    solver: GMRES
    stretch: Stretch
    n_linearizations: int
    name = "stretched"

    def transform(self, x):
        """Light to what diffuses."""
        return self.stretch(x)

    def inverse(self, u):
        """What diffuses to light."""
        return self.stretch.inverse(u)

    def joint(self, denoisers, observation):
        """The denoiser of the joint posterior."""
        return StretchedPosteriorDenoiser(
            denoisers, observation, self.solver, self.stretch, self.n_linearizations
        )


def stretched_way(setting: dict, configuration: dict) -> Stretched:
    """The stretched way with a setting, and a range of light that holds all of the truth."""
    brightest = 2 * configuration["light"]["peaks"][1]
    stretch = Stretch(setting["softening"], faintest=-10.0, brightest=brightest)
    return Stretched(GMRES(setting["iterations"]), stretch, setting["linearizations"])


def bright_rms(x: torch.Tensor) -> float:
    """Root mean square of an image that is brighter than nine of ten, as the package takes it."""
    return float(x.flatten(1).square().mean(dim=1).sqrt().quantile(0.9))


class Networks:
    """Trains networks, each once.

    Parameters
    ----------
    configuration : dict
        That of the study.
    light : Light
        What they learn.
    folder : Path, optional
        Where trained networks are kept, and taken from if they are there.
    """

    def __init__(self, configuration: dict, light: Light, folder: Path | None):
        self.configuration, self.light, self.folder = configuration, light, folder
        self.rows: list[dict] = []
        self._known: dict[str, nn.Module] = {}

    def prior(self, source: str, way, sigma_min: float) -> SourceDenoiser:
        """The denoiser of a source, in the space of a way."""
        softening = f"-{way.stretch.softening:g}" if isinstance(way, Stretched) else ""
        name = f"{source}-{way.name}{softening}-{sigma_min:g}"

        def draw(n):
            return (way.transform(self.light.draw(source, n)),)

        def make():
            scale = bright_rms(draw(2000)[0])
            backbone = UNet(SHAPE, SourceDenoiser.n_features)
            return SourceDenoiser(backbone, VESchedule(sigma_min, self._sigma_max(way)), scale)

        return self._get(name, make, draw, self.configuration["n_images"])

    def posterior(self, sigma_min: float) -> AmortizedPosterior:
        """The denoiser of the joint posterior of both sources, learned."""
        batch = observe(self._sources(1), degraded=False).batch()

        def draw(n):
            x = self._sources(n)
            observation = JointObservation(
                simulate(select(batch, np.zeros(n, int)), x), dict.fromkeys(LIGHT, SHAPE)
            )
            return observation.join(list(x.values())), observation

        def make():
            scale = max(bright_rms(x) for x in self._sources(2000).values())
            backbone = UNet((len(LIGHT), SIZE, SIZE), AmortizedPosterior.n_features)
            return AmortizedPosterior(backbone, VESchedule(sigma_min, 100 * scale), scale)

        return self._get("amortized", make, draw, self.configuration["n_posterior_images"])

    def _sigma_max(self, way) -> float:
        """Top of the noise schedule, which all sources share: ten times the brightest's scale."""
        with seeded(_TRAINING, device=torch.device("cpu")):
            return 10 * max(bright_rms(way.transform(x)) for x in self._sources(2000).values())

    def _sources(self, n):
        return {source: self.light.draw(source, n) for source in LIGHT}

    def _get(self, name: str, make, draw, n_images: int):
        if name not in self._known:
            with seeded(_TRAINING, device=torch.device("cpu")):
                self._known[name] = self._train(name, make(), draw, n_images)
        return self._known[name]

    def _train(self, name, network, draw, n_images):
        path = self.folder / f"{name}.pt" if self.folder else None
        if path is not None and path.is_file():
            stored = torch.load(path, weights_only=True)
            network.load_state_dict(stored["weights"])
            row = stored["row"]
        else:
            started = time.process_time()
            loss = train(
                network,
                draw,
                n_images=n_images,
                batch_size=self.configuration["batch_size"],
                learning_rate=self.configuration["learning_rate"],
                precision=torch.bfloat16,
                track=iter,
            )
            row = {
                "network": name,
                "n_images": n_images,
                "loss": loss,
                "data_scale": float(network.data_scale),
                "sigma_max": float(network.schedule(torch.tensor(1.0))[1]),
                "cpu_time_s": time.process_time() - started,
            }
            if path is not None:
                torch.save({"weights": network.state_dict(), "row": row}, path)
        self.rows.append(row)
        print(row, flush=True)
        return network.requires_grad_(False)


def select(batch, index):
    """Some observations of a batch whose operators are shared."""
    return type(batch)(batch.y[index], batch.mixing, batch.noise[index])


def run_chain(denoiser, size: int, n_steps: int, sampler) -> torch.Tensor:
    """A draw for each observation of a joint denoiser, from the top of the noise schedule."""
    time_ = torch.ones(())
    z = denoiser.schedule(time_)[1] * torch.randn(len(denoiser.observation), size)
    x = z
    for _ in range(AMORTIZED_STARTS):  # towards the mean, which may be far above the noise
        x = denoiser(x, time_).mean + z
    x = sampler(denoiser, steps=n_steps, silent=True)(x)
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
    shapes, draws, chi2 = dict.fromkeys(view.sources, SHAPE), [], []
    for rows in np.array_split(index, -(-len(index) // batch_size)):
        observation = JointObservation(view.batch(rows), shapes)
        size = sum(observation.sizes)
        x = inverse(run_chain(make_joint(observation), size, n_steps, sampler))
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
    x = DDPMSampler(denoiser, steps=2 * configuration["n_steps"], silent=True)(x)
    with torch.no_grad():
        return way.inverse(denoiser(x, torch.zeros(())).mean)[:, 0].numpy()


def coverage(truth: np.ndarray, draws: np.ndarray, level: float):
    """How many truths are in the interval of Student's t about the mean of their draws."""
    n = len(draws)
    half = student.ppf((1 + level) / 2, n - 1) * draws.std(axis=0, ddof=1) * (1 + 1 / n) ** 0.5
    return float(np.mean(abs(truth - draws.mean(axis=0)) < half)) if truth.size else None


def summarise(view, truth: np.ndarray, draws: np.ndarray, chi2: np.ndarray) -> dict:
    """What draws of one source tell of its truth, of shapes (n, N, ny, nx) and (N, ny, nx)."""
    draws = np.nan_to_num(draws.astype(float), nan=0.0, posinf=1e9, neginf=-1e9)
    flux, fluxes = truth.sum(axis=(1, 2)), draws.sum(axis=(2, 3))
    peak = truth.max(axis=(1, 2))
    error = np.sqrt(np.square(draws.mean(axis=0) - truth).mean(axis=(1, 2)))
    bright = view.data[:, 0] > 2  # chosen by the data, which leaves calibrated draws calibrated
    limit = max(2.0, 1 + 6 * np.sqrt(2 / float(np.mean(view.n_valid()))))

    def row(chosen):
        relative = fluxes.mean(axis=0)[chosen] / flux[chosen] - 1
        low, middle, high = np.percentile(relative, [15.87, 50, 84.13])
        pixels = truth[chosen][bright[chosen]], draws[:, chosen][:, bright[chosen]]
        return {
            "n": int(chosen.sum()),
            "bias": float(middle),
            "scatter": float(high - low) / 2,
            "rms_error": float(np.median(error[chosen])),
            "flux_68": coverage(flux[chosen], fluxes[:, chosen], 0.68),
            "flux_95": coverage(flux[chosen], fluxes[:, chosen], 0.95),
            "pixels_68": coverage(*pixels, 0.68),
            "pixels_95": coverage(*pixels, 0.95),
            "chi2": float(np.median(chi2[:, chosen])),
            "failed": float(np.mean(~(chi2[:, chosen] < limit))),
        }

    bins = list(itertools.pairwise(DECADES))
    return {
        **row(peak >= DECADES[0]),
        "decades": [
            {"peaks": f"{low:g} to {high:g}", "peak": float(np.sqrt(low * high)), **row(chosen)}
            for low, high in bins
            if (chosen := (peak >= low) & (peak < high)).any()
        ],
    }


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

        return self._draw(view, joint, way.inverse, n_draws, "n_steps", DDPMSampler)

    def amortized(self, view, n_draws):
        """Draws by the joint posterior that was learned."""
        linear, setting = self.linear["linear"]
        given = self.networks.posterior(setting["sigma_min"]).given
        return self._draw(
            view, given, linear.inverse, n_draws, "amortized_steps", AMORTIZED_SAMPLER
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
