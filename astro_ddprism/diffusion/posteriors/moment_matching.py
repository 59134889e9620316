r"""The denoiser of all sources, given an observation: moment matching posterior sampling.

With every source perturbed independently, :math:`x_t^\beta = \alpha_t x^\beta + \sigma_t z^\beta`,
each prior's denoiser gives :math:`\mathbb{E}[x^\beta \mid x_t^\beta]` and, through its Jacobian,
the covariance

.. math:: V^\beta = \frac{\sigma_t^2}{\alpha_t} \,
          \frac{\partial \mathbb{E}[x^\beta \mid x_t^\beta]}{\partial x_t^\beta} .

Approximating :math:`p(x^\beta \mid x_t^\beta)` by that Gaussian, the whitened observation has the
likelihood

.. math:: p(\tilde y \mid x_t) \approx \mathcal{N}\Big(\tilde y \,\Big|\,
          \sum_\beta \tilde A^\beta \mathbb{E}^\beta, \; M\Big), \qquad
          M = I + \sum_\beta \tilde A^\beta V^\beta \tilde A^{\beta T},

and the posterior means of the sources given :math:`x_t` *and* the observation are

.. math:: \mathbb{E}[x^\beta \mid x_t, y] = \mathbb{E}^\beta + V^\beta \tilde A^{\beta T} M^{-1}
          \Big(\tilde y - \sum_\beta \tilde A^\beta \mathbb{E}^\beta\Big) .

Noise may depend on the sources, as photon noise does
(`~astro_ddprism.mixing.PhotonNoise`), :math:`\Sigma(s)` of the light
:math:`s = \sum_\beta A^\beta x^\beta`. By the law of total covariance, the covariance of
:math:`y` given :math:`x_t` is then

.. math:: \mathbb{E}[\Sigma(s) \mid x_t] + \sum_\beta A^\beta V^\beta A^{\beta T}
          \approx \Sigma\Big(\sum_\beta A^\beta \mathbb{E}^\beta\Big)
          + \sum_\beta A^\beta V^\beta A^{\beta T} ,

with equality wherever :math:`\Sigma` is linear: that of photons is, in light that is positive. So
the observation is whitened anew in each evaluation, with the noise of the light that the denoisers
expect, which knows nothing of the noise in :math:`y`; no flux comes out too low. As
:math:`\sigma_t` falls, the score becomes :math:`A^T \Sigma(A x)^{-1} (y - A x)`, that of a
*quasi-likelihood* (Wedderburn 1974), which is for :math:`\Sigma = \sigma^2 + s / g` the exact
score of Poisson counts, :math:`g y + g^2 \sigma^2` of the mean :math:`g s + g^2 \sigma^2`.

This is a denoiser of the joint vector of all sources like any other, so azula's samplers draw from
the joint posterior with it. With ``K`` solver iterations one evaluation costs a forward pass and
``K`` vector-Jacobian products of every source's network; with an exact solve, as many as the
observation has numbers.

References
----------
.. [1] Rozet et al. 2024, arXiv:2405.13712 (moment matching posterior sampling)
.. [2] Wagner-Carena, Akhmetzhanova & Erickson 2025, arXiv:2510.05205 (several sources)
.. [3] Wedderburn 1974, Biometrika 61, 439 (quasi-likelihood)
"""

__all__ = ["JointPosteriorDenoiser", "MomentMatching", "prior_moments"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from azula.denoise import Denoiser, DiracPosterior
from torch import Tensor, nn

from ...registry import option
from ..jacobian import linearize
from ..observation import JointObservation
from ..priors.schedule import time_of
from .base import POSTERIORS, Beginning, PosteriorMethod
from .components import mixture_draws
from .latent import absorb_residual, latent_posterior
from .solvers import GMRES, Solver


@POSTERIORS.register("moment-matching")
@dataclass(frozen=True)
class MomentMatching(PosteriorMethod):
    """Moment matching posterior sampling: the denoisers of all sources and their Jacobians.

    It needs nothing but priors, and serves any sources and operators. Its chains begin from first
    draws in closed form: under mixtures of Gaussians where all sources have one, else under
    Gaussian priors, which also stand in for diffusion priors that are not learned yet.

    Parameters
    ----------
    solver : Solver
        The solver of the update that an observation makes.
    """

    solver: Solver = option(GMRES())

    def approximates(self, priors, sources):  # noqa: D102
        known = [source in priors.denoisers for source in sources]
        return all(known) if priors.has_mixtures(sources) else any(known)

    def continues(self, priors, sources):  # noqa: D102
        # Mixtures draw anew: their draws know every branch, a chain only its own.
        return not priors.has_mixtures(sources)

    def denoiser(self, priors, observation):  # noqa: D102
        sources = observation.source_shapes
        scales = observation.y.new_ones(len(sources), len(observation))
        return self._denoiser(priors, observation, scales)

    def begin(self, priors, observation, rows, *, start, first=None):
        """At first draws in closed form, perturbed; see ``PosteriorMethod.begin``."""
        sources = tuple(observation.source_shapes)
        if priors.has_mixtures(sources):
            first = mixture_draws(priors.mixtures, observation, rows)
            scales = first.new_ones(len(sources), len(first))
        else:
            alone, inverse = observation.distinct
            latent = latent_posterior(alone, priors.gaussians)
            scales = latent.scales[inverse].T.to(observation.y)
            if first is None:
                drawn = torch.cat(latent.sample(rows, inverse), dim=1).to(observation.y)
                first = absorb_residual(observation, drawn, rows)
        if not self.approximates(priors, sources):
            return Beginning(first)
        denoiser = self._denoiser(priors, observation, scales)
        alpha, sigma = denoiser.schedule(time_of(start, first.device))
        x = alpha * first + sigma * rows.normal(first.shape[1])
        return Beginning(x, start, denoiser)

    def _denoiser(self, priors, observation, scales):
        denoisers = priors.on_one_schedule(observation.source_shapes, scales)
        return JointPosteriorDenoiser(denoisers, observation, self.solver)


class JointPosteriorDenoiser(Denoiser):
    r"""Denoiser of the joint vector of all sources, given an observation.

    Parameters
    ----------
    denoisers : list of azula.denoise.Denoiser
        One for each source of ``observation``, in its order; all share one noise schedule.
    observation : JointObservation
        The whitened observations of the batch.
    solver : Solver
        Finds the correction by the observation.
    """

    def __init__(self, denoisers, observation: JointObservation, solver: Solver):
        super().__init__()
        self.denoisers = nn.ModuleList(denoisers)
        self.observation = observation
        self.solver = solver
        self._update = solver.bind(observation)

    @property
    def schedule(self):
        """The noise schedule that all sources share."""
        return self.denoisers[0].schedule

    @torch.no_grad()
    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        r"""Estimate all sources.

        Parameters
        ----------
        x_t : torch.Tensor
            Perturbed joint vectors, of shape ``(B, D)``.
        t : torch.Tensor
            Time, of shape ``()``.

        Returns
        -------
        azula.denoise.DiracPosterior
            Its ``mean`` is :math:`\mathbb{E}[x \mid x_t, y]`, of shape ``(B, D)``.
        """
        observation, update = self.observation, self._update
        mean, covariance = prior_moments(self.denoisers, observation, x_t, t)
        if observation.depends_on_signal:
            observation = observation.at(mean)
            update = self.solver.bind(observation)
        residual = observation.y - observation.forward(mean)
        return DiracPosterior(mean=mean + update(covariance, residual))


def prior_moments(
    denoisers: Sequence[Denoiser], observation: JointObservation, x_t: Tensor, t: Tensor
) -> tuple[Tensor, Callable]:
    r"""Mean and covariance of all sources given their perturbed values, without the observation.

    Parameters
    ----------
    denoisers : sequence of azula.denoise.Denoiser
        The priors, in the order of the joint vector, of one noise schedule.
    observation : JointObservation
        Splits joint vectors into the sources and joins them.
    x_t : torch.Tensor
        Perturbed joint vectors, of shape ``(B, D)``.
    t : torch.Tensor
        Time, of shape ``()``.

    Returns
    -------
    mean : torch.Tensor
        :math:`\mathbb{E}[x \mid x_t]`, of shape ``(B, D)``.
    covariance : callable
        Multiplies joint vectors by the covariances :math:`V^\beta` of the sources.
    """
    alpha_t, sigma_t = denoisers[0].schedule(t)
    gamma_t = sigma_t**2 / alpha_t
    linear = [
        linearize(denoiser, part, t)
        for denoiser, part in zip(denoisers, observation.split(x_t), strict=True)
    ]

    def covariance(v: Tensor) -> Tensor:
        parts = zip(linear, observation.split(v), strict=True)
        products = [pullback(part).flatten(2) for (_, pullback), part in parts]
        return gamma_t * torch.cat(products, dim=-1)

    return observation.join([value for value, _ in linear]), covariance
