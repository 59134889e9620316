r"""Gibbs sampling: one source at a time, given the others.

Where all other sources are known, an observation is one of a single source,

.. math:: y - \sum_{\gamma \ne \beta} A^\gamma x^\gamma = A^\beta x^\beta + \eta ,

of which any sampler of a single prior draws. Round after round, each source is drawn from this
conditional posterior, and after enough rounds all of them together are a draw from the joint one
[1]_, [2]_. How many are enough, the noise decides: a source can move in one round by no more than
what noise and its own prior leave open where the others stand still. Observations of little noise
that several sources share thus hold a chain where it began; the joint samplers
(`~astro_ddprism.diffusion.posteriors.moment_matching`) move all sources at once.

References
----------
.. [1] Heurtel-Depeiges et al. 2024, arXiv:2402.19455 (one image and its noise)
.. [2] Wagner-Carena, Akhmetzhanova & Erickson 2025, arXiv:2510.05205, appendix B (several sources)
"""

__all__ = ["Gibbs"]

from dataclasses import dataclass

import torch

from ...registry import MOST_REPEATS, option
from ..priors.schedule import time_of
from .base import POSTERIORS, Beginning, PosteriorMethod
from .components import mixture_draws
from .latent import LatentPosterior, latent_posterior
from .moment_matching import JointPosteriorDenoiser
from .solvers import GMRES, Solver


@POSTERIORS.register("gibbs")
@dataclass(frozen=True)
class Gibbs(PosteriorMethod):
    """One source at a time, given the others, under any priors.

    Chains begin at draws from the priors, or go on from draws of the EM iteration before.
    Conditional draws are exact under Gaussian priors and mixtures of Gaussians; under diffusion
    priors they are by moment matching for one source, from its last value perturbed.

    Parameters
    ----------
    n_rounds : int
        How often each source is drawn.
    solver : Solver
        The solver of the update that an observation makes.
    """

    n_rounds: int = option(16, least=1, most=MOST_REPEATS)
    solver: Solver = option(GMRES())

    def continues(self, priors, sources):  # noqa: ARG002, D102
        return True

    @torch.no_grad()
    def run(self, priors, observation, rows, *, chains, start, first=None):  # noqa: D102
        sources = tuple(observation.source_shapes)
        scales = observation.y.new_ones(len(observation), len(sources))
        if not priors.has_mixtures(sources):
            alone, inverse = observation.distinct
            scales = latent_posterior(alone, priors.gaussians).scales[inverse]
        x, begin = first, start
        if first is None:
            known = [priors.mixtures.get(source, priors.gaussians[source]) for source in sources]
            x, begin = torch.cat([p.sample(rows).to(scales) for p in known], dim=1), 1.0
        for number in range(self.n_rounds):
            for k, source in enumerate(sources):
                parts = list(x.split(observation.sizes, dim=1))
                parts[k] = self._conditional(
                    priors, observation.alone(source, x), parts[k], rows, scales[:, k], chains,
                    start if number else begin,
                )  # fmt: skip
                x = torch.cat(parts, dim=1)
        return x

    def _conditional(self, priors, alone, x, rows, scales, chains, start):
        """Draw the only source of observations, of which ``x`` are the values before."""
        (source,) = alone.source_shapes
        if source in priors.denoisers:
            denoisers = priors.on_one_schedule((source,), [scales])
            denoiser = JointPosteriorDenoiser(denoisers, alone, self.solver)
            alpha, sigma = denoiser.schedule(time_of(start, x.device))
            begun = Beginning(alpha * x + sigma * rows.normal(x.shape[1]), start, denoiser)
            return begun.descended(rows, *self.steps(chains))
        if source in priors.mixtures:
            return mixture_draws(priors.mixtures, alone, rows)
        latent = LatentPosterior(alone, [priors.gaussians[source]], scales[:, None])
        return latent.sample(rows)[0].to(x)
