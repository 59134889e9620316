r"""Mixtures of Gaussians as priors of small sources.

A source of a few numbers may live anywhere: on a curve, in clusters. A mixture

.. math:: p(x) = \sum_k w_k \, \mathcal{N}(x \mid \mu_k, C_k)

follows it, with components laid along it like tiles, and everything about it stays in closed form:
its denoiser, and the joint posterior of several sources given linear observations
(`~astro_ddprism.diffusion.posteriors.components`).
"""

from dataclasses import dataclass

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from torch import Tensor
from torch.distributions import MultivariateNormal

from ..jacobian import linearize
from ..random import Rows
from .denoiser import SourceDenoiser
from .gaussian import GaussianPrior

__all__ = [
    "GaussianMixture",
    "MixtureDenoiser",
    "MixtureResidualDenoiser",
    "coloured",
    "have_few_features",
]

#: Most features of a source that has a mixture.
_MAX_FEATURES = 32
#: Distance of siblings from their parent, in standard deviations along its longest axis.
_SPLIT = 0.75


@dataclass(frozen=True)
class GaussianMixture:
    r"""A mixture of ``K`` Gaussians, siblings side by side.

    Parameters
    ----------
    weights : torch.Tensor
        Weights :math:`w_k`, of shape ``(K,)``, with a sum of 1.
    means : torch.Tensor
        Means, of shape ``(K, D)``.
    covariances : torch.Tensor
        Covariances, of shape ``(K, D, D)``.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __len__(self):
        return len(self.weights)

    def to(self, device=None, dtype=None) -> "GaussianMixture":
        """The same mixture on another device or in another precision."""
        parts = (self.weights, self.means, self.covariances)
        return GaussianMixture(*(part.to(device=device, dtype=dtype) for part in parts))

    def split(self) -> "GaussianMixture":
        """Two components for each one, along its longest axis, with its moments."""
        values, vectors = torch.linalg.eigh(self.covariances)
        axis = _SPLIT * values[:, -1, None].clip(min=0).sqrt() * vectors[:, :, -1]
        covariances = self.covariances - axis[:, :, None] * axis[:, None, :]
        return GaussianMixture(
            (self.weights / 2).repeat_interleave(2),
            torch.stack([self.means - axis, self.means + axis], dim=1).flatten(0, 1),
            covariances.repeat_interleave(2, dim=0),
        )

    def merge(self) -> "GaussianMixture":
        """One component for each pair of siblings, with the moments of the pair."""
        pairs = self.weights.unflatten(0, (-1, 2))
        weights = pairs.sum(dim=1)
        share = (pairs / weights[:, None].clip(min=torch.finfo(pairs.dtype).tiny))[..., None]
        siblings = self.means.unflatten(0, (-1, 2))
        means = (share * siblings).sum(dim=1)
        offset = siblings - means[:, None]
        spread = (
            self.covariances.unflatten(0, (-1, 2)) + offset[..., :, None] * offset[..., None, :]
        )
        return GaussianMixture(weights, means, (share[..., None] * spread).sum(dim=1))

    def gaussian(self) -> GaussianPrior:
        """The Gaussian with the mean and the covariance of the mixture."""
        mean = self.weights @ self.means
        offset = self.means - mean
        spread = self.covariances + offset[:, :, None] * offset[:, None, :]
        covariance = torch.einsum("k,kij->ij", self.weights, spread)
        values, vectors = torch.linalg.eigh(covariance)
        return GaussianPrior(mean, vectors * values.clip(min=0).sqrt())

    def sample(self, rows: Rows) -> Tensor:
        """Draw a vector for each row, of shape ``(B, D)``."""
        total = self.weights.cumsum(dim=0)
        k = torch.searchsorted(total, rows.uniform(1)[:, 0].to(total) * total[-1], right=True)
        k = k.clip(max=len(self) - 1)
        noise = rows.normal(self.means.shape[1], dtype=self.means.dtype)
        return self.means[k] + coloured(self.covariances, k, noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of vectors ``(N, D)``, of shape ``(N,)``."""
        cholesky = torch.linalg.cholesky(self.covariances)
        components = MultivariateNormal(self.means, scale_tril=cholesky, validate_args=False)
        return (self.weights.log() + components.log_prob(x[:, None])).logsumexp(dim=1)


class MixtureDenoiser(Denoiser):
    r"""The exact denoiser of a mixture of Gaussians.

    .. math:: \mathbb{E}[x \mid x_\sigma] = \sum_k r_k(x_\sigma) \left[ \mu_k
              + C_k (C_k + \sigma^2 I)^{-1} (x_\sigma - \mu_k) \right]

    with :math:`r_k` the probability that :math:`x_\sigma` came from component :math:`k`.

    Parameters
    ----------
    mixture : GaussianMixture
        The prior of the flattened source.
    schedule : azula.noise.Schedule
        A variance-exploding schedule.
    """

    def __init__(self, mixture: GaussianMixture, schedule: Schedule):
        super().__init__()
        self.schedule = schedule
        values, vectors = torch.linalg.eigh(mixture.covariances.double())
        dtype = torch.float32
        self.register_buffer("log_weights", mixture.weights.log().to(dtype))
        self.register_buffer("means", mixture.means.to(dtype))
        self.register_buffer("axes", vectors.to(dtype))
        self.register_buffer("variances", values.clip(min=0).to(dtype))

    def forward(self, x_t: Tensor, t: Tensor, **kwargs) -> DiracPosterior:  # noqa: ARG002
        """Estimate the clean source.

        Parameters
        ----------
        x_t : torch.Tensor
            Noisy sources, of shape ``(B, *shape)``.
        t : torch.Tensor
            Time, of shape ``()`` or ``(B,)``.

        Returns
        -------
        azula.denoise.DiracPosterior
            Its ``mean`` is the estimate, of shape ``(B, *shape)``.
        """
        _, sigma = self.schedule(t)
        return DiracPosterior(mean=self.estimate(x_t, sigma))

    def estimate(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        """The clean source, for noise scales of any shape of one or ``B`` elements."""
        # A network may train in half precision; a thin mixture far from zero would be lost in it.
        with torch.autocast(x_t.device.type, enabled=False):
            return self._estimate(x_t, sigma)

    def _estimate(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        x = x_t.flatten(1)
        total = self.variances + sigma.reshape(-1, 1, 1).square()
        n_components, size = self.means.shape
        # Coordinates along the axes of every component, by one matrix product for all.
        axes = self.axes.transpose(0, 1).reshape(size, -1)
        origin = torch.einsum("ki,kij->kj", self.means, self.axes)
        along = (x @ axes).view(len(x), n_components, size) - origin
        scaled = along / total
        log_r = self.log_weights - 0.5 * (along * scaled + total.log()).sum(dim=-1)
        r = torch.softmax(log_r, dim=-1)
        shrunk = r[..., None] * scaled * self.variances
        mean = r @ self.means + shrunk.flatten(1) @ axes.T
        return mean.view_as(x_t)

    def linearized(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r"""The estimate and its Jacobian, for one noise scale.

        With :math:`u_k = (C_k + \sigma^2 I)^{-1} (x_\sigma - \mu_k)` and its mean
        :math:`\bar u = \sum_k r_k u_k`, the estimate is :math:`x_\sigma - \sigma^2 \bar u` and

        .. math:: J = \sum_k r_k C_k (C_k + \sigma^2 I)^{-1}
                  + \sigma^2 \sum_k r_k (u_k - \bar u) (u_k - \bar u)^T .

        Parameters
        ----------
        x_t : torch.Tensor
            Noisy sources, of shape ``(B, *shape)``.
        sigma : torch.Tensor
            The noise scale, of one element.

        Returns
        -------
        mean : torch.Tensor
            The estimate, of shape ``(B, *shape)``.
        jacobian : torch.Tensor
            Symmetric, of shape ``(B, D, D)``.
        """
        x, sigma2 = x_t.flatten(1), sigma.reshape(()).square()
        size, total = self.means.shape[1], self.variances + sigma2
        precision = (self.axes / total[:, None]) @ self.axes.mT
        gain = (self.axes * (self.variances / total)[:, None]) @ self.axes.mT
        offset = x[:, None] - self.means
        u = torch.einsum("bki,kij->bkj", offset, precision)
        log_r = self.log_weights - 0.5 * ((offset * u).sum(dim=-1) + total.log().sum(dim=-1))
        r = torch.softmax(log_r, dim=-1)
        mean_u = torch.einsum("bk,bki->bi", r, u)
        u = u - mean_u[:, None]
        spread = (r[..., None] * u).mT @ u
        jacobian = (r @ gain.flatten(1)).unflatten(1, (size, size)) + sigma2 * spread
        return (x - sigma2 * mean_u).view_as(x_t), jacobian


class MixtureResidualDenoiser(SourceDenoiser):
    r"""Denoiser of a source whose network adds to the exact denoiser of a mixture of Gaussians.

    .. math:: D(x_\sigma, \sigma) = \mathbb{E}_\mathrm{mixture}[x \mid x_\sigma]
              + c_\mathrm{out} F(\dots)

    The mixture of the warm start takes the place of the skip connection, which is the denoiser of a
    single Gaussian: the network begins where the warm start ended, and learns what is left.

    Parameters
    ----------
    backbone, schedule, data_scale
        As for `~astro_ddprism.diffusion.priors.denoiser.SourceDenoiser`.
    mixture : GaussianMixture
        The warm start's prior.
    """

    def __init__(self, backbone, schedule: Schedule, data_scale: float, mixture: GaussianMixture):
        super().__init__(backbone, schedule, data_scale)
        self.mixture = MixtureDenoiser(mixture, schedule)

    def _precondition(self, x_t: Tensor, sigma: Tensor):
        _, out = super()._precondition(x_t, sigma)
        return self.mixture.estimate(x_t, sigma), out


@linearize.register
@torch.no_grad()
def _(denoiser: MixtureResidualDenoiser, x_t, t):
    _, sigma = denoiser.schedule(t)
    if sigma.numel() > 1:  # a matrix for each component and noise scale would be too many
        return linearize.dispatch(Denoiser)(denoiser, x_t, t)
    sigma = sigma.reshape(-1, *(1,) * (x_t.ndim - 1))
    skip, jacobian = denoiser.mixture.linearized(x_t, sigma)
    _, out = super(MixtureResidualDenoiser, denoiser)._precondition(x_t, sigma)
    _, out_slope = denoiser._precondition_slopes(x_t, sigma)
    output, output_pullback = denoiser._linearize_output(x_t, sigma)
    slope = out_slope * output

    def pullback(v):
        through_mixture = torch.einsum("kbi,bij->kbj", v.flatten(2), jacobian).view_as(v)
        return through_mixture + slope * v + output_pullback(out * v)

    return skip + out * output, pullback


def coloured(covariances: Tensor, k: Tensor, noise: Tensor) -> Tensor:
    """Draws from centred Gaussians, one for each number in ``k``, of white ones."""
    values, vectors = torch.linalg.eigh(covariances)
    # The symmetric root: rounding may turn the axes of one that is round.
    factors = (vectors * values.clip(min=0).sqrt()[:, None, :]) @ vectors.mT
    return torch.einsum("...de,...e->...d", factors[k], noise)


def have_few_features(source_shapes) -> bool:
    """Whether all of some sources are vectors small enough for mixtures.

    Parameters
    ----------
    source_shapes : dict of str to tuple of int
        The sources, and their shapes.
    """
    return all(len(shape) == 1 and shape[0] <= _MAX_FEATURES for shape in source_shapes.values())
