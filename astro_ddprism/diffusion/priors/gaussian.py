r"""Gaussian scale-mixture priors.

A source is modelled in a subspace of ``R`` dimensions,

.. math:: x^\beta = \mu^\beta + s_\beta W^\beta z^\beta, \qquad z^\beta \sim \mathcal{N}(0, I_R) ,

a Gaussian of covariance :math:`W W^T` with one scale :math:`s_{i\beta}` for every observation and
source. Light on the sky needs the scales: fluxes span decades, and a single covariance would belong
to the brightest images and leave the noise of all others in their posterior. Where data are not of
that kind, all scales are 1 and the model is the plain Gaussian.
"""

import math
from functools import cached_property

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from torch import Tensor

from ..random import Rows

__all__ = ["GaussianPrior", "ScaleMixtureDenoiser", "has_scales"]

# Nodes of the quadrature over scales.
_N_NODES = 513


class GaussianPrior:
    r"""A Gaussian in a subspace, with a distribution of scales.

    Parameters
    ----------
    mean : torch.Tensor
        Mean :math:`\mu`, of shape ``(D,)``.
    factor : torch.Tensor
        Factor :math:`W` of the covariance, of shape ``(D, R)``.
    log_scale : torch.Tensor, optional
        Mean and standard deviation of :math:`\log s` over observations; (0, 0), the plain Gaussian,
        if not given.
    """

    def __init__(self, mean: Tensor, factor: Tensor, log_scale: Tensor | None = None):
        self.mean, self.factor = mean, factor
        self.log_scale = mean.new_zeros(2) if log_scale is None else log_scale

    @property
    def rank(self) -> int:
        """Number of latent dimensions, ``R``."""
        return self.factor.shape[1]

    @cached_property
    def varies(self) -> bool:
        """Whether observations have scales of their own."""
        return bool(self.log_scale[1] > 0)

    @property
    def rms(self) -> float:
        """Root mean square of the elements at the median scale."""
        spread = self.factor.square().sum(dim=1) * (2 * self.log_scale[0]).exp()
        return float((self.mean.square() + spread).mean().sqrt())

    def to(self, device=None, dtype=None) -> "GaussianPrior":
        """The same prior on another device or in another precision."""
        parts = (self.mean, self.factor, self.log_scale)
        return GaussianPrior(*(part.to(device=device, dtype=dtype) for part in parts))

    def sample(self, rows: Rows) -> Tensor:
        """Draw a vector for each row, of shape ``(B, D)``."""
        z = self.latent(rows)
        mean, std = self.log_scale
        scale = (mean + std * rows.normal(1, dtype=z.dtype)).exp()
        return self.mean + scale * (z @ self.factor.T)

    def latent(self, rows: Rows) -> Tensor:
        r"""Draw a latent vector for each row, of shape ``(B, R)``.

        :math:`W` and :math:`W Q` are one prior for any rotation :math:`Q`, and rounding alone may
        make one of the other. So latent vectors turn with :math:`W`, of singular value
        decomposition :math:`U S V^T`: :math:`z = V U^T e`, with :math:`e` drawn in the source's
        own coordinates.
        """
        e = rows.normal(len(self.mean), dtype=torch.float64)
        return (e @ self._rotation).to(self.mean.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        r"""Log-density of vectors ``(N, D)`` with noise of a scale added, of shape ``(N,)``.

        .. math:: \log \int \mathcal{N}(x \mid \mu, s^2 W W^T + \sigma^2 I) \, p(s) \, ds

        by the trapezoidal rule over the logarithm of the scale: one vector tells its scale to a
        part of :math:`1 / \sqrt{2 R}`, much better than the prior does.
        """
        location, spread = self.log_scale
        nodes = torch.linspace(-6, 6, _N_NODES if spread else 1).to(x) * bool(spread)
        scales = (location + spread * nodes).exp()
        basis, singular = self.axes
        residual = (x - self.mean) / sigma
        along = (residual @ basis).square()
        gained = (scales[:, None] * singular / sigma).square()  # (nodes, R)
        # By the determinant lemma, in the R dimensions of W.
        chi2 = residual.square().sum(dim=1, keepdim=True) - along @ (gained / (1 + gained)).T
        log_det = gained.log1p().sum(dim=1) + 2 * x.shape[1] * sigma.log()
        log_prob = -0.5 * (chi2 + log_det + x.shape[1] * math.log(2 * math.pi))
        return (log_prob + torch.log_softmax(-0.5 * nodes.square(), dim=0)).logsumexp(dim=1)

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor]:
        """Left singular vectors of the factor, of shape ``(D, R)``, and singular values."""
        return torch.linalg.svd(self.factor, full_matrices=False)[:2]

    @cached_property
    def _rotation(self) -> Tensor:
        left, _, right = torch.linalg.svd(self.factor.double(), full_matrices=False)
        return left @ right


def has_scales(shape) -> bool:
    """Whether sources of this shape have a scale for each observation: images do."""
    return len(shape) == 3


class ScaleMixtureDenoiser(Denoiser):
    r"""The exact denoiser of a Gaussian prior whose scales are known.

    .. math:: \mathbb{E}[x \mid x_t] = \mu + s^2 W (s^2 W^T W + \sigma_t^2 I)^{-1} W^T (x_t - \mu)

    It stands for a source whose network is not trained yet, beside sources whose networks are.

    Parameters
    ----------
    prior : GaussianPrior
        The prior.
    scales : torch.Tensor
        Scale of each observation, of shape ``(B,)``.
    schedule : azula.noise.Schedule
        A variance-exploding schedule.
    """

    def __init__(self, prior: GaussianPrior, scales: Tensor, schedule: Schedule):
        super().__init__()
        self.schedule = schedule
        self.mean, (self.basis, singular) = prior.mean, prior.axes
        self.variance = scales[:, None].square() * singular.square()

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        """Estimate the clean source of ``x_t``, of shape ``(B, *shape)``."""
        _, sigma = self.schedule(t)
        gain = self.variance / (self.variance + sigma**2)
        coefficients = (x_t.flatten(1) - self.mean) @ self.basis
        mean = self.mean + (gain * coefficients) @ self.basis.T
        return DiracPosterior(mean=mean.view_as(x_t))
