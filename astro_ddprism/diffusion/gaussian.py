r"""Gaussian scale-mixture priors and their closed-form expectation maximization: the warm start.

A source is modelled in a subspace of ``R`` dimensions,

.. math:: x^\beta = \mu^\beta + s_\beta W^\beta z^\beta, \qquad z^\beta \sim \mathcal{N}(0, I_R) ,

a Gaussian of covariance :math:`W W^T` with one scale :math:`s_{i\beta}` for every observation and source.
Light on the sky needs the scales: fluxes span decades, and a single covariance would belong to the
brightest images and leave the noise of all others in their posterior. Where data are not of that kind,
all scales are 1 and the model is the plain Gaussian.

Given the whitened observation :math:`\tilde y = \sum_\beta \tilde A^\beta x^\beta + \varepsilon`, the
latent vectors of all sources, :math:`z = (z^1, \dots, z^S)`, have a Gaussian posterior in closed form. With
:math:`G = (s_1 \tilde A^1 W^1, \dots, s_S \tilde A^S W^S)`,

.. math:: P = I + G^T G, \qquad \bar z = P^{-1} G^T (\tilde y - \tilde A \mu), \qquad
          z \mid y \sim \mathcal{N}(\bar z, P^{-1}) ,

and the marginal likelihood of the scales is at its maximum at the fixed point (MacKay 1992, Neural
Computation 4, 415)

.. math:: s_\beta^2 \leftarrow s_\beta^2 \,
          \frac{\|\bar z^\beta\|^2}{R - \mathrm{tr}\, (P^{-1})^{\beta\beta}} .

The M-step is closed as well: :math:`\mathbb{E}[z z^T] = \bar z \bar z^T + P^{-1}`, averaged over
observations, is the covariance in the coordinates of :math:`W`.
"""

__all__ = ["GaussianPrior", "LatentPosterior"]

import torch
from torch import Tensor

from .observation import JointObservation
from .symmetries import orbit


class GaussianPrior:
    r"""A Gaussian in a subspace, with a distribution of scales.

    Parameters
    ----------
    mean : torch.Tensor
        Mean :math:`\mu`, of shape ``(D,)``.
    factor : torch.Tensor
        Factor :math:`W` of the covariance, of shape ``(D, R)``.
    log_scale : torch.Tensor, optional
        Mean and standard deviation of :math:`\log s` over observations; (0, 0), the plain Gaussian, if
        not given.
    """

    def __init__(self, mean: Tensor, factor: Tensor, log_scale: Tensor | None = None):
        self.mean, self.factor = mean, factor
        self.log_scale = mean.new_zeros(2) if log_scale is None else log_scale

    @property
    def rank(self) -> int:
        """Number of latent dimensions, ``R``."""
        return self.factor.shape[1]

    def to(self, device=None, dtype=None) -> "GaussianPrior":
        """The same prior on another device or in another precision."""
        parts = (self.mean, self.factor, self.log_scale)
        return GaussianPrior(*(part.to(device=device, dtype=dtype) for part in parts))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` vectors, of shape ``(n, D)``."""
        options = {"generator": generator, "dtype": self.mean.dtype, "device": self.mean.device}
        z = torch.randn(n, self.rank, **options)
        mean, std = self.log_scale
        scale = (mean + std * torch.randn(n, 1, **options)).exp()
        return self.mean + scale * (z @ self.factor.T)


class LatentPosterior:
    """The posterior of the latent vectors of all sources, given a batch of observations.

    Parameters
    ----------
    observation : JointObservation
        The whitened observations.
    priors : list of GaussianPrior
        One prior for each source of ``observation``, in its order.
    scales : torch.Tensor, optional
        Scales of the observations and sources, of shape ``(B, S)``, to begin with; the priors' median
        scales if not given.
    """

    def __init__(self, observation: JointObservation, priors, scales: Tensor | None = None):
        self.priors = priors
        self.ranks = [prior.rank for prior in priors]
        n = len(observation)
        mean = torch.cat([prior.mean for prior in priors]).expand(n, -1)
        residual = observation.y - observation.forward(mean)
        columns = [
            observation.forward(column.expand(n, -1))
            for column in torch.block_diag(*(prior.factor for prior in priors)).T
        ]
        design = torch.stack(columns, dim=-1)
        self._gram = design.mT @ design
        self._projection = (design.mT @ residual[..., None])[..., 0]
        if scales is None:
            median = torch.stack([prior.log_scale[0] for prior in priors]).exp()
            scales = median.expand(n, -1)
        self.scales = scales
        self._solve()

    def _expanded_scales(self) -> Tensor:
        ranks = torch.tensor(self.ranks, device=self.scales.device)
        return self.scales.repeat_interleave(ranks, dim=1)

    def _solve(self):
        s = self._expanded_scales()
        precision = s[:, :, None] * self._gram * s[:, None, :]
        precision.diagonal(dim1=1, dim2=2).add_(1)
        self._cholesky = torch.linalg.cholesky(precision)
        self.mean = torch.cholesky_solve((s * self._projection)[..., None], self._cholesky)[..., 0]
        self.covariance = torch.cholesky_inverse(self._cholesky)

    def maximize_scales(self, learn: list[bool], iterations: int = 6):
        """Move the scales of the sources that ``learn`` marks to their marginal likelihood's maximum.

        The fixed point is damped by a log-normal prior on the scale worth one latent dimension, so that
        an observation that says nothing of a source keeps its typical scale.
        """
        for _ in range(iterations):
            variances = self.covariance.diagonal(dim1=1, dim2=2).split(self.ranks, dim=1)
            updated = []
            for k, (z, var) in enumerate(
                zip(self.mean.split(self.ranks, dim=1), variances, strict=True)
            ):
                old = self.scales[:, k]
                if learn[k]:
                    typical = self.priors[k].log_scale[0].exp()
                    power = (old * z.norm(dim=1)).square()
                    informed = len(var[0]) - var.sum(dim=1)
                    old = ((power + typical**2 * 1e-2) / (informed.clip(min=0) + 1)).sqrt()
                updated.append(old)
            self.scales = torch.stack(updated, dim=1)
            self._solve()

    def sample(self, generator: torch.Generator) -> list[Tensor]:
        """Draw every source of every observation, a list of ``(B, D_source)``."""
        e = torch.randn(
            self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        z = (
            self.mean
            + torch.linalg.solve_triangular(self._cholesky.mT, e[..., None], upper=True)[..., 0]
        )
        return self._expand(z)

    def expectation(self) -> list[Tensor]:
        """Posterior mean of every source, a list of ``(B, D_source)``."""
        return self._expand(self.mean)

    def _expand(self, z: Tensor) -> list[Tensor]:
        return [
            prior.mean + (self.scales[:, k, None] * part) @ prior.factor.T
            for k, (prior, part) in enumerate(
                zip(self.priors, z.split(self.ranks, dim=1), strict=True)
            )
        ]


def _symmetrized(factor: Tensor, shape, symmetries, rank: int) -> Tensor:
    """The ``rank`` leading directions of a covariance ``W W^T`` averaged over a source's symmetries."""
    images = factor.T.reshape(-1, *shape)
    copies = orbit(images, symmetries)
    columns = copies.flatten(1).T / (len(copies) / len(images)) ** 0.5
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    keep = min(rank, int((values > values[0] * 1e-4).sum()))
    return left[:, :keep] * values[:keep]


def _excess_factor(observed: Tensor, explained: Tensor, rank: int) -> Tensor:
    """Factor of the positive part of the difference of two second moments.

    ``observed`` and ``explained`` are back-projections, of shape ``(N, D)``: of the data, and of draws of
    the noise and the sources known so far. What the data have in excess belongs to the new source.
    """
    gram = observed.T @ observed / len(observed) - explained.T @ explained / len(explained)
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values[-rank:].flip(0), vectors[:, -rank:].flip(1)
    return vectors * values.clip(min=0).sqrt()
