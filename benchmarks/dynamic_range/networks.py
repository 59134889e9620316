"""What diffuses, linear or stretched light, and the networks that learn it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from azula.noise import VESchedule
from torch import nn

from astro_ddprism.diffusion.learning.training import Trainer, Training
from astro_ddprism.diffusion.networks import UNet
from astro_ddprism.diffusion.observation import JointObservation, simulate
from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.diffusion.posteriors.amortized import AmortizedPosterior
from astro_ddprism.diffusion.posteriors.moment_matching import JointPosteriorDenoiser
from astro_ddprism.diffusion.posteriors.solvers import GMRES
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.random import seeded

from .problem import LIGHT, SHAPE, SIZE, Light, observe
from .stretched import Stretch, StretchedPosteriorDenoiser

__all__ = ["TRAINING", "Linear", "Networks", "Stretched", "stretched_way"]

TRAINING = 0  # of `seeded`: what random numbers are for


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
            backbone = UNet().build(SHAPE, SourceDenoiser.n_features)
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
            backbone = UNet().build((len(LIGHT), SIZE, SIZE), AmortizedPosterior.n_features)
            return AmortizedPosterior(backbone, VESchedule(sigma_min, 100 * scale), scale)

        return self._get("amortized", make, draw, self.configuration["n_posterior_images"])

    def _sigma_max(self, way) -> float:
        """Top of the noise schedule, which all sources share: ten times the brightest's scale."""
        with seeded(TRAINING, device=torch.device("cpu")):
            return 10 * max(bright_rms(way.transform(x)) for x in self._sources(2000).values())

    def _sources(self, n):
        return {source: self.light.draw(source, n) for source in LIGHT}

    def _get(self, name: str, make, draw, n_images: int):
        if name not in self._known:
            with seeded(TRAINING, device=torch.device("cpu")):
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
            options = {key: self.configuration[key] for key in ("batch_size", "learning_rate")}
            trainer = Trainer(
                Training(**options),
                Execution(device="cpu", precision="bfloat16"),
                track=lambda steps, title: steps,  # noqa: ARG005
                label=name,
            )
            loss = trainer.train(network, draw, n_images).mean
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
