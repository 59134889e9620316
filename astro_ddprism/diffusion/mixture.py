r"""Mixtures of Gaussians as priors of small sources, and their posterior given observations.

A source of a few numbers may live anywhere: on a curve, in clusters. A mixture

.. math:: p(x) = \sum_k w_k \, \mathcal{N}(x \mid \mu_k, C_k)

follows it, with components laid along it like tiles, and everything about it stays in closed form:
its denoiser, and the joint posterior of several sources given linear observations. With whitened
observations :math:`\tilde y = \sum_\beta \tilde A^\beta x^\beta + \varepsilon` and one component
:math:`k_\beta` of every source,

.. math:: p(\tilde y \mid k_1 \dots k_S) = \mathcal{N}\Big(\tilde y \,\Big|\,
          \sum_\beta \tilde A^\beta \mu_{k_\beta}, \;
          I + \sum_\beta \tilde A^\beta C_{k_\beta} \tilde A^{\beta T}\Big) ,

and, given the components, the sources are Gaussian.

There are :math:`K^S` combinations of components. Few explain an observation, and a tree finds them:
components are kept in such an order that numbers ``2 k`` and ``2 k + 1`` are siblings, whose
moments make up component ``k`` of a mixture of half the size. Of all combinations of a small
mixture the best are kept, replaced by their children, and so on down to the leaves.
"""

__all__ = ["ComponentPosterior", "GaussianMixture", "MixtureDenoiser", "MixtureResidualDenoiser"]

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import Schedule
from torch import Tensor

from .denoiser import SourceDenoiser
from .gaussian import GaussianPrior
from .jacobian import linearize
from .random import Rows

#: Combinations of components that are compared before the first selection.
_N_ROOTS = 512
#: Elements that are worked on at a time: what the cache of a processor holds.
_CHUNK = 1 << 16
#: Variance, in units of the noise's, up to which single precision is enough.
_WIDE = 1e4
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

    def sample(self, n: int) -> Tensor:
        """Draw ``n`` vectors, of shape ``(n, D)``."""
        k = torch.multinomial(self.weights, n, replacement=True)
        return self.means[k] + _colour(self.covariances, k, torch.randn_like(self.means[k]))


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
        As for `~astro_ddprism.diffusion.denoiser.SourceDenoiser`.
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
    _, out = SourceDenoiser._precondition(denoiser, x_t, sigma)
    _, out_slope = denoiser._precondition_slopes(x_t, sigma)
    output, output_pullback = denoiser._linearize_output(x_t, sigma)
    slope = out_slope * output

    def pullback(v):
        through_mixture = torch.einsum("kbi,bij->kbj", v.flatten(2), jacobian).view_as(v)
        return through_mixture + slope * v + output_pullback(out * v)

    return skip + out * output, pullback


class ComponentPosterior:
    r"""Which components of their mixtures explain observations, and the sources that they imply.

    Parameters
    ----------
    y : torch.Tensor
        Whitened observations, of shape ``(N, M)``.
    designs : sequence of torch.Tensor
        For each source its whitened mixing matrices, of shape ``(N, M, D)``.
    mixtures : sequence of GaussianMixture
        For each source its prior, of a number of components that is a power of 2.
    beam : int, optional
        Combinations of components that are kept at each level of the tree; 16 for one source, and
        twice as many for each further one, if not given.

    Attributes
    ----------
    components : torch.Tensor
        The best combinations of components of each observation, of shape ``(N, Q, S)``.
    log_evidence : torch.Tensor
        :math:`\log [w_{k_1} \cdots w_{k_S} \, p(\tilde y \mid k_1 \dots k_S)]` of each, of shape
        ``(N, Q)``.
    """

    def __init__(self, y: Tensor, designs, mixtures, beam: int | None = None):
        # A prior may be thousands of times as long as it is thick.
        self.y, self.designs = y.double(), [design.double() for design in designs]
        self.mixtures = [mixture.to(dtype=torch.float64) for mixture in mixtures]
        trees = [_tree(mixture) for mixture in self.mixtures]
        beam = 16 * 2 ** (len(trees) - 1) if beam is None else beam
        n = max(_CHUNK // (beam * 2 ** len(trees)), 1)
        parts = [
            _search(self.y[i : i + n], [d[i : i + n] for d in self.designs], trees, beam)
            for i in range(0, len(y), n)
        ]
        self.components = torch.cat([components for components, _ in parts])
        self.log_evidence = torch.cat([log_evidence for _, log_evidence in parts])

    @property
    def total_log_evidence(self) -> Tensor:
        r"""Log-evidence of each observation, :math:`\log p(\tilde y)`, of shape ``(N,)``."""
        constant = 0.5 * self.y.shape[1] * math.log(2 * math.pi)
        return torch.logsumexp(self.log_evidence, dim=1) - constant

    def __getitem__(self, index) -> "ComponentPosterior":
        """The posterior of some observations; repeats are allowed."""
        new = copy.copy(self)
        new.y, new.designs = self.y[index], [design[index] for design in self.designs]
        new.components, new.log_evidence = self.components[index], self.log_evidence[index]
        return new

    def choose(self, u: Tensor) -> Tensor:
        """Draw combinations of components for each observation.

        Parameters
        ----------
        u : torch.Tensor
            Uniform numbers in [0, 1), of shape ``(N, n)``.

        Returns
        -------
        torch.Tensor
            Combinations, of shape ``(N, n, S)``.
        """
        total = torch.softmax(self.log_evidence, dim=1).cumsum(dim=1)
        chosen = torch.searchsorted(total, u.to(total) * total[:, -1:], right=True)
        chosen = chosen.clip(max=total.shape[1] - 1)
        return self.components.gather(1, chosen[..., None].expand(-1, -1, len(self.mixtures)))

    def moments(self, chosen: Tensor):
        """Mean and covariance of every source, given components.

        Parameters
        ----------
        chosen : torch.Tensor
            Components, of shape ``(N, n, S)``.

        Returns
        -------
        list of tuple of torch.Tensor
            For each source the means, of shape ``(N, n, D)``, and covariances
            ``(N, n, D, D)``.
        """
        covariances = [
            m.covariances[k] for m, k in zip(self.mixtures, chosen.unbind(-1), strict=True)
        ]
        means = [m.means[k] for m, k in zip(self.mixtures, chosen.unbind(-1), strict=True)]
        gains, predicted, residual = self._predict(means, covariances)
        weight = torch.linalg.inv(predicted)
        moments = []
        for mean, covariance, gain, design in zip(
            means, covariances, gains, self.designs, strict=True
        ):
            gain = gain @ weight
            # Joseph's form, a sum of squares, keeps variances that a difference would round away.
            kept = torch.eye(mean.shape[-1], device=mean.device) - gain @ design[:, None]
            others = predicted - design[:, None] @ covariance @ design[:, None].mT
            spread = kept @ covariance @ kept.mT + gain @ others @ gain.mT
            moments.append((mean + (gain @ residual[..., None])[..., 0], spread))
        return moments

    def sample(self, n: int, rows: Rows) -> list[Tensor]:
        """Draw all sources ``n`` times for each observation: a list of ``(N, n, D)``.

        ``rows`` are random numbers of the observations.
        """
        chosen = self.choose(rows.uniform(n))
        covariances = [
            m.covariances[k] for m, k in zip(self.mixtures, chosen.unbind(-1), strict=True)
        ]
        draws = [
            m.means[k] + _colour(m.covariances, k, rows.normal(n, m.means.shape[1]).to(m.means))
            for m, k in zip(self.mixtures, chosen.unbind(-1), strict=True)
        ]
        # Perturb and solve: a draw from the components' prior, moved by what it leaves unexplained.
        gains, predicted, residual = self._predict(draws, covariances)
        residual = residual - rows.normal(*residual.shape[1:]).to(residual)
        weighted = torch.linalg.solve(predicted, residual[..., None])
        return [x + (gain @ weighted)[..., 0] for x, gain in zip(draws, gains, strict=True)]

    def _predict(self, x, covariances):
        """Cross-covariances with the observation, its covariance, and its residual."""
        gains = [
            torch.einsum("nqde,nie->nqdi", covariance, design)
            for covariance, design in zip(covariances, self.designs, strict=True)
        ]
        predicted = sum(
            torch.einsum("nid,nqdj->nqij", design, gain)
            for design, gain in zip(self.designs, gains, strict=True)
        )
        predicted.diagonal(dim1=-2, dim2=-1).add_(1)
        explained = sum(
            torch.einsum("nid,nqd->nqi", design, part)
            for design, part in zip(self.designs, x, strict=True)
        )
        return gains, predicted, self.y[:, None] - explained


def _search(y: Tensor, designs, trees, beam: int):
    """The best combinations of components of some observations, by descent from the root."""
    depth = max(len(tree) for tree in trees)
    trees = [[tree[0]] * (depth - len(tree)) + tree for tree in trees]
    roots = max(
        level
        for level in range(depth)
        if level == 0 or math.prod(len(tree[level]) for tree in trees) <= _N_ROOTS
    )
    sizes = [range(len(tree[roots])) for tree in trees]
    components = torch.tensor(list(itertools.product(*sizes)), device=y.device)
    components = components.expand(len(y), -1, -1)
    for level in range(roots, depth):
        nodes = [tree[level] for tree in trees]
        if level > roots:
            components = _children(components, nodes, [tree[level - 1] for tree in trees])
        if components.shape[1] > beam:
            log_evidence = _log_evidence(y, designs, nodes, components)
            # In an order that does not hang on small differences of the evidence.
            best = log_evidence.topk(beam, dim=1).indices.sort(dim=1).values
            components = components.gather(1, best[..., None].expand(-1, -1, len(trees)))
    # What draws choose by is good to rounding in double precision, whatever is beside it.
    return components, _log_evidence(y, designs, nodes, components, torch.float64)


def _tree(mixture: GaussianMixture) -> list[GaussianMixture]:
    levels = [mixture]
    while len(levels[0]) > 1:
        levels.insert(0, levels[0].merge())
    return levels


def _children(components: Tensor, nodes, parents) -> Tensor:
    """All combinations of the children of combinations of components."""
    choices = [
        range(2) if len(node) > len(parent) else range(1)
        for node, parent in zip(nodes, parents, strict=True)
    ]
    offsets = torch.tensor(list(itertools.product(*choices)), device=components.device)
    factors = torch.tensor([len(choice) for choice in choices], device=components.device)
    return (components[:, :, None] * factors + offsets).flatten(1, 2)


def _log_evidence(y: Tensor, designs, mixtures, components: Tensor, dtype=None) -> Tensor:
    """Log-evidence of combinations of components, ``(N, Q)``, without the factor of ``2 pi``.

    Matrices of a few rows are factorized for millions of combinations: entry by entry, each an
    array over all combinations. Single precision is enough where the sources' variance is no more
    than ``_WIDE`` times that of the noise: elsewhere it would lose the noise.
    """
    n, size = y.shape
    lower = [(i, j) for i in range(size) for j in range(i + 1)]
    rows, columns = (torch.tensor(part, device=y.device) for part in zip(*lower, strict=True))
    spreads = [
        torch.einsum("nid,kde,nje->ijnk", design, mixture.covariances, design)[rows, columns]
        for design, mixture in zip(designs, mixtures, strict=True)
    ]
    if dtype is None:
        narrow = all(float(spread.abs().max()) <= _WIDE for spread in spreads)
        dtype = torch.float32 if narrow else torch.float64
    mean, covariance, log_weight = 0.0, 0.0, 0.0
    start, y = torch.arange(n, device=y.device)[:, None], y.to(dtype)
    for design, mixture, spread, k in zip(
        designs, mixtures, spreads, components.unbind(-1), strict=True
    ):
        flat = (start * len(mixture) + k).flatten()
        means = torch.einsum("nid,kd->ink", design, mixture.means)
        mean = mean + means.to(dtype).flatten(1).index_select(1, flat)
        covariance = covariance + spread.to(dtype).flatten(1).index_select(1, flat)
        log_weight = log_weight + mixture.weights.log().to(dtype)[k]
    factor = {index: covariance[position] for position, index in enumerate(lower)}
    residual = y.T[:, :, None] - mean.view(size, n, -1)
    chi2, determinant, z = 0.0, 1.0, []
    for i in range(size):
        for j in range(i):
            for k in range(j):
                factor[i, j] = factor[i, j] - factor[i, k] * factor[j, k] * factor[k, k]
            factor[i, j] = factor[i, j] / factor[j, j]
        pivot = factor[i, i] + 1
        for k in range(i):
            pivot = pivot - factor[i, k].square() * factor[k, k]
        factor[i, i] = pivot.clip(min=1)  # what it is without rounding
        value = residual[i].flatten()
        for k in range(i):
            value = value - factor[i, k] * z[k]
        z.append(value)
        chi2 = chi2 + value.square() / factor[i, i]
        determinant = determinant + factor[i, i].log()
    return log_weight - 0.5 * (chi2 + determinant - 1.0).view(n, -1)


def _colour(covariances: Tensor, k: Tensor, noise: Tensor) -> Tensor:
    """Draws from centred Gaussians, one for each number in ``k``, of white ones."""
    values, vectors = torch.linalg.eigh(covariances)
    # The symmetric root: rounding may turn the axes of one that is round.
    factors = (vectors * values.clip(min=0).sqrt()[:, None, :]) @ vectors.mT
    return torch.einsum("...de,...e->...d", factors[k], noise)
