r"""Samplers: how a chain is brought down the noise schedule.

A `Sampler` describes one; a new sampler is a frozen dataclass of its options with a method `run`,
registered by name in `SAMPLERS`. Those here are azula's (`azula.sample`), but for where noise comes
from: the random numbers of a chain are its row's own (`~astro_ddprism.diffusion.random.Rows`), so
that a draw does not depend on what is drawn beside it.

References
----------
.. [1] Ho et al. 2020, arXiv:2006.11239 (ancestral)
.. [2] Song et al. 2021, arXiv:2010.02502 (DDIM); arXiv:2011.13456 (predictor-corrector)
.. [3] Karras et al. 2022, arXiv:2206.00364 (Heun)
.. [4] Zhang & Chen 2023, arXiv:2204.13902 (exponential Adams-Bashforth)
"""

__all__ = [
    "DDIM",
    "SAMPLERS",
    "AdamsBashforth",
    "Ancestral",
    "Heun",
    "PredictorCorrector",
    "Sampler",
]

import abc
import math
from dataclasses import dataclass

import azula.sample
from azula.denoise import Denoiser
from torch import Tensor

from ...registry import Part, Registry, option
from ..random import Rows

#: Samplers by name.
SAMPLERS = Registry("sampler", "astro_ddprism.samplers")


class Sampler(Part, abc.ABC):
    """A way down the noise schedule; its options are those of the dataclass."""

    registry = SAMPLERS

    @abc.abstractmethod
    def run(self, denoiser: Denoiser, x: Tensor, rows: Rows, *, start: float, steps: int) -> Tensor:
        """Bring chains from a time to the bottom of the noise schedule, time 0.

        Parameters
        ----------
        denoiser : azula.denoise.Denoiser
            Its ``schedule`` is that of the chains.
        x : torch.Tensor
            Perturbed vectors at the time ``start``, of shape ``(B, ...)``.
        rows : Rows
            Random numbers of the ``B`` chains.
        start : float
            Time in (0, 1].
        steps : int
            Number of steps.

        Returns
        -------
        torch.Tensor
            Vectors perturbed by the smallest noise of the schedule, of shape ``(B, ...)``.
        """


@SAMPLERS.register("ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """Denoising diffusion implicit models (Song et al. 2021).

    Parameters
    ----------
    eta : float
        Noise: none at 0 (the probability flow by Euler steps), that of the ancestral sampler at 1.
    """

    eta: float = option(0.0, least=0)

    def run(self, denoiser, x, rows, *, start, steps):  # noqa: D102
        return _DDIM(denoiser, self.eta, rows, start=start, steps=steps, silent=True)(x)


@SAMPLERS.register("ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """The reverse of the perturbation, step by step (Ho et al. 2020)."""

    def run(self, denoiser, x, rows, *, start, steps):  # noqa: D102
        return _DDIM(denoiser, 1.0, rows, start=start, steps=steps, silent=True)(x)


@SAMPLERS.register("predictor-corrector")
@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """Steps of the probability flow, each after corrections that renew a part of the noise.

    Parameters
    ----------
    corrections : int
        Corrections before each step.
    delta : float
        The part of the noise's variance that a correction renews.
    """

    corrections: int = option(1, least=0)
    delta: float = option(0.01, above=0, most=1)

    def run(self, denoiser, x, rows, *, start, steps):  # noqa: D102
        return _PredictorCorrector(
            denoiser, self.corrections, self.delta, rows, start=start, steps=steps, silent=True
        )(x)


@SAMPLERS.register("heun")
@dataclass(frozen=True)
class Heun(Sampler):
    """The probability flow by Heun's method, two evaluations a step (Karras et al. 2022)."""

    def run(self, denoiser, x, rows, *, start, steps):  # noqa: ARG002, D102
        return azula.sample.HeunSampler(denoiser, start=start, steps=steps, silent=True)(x)


@SAMPLERS.register("adams-bashforth")
@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """The probability flow by exponential multi-steps: few of them where priors are near Gaussian.

    Parameters
    ----------
    order : int
        Steps that one step knows of.
    """

    order: int = option(2, least=1)

    def run(self, denoiser, x, rows, *, start, steps):  # noqa: ARG002, D102
        return azula.sample.zEABSampler(
            denoiser, order=self.order, start=start, steps=steps, silent=True
        )(x)


class _DDIM(azula.sample.Sampler):
    """`azula.sample.DDIMSampler` with the noise of the rows."""

    def __init__(self, denoiser, eta: float, rows: Rows, **options):
        super().__init__(**options)
        self.denoiser, self.eta, self.rows = denoiser, eta, rows

    def __call__(self, x: Tensor) -> Tensor:
        self._noise = self.rows.normals(self.steps, *x.shape[1:]) if self.eta else None
        return super().__call__(x)

    def step(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = map(self.denoiser.schedule, (s, t))
        tau = 1 - (alpha_t / alpha_s * sigma_s / sigma_t) ** 2
        tau = (self.eta * tau).clip(0, 1)
        mean = self.denoiser(x_t, t).mean
        x_s = alpha_s * mean + sigma_s * (1 - tau).sqrt() / sigma_t * (x_t - alpha_t * mean)
        return x_s + sigma_s * tau.sqrt() * next(self._noise) if self.eta else x_s


class _PredictorCorrector(azula.sample.Sampler):
    """`azula.sample.PCSampler` with the noise of the rows."""

    def __init__(self, denoiser, corrections: int, delta: float, rows: Rows, **options):
        super().__init__(**options)
        self.denoiser, self.rows = denoiser, rows
        self.corrections, self.delta = corrections, delta

    def __call__(self, x: Tensor) -> Tensor:
        self._noise = self.rows.normals(self.corrections * self.steps, *x.shape[1:])
        return super().__call__(x)

    def step(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = map(self.denoiser.schedule, (s, t))
        for _ in range(self.corrections):
            mean = alpha_t * self.denoiser(x_t, t).mean
            x_t = mean + math.sqrt(1 - self.delta) * (x_t - mean)
            x_t = x_t + math.sqrt(self.delta) * sigma_t * next(self._noise)
        mean = self.denoiser(x_t, t).mean
        return alpha_s * mean + sigma_s / sigma_t * (x_t - alpha_t * mean)
