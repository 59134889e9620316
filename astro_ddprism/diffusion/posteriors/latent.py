r"""The exact posterior of sources with Gaussian priors in subspaces, in their latent vectors.

Given the whitened observation :math:`\tilde y = \sum_\beta \tilde A^\beta x^\beta + \varepsilon`
of sources :math:`x^\beta = \mu^\beta + s_\beta W^\beta z^\beta`
(`~astro_ddprism.diffusion.priors.gaussian`), the latent vectors of all sources,
:math:`z = (z^1, \dots, z^S)`, have a Gaussian posterior in closed form. With
:math:`G = (s_1 \tilde A^1 W^1, \dots, s_S \tilde A^S W^S)`,

.. math:: P = I + G^T G, \qquad \bar z = P^{-1} G^T (\tilde y - \tilde A \mu), \qquad
          z \mid y \sim \mathcal{N}(\bar z, P^{-1}) ,

and the marginal likelihood of the scales is at its maximum at the fixed point (MacKay 1992, Neural
Computation 4, 415)

.. math:: s_\beta^2 \leftarrow s_\beta^2 \,
          \frac{\|\bar z^\beta\|^2}{R - \mathrm{tr}\, (P^{-1})^{\beta\beta}} .

Observations that share operators and noise, and scales, share :math:`P` and its factors.

Where the noise depends on the sources, the posterior is that of the noise that its own mean makes,
found by repetition: weights are those of a model of few dimensions, in which the noise of a pixel
has no part.
"""

import math

import torch
from azula.linalg.solve import cg
from torch import Tensor

from ..observation import JointObservation
from ..priors.gaussian import has_scales
from ..random import Rows

__all__ = ["LatentPosterior", "absorb_residual", "latent_posterior"]

#: How often the noise that depends on the sources is evaluated anew at their posterior mean.
_REWEIGHTED = 2
#: Elements of a batch's matrices from which on it is worth a look whether all are the same.
_LARGE = 1 << 20


class LatentPosterior:
    """The posterior of the latent vectors of all sources, given a batch of observations.

    Parameters
    ----------
    observation : JointObservation
        The whitened observations.
    priors : list of GaussianPrior
        One prior for each source of ``observation``, in its order.
    scales : torch.Tensor, optional
        Scales of the observations and sources, of shape ``(B, S)``, to begin with; the priors'
        median scales if not given.
    """

    def __init__(self, observation: JointObservation, priors, scales: Tensor | None = None):
        self.priors = priors
        self.ranks = [prior.rank for prior in priors]
        n, y = len(observation), observation.y
        mean = torch.cat([prior.mean for prior in priors])
        factor = torch.block_diag(*(prior.factor for prior in priors)).T.to(y)
        self._is_shared = n * len(factor) ** 2 > _LARGE and _is_shared(observation, factor)
        # Observations have their own precision; the algebra has that of the priors, or a better one
        # where it costs little.
        residual = y - observation.forward(mean.to(y).expand(n, -1))
        mean = mean.double() if self._is_shared else mean
        residual = residual.to(mean)
        if self._is_shared:  # all latent dimensions at once, as the first observation sees them
            first = observation[torch.zeros(len(factor), dtype=torch.long, device=y.device)]
            design = first.forward(factor).T[None]
        else:
            design = torch.stack([observation.forward(c.expand(n, -1)) for c in factor], dim=-1)
        self._design = design.to(mean)
        self._gram = self._design.mT @ self._design
        self._projection = self._backward(residual)
        self._white = residual.square().sum(dim=1) + math.log(2 * math.pi) * observation.n_valid
        if scales is None:
            median = torch.stack([prior.log_scale[0] for prior in priors]).exp()
            scales = median.expand(n, -1)
        self.scales = scales.to(mean)
        self._solve()

    def _expanded_scales(self) -> Tensor:
        scales = zip(self.scales.unbind(1), self.ranks, strict=True)
        return torch.cat([scale[:, None].expand(-1, rank) for scale, rank in scales], dim=1)

    def _backward(self, r: Tensor, index=slice(None)) -> Tensor:
        """The transposed design, times a vector for each observation of an index."""
        if self._is_shared:
            return r @ self._design[0]
        return (self._design[index].mT @ r[..., None])[..., 0]

    def _solved(self, v: Tensor, index=slice(None)) -> Tensor:
        """The covariance, times a vector for each observation of an index."""
        if len(self._cholesky) < len(self.scales):
            return torch.cholesky_solve(v.mT, self._cholesky[0]).mT
        return torch.cholesky_solve(v[..., None], self._cholesky[index])[..., 0]

    def _solve(self):
        s = self._expanded_scales()
        projection = s * self._projection
        if self._is_shared and bool((s == s[:1]).all()):
            s = s[:1]
        precision = s[:, :, None] * self._gram * s[:, None, :]
        precision.diagonal(dim1=1, dim2=2).add_(1)
        self._cholesky, failed = torch.linalg.cholesky_ex(precision)
        self._cholesky = torch.where(failed[:, None, None] > 0, torch.nan, self._cholesky)
        self.mean = self._solved(projection)

    @property
    def covariance(self) -> Tensor:
        """Covariance of the latent vectors of each observation, of shape ``(B, R, R)``."""
        return torch.cholesky_inverse(self._cholesky).expand(len(self.mean), -1, -1)

    @property
    def log_evidence(self) -> Tensor:
        r"""Log density of the whitened observations, of shape ``(B,)``.

        .. math:: -\frac{1}{2} \left[\|\tilde y - \tilde A \mu\|^2 - \bar z^T P \bar z
                  + \log \det P + n_\mathrm{valid} \log 2 \pi\right]
        """
        explained = (self._expanded_scales() * self._projection * self.mean).sum(dim=1)
        log_det = 2 * self._cholesky.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return -0.5 * (self._white - explained + log_det)

    def maximize_scales(self, learn: list[bool], iterations: int = 6):
        r"""Move the scales that ``learn`` marks to the maximum of their marginal likelihood.

        The fixed point is damped by a prior worth one latent dimension,
        :math:`\log p(s) = -\log s - (0.1 \, s_\mathrm{typical})^2 / 2 s^2`, so that an observation
        that says nothing of a source gives it a tenth of its typical scale, and not none.
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

    def sample(self, rows: Rows, index: Tensor | None = None) -> list[Tensor]:
        r"""Draw every source of the observations ``index``, a list of ``(N, D_source)``.

        With :math:`n \sim \mathcal{N}(0, I_R)` and :math:`e \sim \mathcal{N}(0, I_M)`,
        :math:`\bar z + P^{-1} (n + G^T e)` has the covariance :math:`P^{-1}`; unlike a root of
        :math:`P^{-1}` times a vector, it turns with the latent coordinates.

        Parameters
        ----------
        rows : Rows
            Random numbers for each of ``N`` draws.
        index : torch.Tensor, optional
            Their observations, of shape ``(N,)``; all, once, if not given.
        """
        index = torch.arange(len(self.mean), device=self.mean.device) if index is None else index
        n = torch.cat([prior.latent(rows) for prior in self.priors], dim=1).to(self.mean.dtype)
        e = rows.normal(self._design.shape[1], dtype=self.mean.dtype)
        n = n + self._expanded_scales()[index] * self._backward(e, index)
        return self._expand(self.mean[index] + self._solved(n, index), self.scales[index])

    def expectation(self) -> list[Tensor]:
        """Posterior mean of every source, a list of ``(B, D_source)``."""
        return self._expand(self.mean, self.scales)

    def _expand(self, z: Tensor, scales: Tensor) -> list[Tensor]:
        return [
            prior.mean + (scale[:, None] * part).to(prior.mean) @ prior.factor.T
            for prior, scale, part in zip(
                self.priors, scales.T, z.split(self.ranks, dim=1), strict=True
            )
        ]


@torch.no_grad()
def _is_shared(observation: JointObservation, factor: Tensor) -> bool:
    """Whether all observations of a batch see latent vectors alike, as of a random one."""
    number = torch.arange(len(factor), device=factor.device, dtype=factor.dtype)
    seen = observation.forward(((number + 1).sin() @ factor).expand(len(observation), -1))
    return bool(torch.isclose(seen, seen[:1], rtol=1e-5, atol=1e-5 * float(seen.abs().max())).all())


def latent_posterior(observation: JointObservation, priors, learn=None) -> LatentPosterior:
    """The latent posterior of a batch of observations, with its scales at their maximum.

    Parameters
    ----------
    observation : JointObservation
        The whitened observations.
    priors : mapping of str to GaussianPrior
        Priors of the sources of ``observation``, and maybe of others.
    learn : list of bool, optional
        Which sources have a scale in each observation; by default images have whose priors' scales
        vary, and all others keep the scale 1.

    Returns
    -------
    LatentPosterior
    """
    shapes = observation.source_shapes
    own = [priors[source] for source in shapes]
    if learn is None:
        pairs = zip(shapes.values(), own, strict=True)
        learn = [has_scales(shape) and prior.varies for shape, prior in pairs]
    posterior = LatentPosterior(observation, own)
    for again in range(1 + _REWEIGHTED * observation.depends_on_signal):
        if again:
            mean = torch.cat(posterior.expectation(), dim=1).to(observation.y)
            posterior = LatentPosterior(observation.at(mean), own, posterior.scales)
        if any(learn):
            posterior.maximize_scales(learn)
    return posterior


def absorb_residual(observation: JointObservation, x: Tensor, rows: Rows) -> Tensor:
    r"""Give the first source what a draw leaves unexplained.

    A subspace cannot hold the sharp cores of the brightest images. Where a draw's reduced
    :math:`\chi^2` exceeds what noise alone would do, the first source, which is the least
    restricted, gets an isotropic component of variance :math:`\delta = \chi^2 - 1`, drawn from its
    posterior given the residual (perturb and solve).

    Parameters
    ----------
    observation : JointObservation
        The whitened observations.
    x : torch.Tensor
        Joint draws, of shape ``(B, D)``.
    rows : Rows
        Random numbers of the draws.

    Returns
    -------
    torch.Tensor
        Joint draws, of shape ``(B, D)``.
    """
    observation = observation.at(x)
    excess = observation.chi2(x) - 1
    noise = 2 * (2 / observation.n_valid.clip(min=1)).sqrt()
    delta = torch.where(excess > noise, excess, torch.zeros_like(excess))[:, None]
    first = torch.zeros_like(x)
    first[:, : observation.sizes[0]] = 1

    def predicted_covariance(v: Tensor) -> Tensor:
        return v + delta * observation.forward(first * observation.adjoint(v))

    perturbation = first * delta.sqrt() * rows.normal(x.shape[1], dtype=x.dtype)
    residual = observation.y - observation.forward(x + perturbation)
    residual = residual - rows.normal(residual.shape[1], dtype=x.dtype)
    z = cg(predicted_covariance, residual, iterations=16)
    return x + perturbation + delta * first * observation.adjoint(z)
