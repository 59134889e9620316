"""Samplers of azula by the names of the field."""

import math
from functools import partial

from azula.sample import HeunSampler, Sampler, zEABSampler
from torch import Tensor

from ..random import Rows

__all__ = ["SAMPLERS"]

# How far the steps of the predictor-corrector sampler renew the noise.
_CORRECTION = 0.01


class _NoisySampler(Sampler):
    """A sampler whose noise is that of its rows: as azula's, which have none of their own.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        The denoiser.
    rows : Rows
        Random numbers of the chains.
    **options
        Of azula's samplers.
    """

    def __init__(self, denoiser, rows: Rows, **options):
        super().__init__(**options)
        self.denoiser, self.rows = denoiser, rows

    def __call__(self, x: Tensor) -> Tensor:
        self._noise = self.rows.normals(self.steps, *x.shape[1:])
        return super().__call__(x)


class AncestralSampler(_NoisySampler):
    """azula's `~azula.sample.DDPMSampler`."""

    def step(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = map(self.denoiser.schedule, (s, t))
        tau = 1 - (alpha_t / alpha_s * sigma_s / sigma_t) ** 2
        mean = self.denoiser(x_t, t).mean
        x_s = alpha_s * mean + sigma_s * (1 - tau).sqrt() / sigma_t * (x_t - alpha_t * mean)
        return x_s + sigma_s * tau.sqrt() * next(self._noise)


class PredictorCorrectorSampler(_NoisySampler):
    """azula's `~azula.sample.PCSampler`, of one correction a step."""

    def step(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = map(self.denoiser.schedule, (s, t))
        mean = alpha_t * self.denoiser(x_t, t).mean
        x_t = mean + math.sqrt(1 - _CORRECTION) * (x_t - mean)
        x_t = x_t + math.sqrt(_CORRECTION) * sigma_t * next(self._noise)
        mean = self.denoiser(x_t, t).mean
        return alpha_s * mean + sigma_s / sigma_t * (x_t - alpha_t * mean)


class DDIMSampler(Sampler):
    """azula's `~azula.sample.DDIMSampler` without noise, which draws none."""

    def __init__(self, denoiser, **options):
        super().__init__(**options)
        self.denoiser = denoiser

    def step(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        (alpha_s, sigma_s), (alpha_t, sigma_t) = map(self.denoiser.schedule, (s, t))
        mean = self.denoiser(x_t, t).mean
        return alpha_s * mean + sigma_s / sigma_t * (x_t - alpha_t * mean)


def _without_noise(kind, denoiser, rows, **options) -> Sampler:  # noqa: ARG001
    return kind(denoiser, **options)


#: Samplers by the names of the field: called with a denoiser, rows and azula's options.
SAMPLERS = {
    "adams-bashforth": partial(_without_noise, zEABSampler),
    "ancestral": AncestralSampler,
    "predictor-corrector": PredictorCorrectorSampler,
    "ddim": partial(_without_noise, DDIMSampler),
    "heun": partial(_without_noise, HeunSampler),
}
