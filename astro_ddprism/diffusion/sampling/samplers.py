r"""Samplers: how a chain is brought down the noise schedule.

A `Sampler` describes one; a new sampler is a frozen dataclass of its options with a method `run`,
registered by name in `SAMPLERS`. Those here are azula's (`azula.sample`), but for two things. The
random numbers of a chain are its row's own (`~astro_ddprism.diffusion.random.Rows`), so that a draw
does not depend on what is drawn beside it. And the scales of noise are numbers of the host, so that
nothing waits for the device, or is copied to it, from the first step to the last.

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
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from azula.denoise import Denoiser
from torch import Tensor

from ...registry import MOST_REPEATS, Part, Registry, option
from ..priors.schedule import time_of
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
        return _implicit(denoiser, x, rows, self.eta, start=start, steps=steps)


@SAMPLERS.register("ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """The reverse of the perturbation, step by step (Ho et al. 2020)."""

    def run(self, denoiser, x, rows, *, start, steps):  # noqa: D102
        return _implicit(denoiser, x, rows, 1.0, start=start, steps=steps)


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

    corrections: int = option(1, least=0, most=MOST_REPEATS)
    delta: float = option(0.01, above=0, most=1)

    @torch.no_grad()
    def run(self, denoiser, x, rows, *, start, steps):  # noqa: D102
        noise = rows.normals(self.corrections * steps, *x.shape[1:])
        for now, then in _path(denoiser, x, start, steps):
            for _ in range(self.corrections):
                mean = now.alpha * denoiser(x, now.t).mean
                x = mean + math.sqrt(1 - self.delta) * (x - mean)
                x = x + math.sqrt(self.delta) * now.sigma * next(noise)
            mean = denoiser(x, now.t).mean
            x = then.alpha * mean + then.sigma / now.sigma * (x - now.alpha * mean)
        return x


@SAMPLERS.register("heun")
@dataclass(frozen=True)
class Heun(Sampler):
    """The probability flow by Heun's method, two evaluations a step (Karras et al. 2022)."""

    @torch.no_grad()
    def run(self, denoiser, x, rows, *, start, steps):  # noqa: ARG002, D102
        for now, then in _path(denoiser, x, start, steps):
            z = now.noise(x, denoiser(x, now.t).mean)
            ahead = now.step(x, then, z)
            x = now.step(x, then, (z + then.noise(ahead, denoiser(ahead, then.t).mean)) / 2)
        return x


@SAMPLERS.register("adams-bashforth")
@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """The probability flow by exponential multi-steps: few steps where all is near Gaussian.

    Parameters
    ----------
    order : int
        Steps that one step knows of.
    """

    order: int = option(2, least=1)

    @torch.no_grad()
    def run(self, denoiser, x, rows, *, start, steps):  # noqa: ARG002, D102
        known, scales = [], []
        for now, then in _path(denoiser, x, start, steps):
            known = [*known, now.noise(x, denoiser(x, now.t).mean)][-self.order :]
            scales = [*scales, math.log(now.sigma / now.alpha)][-self.order :]
            shares = _exponential(scales, math.log(then.sigma / then.alpha))
            x = then.alpha / now.alpha * x
            for z, share in zip(known, shares, strict=True):
                x = x + then.alpha * share * z
        return x


@dataclass(frozen=True)
class _Point:
    """A time of a chain: as a tensor, and its scales of signal and noise, which the host knows."""

    t: Tensor
    alpha: float
    sigma: float

    def noise(self, x: Tensor, mean: Tensor) -> Tensor:
        """The noise that is expected in ``x``, of unit variance."""
        return (x - self.alpha * mean) / self.sigma

    def step(self, x: Tensor, then: "_Point", z: Tensor) -> Tensor:
        """Along the probability flow to another time, with this noise on the way."""
        change = then.alpha * (then.sigma / then.alpha - self.sigma / self.alpha)
        return then.alpha / self.alpha * x + change * z


def _path(denoiser, x: Tensor, start: float, steps: int):
    """Pairs of points between which the steps of a chain lead."""
    times = np.linspace(start, 0, steps + 1)
    scales = (part.tolist() for part in denoiser.schedule(torch.from_numpy(times)))
    points = [
        _Point(time_of(t, x.device), alpha, sigma)
        for t, alpha, sigma in zip(times.tolist(), *scales, strict=True)
    ]
    return itertools.pairwise(points)


@torch.no_grad()
def _implicit(denoiser, x: Tensor, rows: Rows, eta: float, *, start, steps) -> Tensor:
    noise = rows.normals(steps, *x.shape[1:]) if eta else None
    for now, then in _path(denoiser, x, start, steps):
        tau = 1 - (now.alpha / then.alpha * then.sigma / now.sigma) ** 2
        tau = min(max(eta * tau, 0.0), 1.0)
        mean = denoiser(x, now.t).mean
        kept = then.sigma * math.sqrt(1 - tau) / now.sigma
        x = then.alpha * mean + kept * (x - now.alpha * mean)
        if eta:
            x = x + then.sigma * math.sqrt(tau) * next(noise)
    return x


def _exponential(u: list[float], end: float) -> np.ndarray:
    r"""Weights of the noise at the times ``u`` in a step from the last of them to ``end``.

    Those of :math:`\int e^v \ell_i(v) dv`, with :math:`\ell_i` the Lagrange polynomials of ``u``.
    """
    k = np.arange(len(u))
    factorials = np.cumprod(k.clip(min=1))

    def integral(v):
        return (-1.0) ** k * factorials * np.exp(v) * np.cumsum((-v) ** k / factorials)

    return np.linalg.solve(np.array(u) ** k[:, np.newaxis], integral(end) - integral(u[-1]))
