"""Exact posteriors: of Gaussian priors, and of mixtures of Gaussians for small sources."""

__all__ = ["ExactGaussian", "ExactMixture"]

from dataclasses import dataclass

import torch

from ...registry import option
from ..priors.mixture import have_few_features
from .base import POSTERIORS, Beginning, PosteriorMethod
from .components import mixture_draws
from .latent import latent_posterior
from .moment_matching import MomentMatching


@POSTERIORS.register("mixture")
@dataclass(frozen=True)
class ExactMixture(PosteriorMethod):
    """Exact draws under the warm start's mixtures of Gaussians, for sources of a few numbers.

    Parameters
    ----------
    otherwise : MomentMatching
        For observations of larger sources.
    """

    otherwise: MomentMatching = option(MomentMatching())

    def handles(self, source_shapes):  # noqa: D102
        return have_few_features(source_shapes)

    def is_ready(self, priors, sources):  # noqa: D102
        return priors.has_mixtures(sources)

    def approximates(self, priors, sources):  # noqa: ARG002, D102
        return False

    def denoiser(self, priors, observation):  # noqa: D102
        return self.otherwise.denoiser(priors, observation)

    def begin(self, priors, observation, rows, *, start, first=None):  # noqa: ARG002, D102
        return Beginning(mixture_draws(priors.mixtures, observation, rows))


@POSTERIORS.register("gaussian")
@dataclass(frozen=True)
class ExactGaussian(PosteriorMethod):
    """Exact draws under Gaussian priors, whatever else is known, with their scales as they are."""

    def approximates(self, priors, sources):  # noqa: ARG002, D102
        return False

    def begin(self, priors, observation, rows, *, start, first=None):  # noqa: ARG002, D102
        alone, inverse = observation.distinct
        latent = latent_posterior(alone, priors.gaussians, [False] * len(alone.sizes))
        drawn = torch.cat(latent.sample(rows, inverse), dim=1)
        return Beginning(drawn.to(observation.y))
