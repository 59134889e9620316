"""Draws from a prior alone."""

import torch
from torch import Tensor

from ..random import Rows
from .samplers import SAMPLERS

__all__ = ["sample_prior"]


def sample_prior(
    denoiser, gaussian, shape, rows: Rows, *, sampler, n_steps, batch_size, track
) -> Tensor:
    """Draw a source from its diffusion prior.

    Chains begin from the Gaussian prior, perturbed to the top of the noise schedule, where the two
    priors cannot be told apart.

    Parameters
    ----------
    denoiser : azula.denoise.Denoiser
        The diffusion prior.
    gaussian : GaussianPrior
        The source's Gaussian prior.
    shape : tuple of int
        Shape of the source.
    rows : Rows
        Random numbers of the draws, on the device of the priors: one row for each of ``N``.
    sampler : str
        A name of `SAMPLERS`.
    n_steps : int
        Steps of a chain.
    batch_size : int
        Chains that run side by side.
    track : callable
        Wraps an iterable in a progress bar.

    Returns
    -------
    torch.Tensor
        Draws, of shape ``(N, *shape)``, on the CPU.
    """
    _, sigma = denoiser.schedule(torch.ones((), device=gaussian.mean.device))
    draws = []
    for i in track(range(0, len(rows), batch_size)):
        own = rows[i : i + batch_size]
        x = gaussian.sample(own).unflatten(1, shape)
        run = SAMPLERS[sampler](denoiser, own, steps=n_steps, silent=True)
        x = run(x + sigma * own.normal(*shape))
        with torch.no_grad():
            draws.append(denoiser(x, torch.zeros_like(sigma)).mean.cpu())
    return torch.cat(draws)
