r"""Diffusion of stretched light: the other way to a large dynamic range.

With :math:`u = \mathrm{asinh}(x / s)`, bright and faint pixels are of one order and diffuse alike;
but light adds in :math:`x = s \sinh u`, so that the observation is no longer linear,

.. math:: \tilde y = \sum_\beta \tilde A^\beta s \sinh u^\beta + \eta .

Moment matching asks for a linear one. About a point :math:`m`, with
:math:`D = \mathrm{diag}(s \cosh m)`, it is

.. math:: \tilde y \approx \tilde A (s \sinh m + D (u - m)) + \eta ,

and with :math:`m = \mathbb{E}[u \mid u_t]` the posterior mean of :math:`u` is

.. math:: m + V D \tilde A^T M^{-1} (\tilde y - \tilde A s \sinh m) , \qquad
          M = I + \tilde A D V D \tilde A^T .

This is one step of Gauss and Newton. As :math:`D` changes by a factor of thousands over the
prior's range, one step from a point far away leads anywhere; so there may be more of them, each
linearized at the last one's result, and no result may leave the range of the light.
"""

__all__ = ["Stretch", "StretchedPosteriorDenoiser"]

from dataclasses import dataclass

import torch
from azula.denoise import Denoiser, DiracPosterior
from torch import Tensor, nn

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.moment_matching import prior_moments
from astro_ddprism.diffusion.posteriors.solvers import Solver


@dataclass(frozen=True)
class Stretch:
    """The stretch asinh(x / s), for light in a known range.

    Parameters
    ----------
    softening : float
        Light below which the stretch is linear, in units of the noise.
    faintest, brightest : float
        The range, to which results are clipped.
    """

    softening: float
    faintest: float = -float("inf")
    brightest: float = float("inf")

    def __call__(self, x: Tensor) -> Tensor:
        """Light to stretched light."""
        return torch.asinh(x / self.softening)

    def inverse(self, u: Tensor) -> Tensor:
        """Stretched light to light."""
        return self.softening * torch.sinh(u)

    def slope(self, u: Tensor) -> Tensor:
        """Derivative of the inverse."""
        return self.softening * torch.cosh(u)

    def clip(self, u: Tensor) -> Tensor:
        """Stretched light within the range."""
        limits = torch.tensor([self.faintest, self.brightest]).to(u)
        low, high = self(limits)
        return u.clip(low, high)


class StretchedPosteriorDenoiser(Denoiser):
    """Denoiser of the joint vector of all stretched sources, given an observation of their light.

    Parameters
    ----------
    denoisers : list of azula.denoise.Denoiser
        Of the stretched sources, in the order of ``observation``; all share one noise schedule.
    observation : JointObservation
        The whitened observations of the light.
    solver : Solver
        Finds the correction by the observation.
    stretch : Stretch
        That of all sources.
    n_linearizations : int
        Steps of Gauss and Newton.
    """

    def __init__(
        self,
        denoisers,
        observation: JointObservation,
        solver: Solver,
        stretch: Stretch,
        n_linearizations: int = 1,
    ):
        super().__init__()
        self.denoisers = nn.ModuleList(denoisers)
        self.observation = observation
        self.solver = solver
        self.stretch = stretch
        self.n_linearizations = n_linearizations

    @property
    def schedule(self):
        """The noise schedule that all sources share."""
        return self.denoisers[0].schedule

    @torch.no_grad()
    def forward(self, u_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        """Estimate all stretched sources, ``(B, D)``, from perturbed ones at time ``t``."""
        observation, stretch = self.observation, self.stretch
        mean, covariance = prior_moments(self.denoisers, observation, u_t, t)
        mean = prior = stretch.clip(mean)
        for _ in range(self.n_linearizations):
            tangent = Tangent(observation, stretch.slope(mean))
            residual = observation.y - observation.forward(stretch.inverse(mean))
            residual = residual - tangent.forward(prior - mean)
            update = self.solver.bind(tangent)(covariance, residual)
            mean = stretch.clip(prior + update)
        return DiracPosterior(mean=mean)


class Tangent:
    """The linear observation that a change of the stretched sources makes: A D."""

    def __init__(self, observation: JointObservation, slope: Tensor):
        self.y = observation.y
        self._observation, self._slope = observation, slope

    def forward(self, v: Tensor) -> Tensor:
        return self._observation.forward(self._slope * v)

    def adjoint(self, r: Tensor) -> Tensor:
        return self._slope * self._observation.adjoint(r)
