"""Draws from a prior alone."""

__all__ = ["draw_prior"]

import torch
from torch import Tensor

from .. import ranks
from ..capture import CapturedDenoiser
from ..priors.schedule import time_of
from ..random import Rows
from .chains import Chains

# Steps of a chain of a prior alone, for each of a posterior's.
_FINER = 4


@torch.no_grad()
def draw_prior(
    denoiser, gaussian, shape, rows: Rows, *, chains: Chains, batch_size: int, track
) -> Tensor:
    """Draw a source from its diffusion prior.

    Chains begin from the Gaussian prior, perturbed to the top of the noise schedule, where the two
    priors cannot be told apart.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        The diffusion prior.
    gaussian : `~astro_ddprism.diffusion.priors.gaussian.GaussianPrior`
        The source's Gaussian prior.
    shape : tuple of int
        Shape of the source.
    rows : Rows
        Random numbers of the draws, on the device of the priors: one row for each of ``N``.
    chains : Chains
        How chains run.
    batch_size : int
        Chains that run side by side.
    track : callable
        Wraps an iterable in a progress bar.

    Returns
    -------
    torch.Tensor
        Draws, of shape ``(N, *shape)``, on the CPU.
    """
    denoiser = CapturedDenoiser.of(denoiser, _FINER * chains.n_steps, gaussian.mean.device)
    _, sigma = denoiser.schedule(time_of(1.0, gaussian.mean.device))
    n, rows = len(rows), rows[ranks.own_rows(len(rows))]
    steps, draws = _FINER * chains.n_steps, [torch.empty(0, *shape)]
    for i in track(range(0, len(rows), batch_size)):
        own = rows[i : i + batch_size]
        x = gaussian.sample(own).unflatten(1, shape)
        x = x + sigma * own.normal(*shape)
        x = chains.sampler.run(denoiser, x, own, start=1.0, steps=steps)
        draws.append(denoiser(x, time_of(0.0, x.device)).mean.cpu())
    return ranks.gathered(torch.cat(draws), n)
