r"""Noise-annealed Langevin dynamics under given priors: BASIS.

Langevin dynamics draws from a density by its score alone, but not from one with several modes. So
it runs through ever smaller noise scales [1]_, [2]_: at each, all sources carry noise of a scale
:math:`\sigma`, which joins their modes, and a few steps

.. math:: x \leftarrow x + \epsilon \sigma^2 \left[\frac{D(x, \sigma) - x}{\sigma^2}
          + \tilde A^T (I + \sigma^2 \tilde A \tilde A^T)^{-1} (\tilde y - \tilde A x)\right]
          + \sqrt{2 \epsilon} \, \sigma z

follow the scores of the priors, from their denoisers :math:`D`, and of the observation, whose noise
is its own and what that of the sources brings into it. Where :math:`\sigma` is small the dynamics
is that of the posterior. Without noise of its own an observation is met to :math:`\sigma` at each
scale, as in [1]_: give noiseless mixtures a variance far below ``sigma_min``.

It evaluates every denoiser once a step and no Jacobian, so a step costs a fraction of that of
moment matching, and many more are needed. And it is not exact: modes are chosen at the scale at
which they part, where the observation is that much less sharp. Modes that the observation tells
apart by more than its own noise, but by less than their distance, get weights that are too even.

References
----------
.. [1] Jayaram & Thickstun 2020, arXiv:2002.07942 (BASIS)
.. [2] Song & Ermon 2019, arXiv:1907.05600 (annealed Langevin dynamics)
"""

__all__ = ["Langevin"]

from dataclasses import dataclass

import numpy as np
import torch
from azula.linalg.solve import cg

from ...registry import MOST_REPEATS, option
from ..priors.schedule import time_of
from .base import POSTERIORS, PosteriorMethod

# Conjugate gradient iterations with the observation's covariance, which cost no network.
_N_SOLVE = 4


@POSTERIORS.register("langevin")
@dataclass(frozen=True)
class Langevin(PosteriorMethod):
    r"""Noise-annealed Langevin dynamics (BASIS), under given priors.

    ``n_steps`` of the chains are the noise scales; the sampler and where chains start have no part
    in it.

    Parameters
    ----------
    n_repeats : int
        Steps at each noise scale.
    step : float
        The step :math:`\epsilon`; the curvature is at most :math:`2 / \sigma^2`.
    """

    n_repeats: int = option(8, least=1, most=MOST_REPEATS)
    step: float = option(0.2, above=0, most=0.5)

    @torch.no_grad()
    def run(self, priors, observation, rows, *, chains, start, first=None):  # noqa: ARG002, D102
        sources, y = tuple(observation.source_shapes), observation.y
        denoisers = priors.on_one_schedule(sources, y.new_ones(len(sources), len(y)))
        n_scales = max(chains.n_steps, 2)
        noise = rows.normals(n_scales * self.n_repeats + 1, sum(observation.sizes))
        schedule, x = denoisers[0].schedule, next(noise)

        def pull(x, t, sigma):
            """The score of the priors and the observation, times the noise's variance."""
            parts = zip(denoisers, observation.split(x), strict=True)
            mean = observation.join([denoiser(part, t).mean for denoiser, part in parts])
            seen = observation.at(mean)

            def covariance(z):
                return z + sigma**2 * seen.forward(seen.adjoint(z))

            z = cg(covariance, seen.y - seen.forward(x), iterations=_N_SOLVE)
            return mean - x + sigma**2 * seen.adjoint(z)

        for k, time in enumerate(np.linspace(1, 0, n_scales)):
            t = time_of(time, x.device)
            _, sigma = schedule(t)
            x = x if k else sigma * x
            for _ in range(self.n_repeats):
                x = x + self.step * pull(x, t, sigma)
                x = x + (2 * self.step) ** 0.5 * sigma * next(noise)
        return x + pull(x, t, sigma)
