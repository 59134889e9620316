r"""The exact posterior of sources whose priors are mixtures of Gaussians.

With whitened observations :math:`\tilde y = \sum_\beta \tilde A^\beta x^\beta + \varepsilon` and
one component :math:`k_\beta` of every source,

.. math:: p(\tilde y \mid k_1 \dots k_S) = \mathcal{N}\Big(\tilde y \,\Big|\,
          \sum_\beta \tilde A^\beta \mu_{k_\beta}, \;
          I + \sum_\beta \tilde A^\beta C_{k_\beta} \tilde A^{\beta T}\Big) ,

and, given the components, the sources are Gaussian.

There are :math:`K^S` combinations of components. Few explain an observation, and a tree finds them:
components are kept in such an order that numbers ``2 k`` and ``2 k + 1`` are siblings, whose
moments make up component ``k`` of a mixture of half the size. Of all combinations of a small
mixture the best are kept, replaced by their children, and so on down to the leaves.
"""

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..observation import JointObservation
from ..priors.mixture import GaussianMixture, coloured
from ..random import Rows

__all__ = ["ComponentPosterior", "Designed", "mixture_draws"]

#: Combinations of components that are compared before the first selection.
_N_ROOTS = 512
#: Elements that are worked on at a time: what the cache of a processor holds.
_CHUNK = 1 << 16
#: Variance, in units of the noise's, up to which single precision is enough.
_WIDE = 1e4


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
            m.means[k] + coloured(m.covariances, k, rows.normal(n, m.means.shape[1]).to(m.means))
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


@dataclass(frozen=True)
class Designed:
    """Whitened observations with their mixing matrices.

    Attributes
    ----------
    y : torch.Tensor
        Observations, of shape ``(N, M)``.
    designs : dict of str to torch.Tensor
        For each source that they hold, matrices of shape ``(N, M, D)``.
    """

    y: Tensor
    designs: dict[str, Tensor]

    @classmethod
    def gather(cls, observations) -> "Designed":
        """Write the mixing operators of observations down as matrices.

        Parameters
        ----------
        observations : iterable of JointObservation
            Batches that hold the same sources.
        """
        parts, y = [], []
        for observation in observations:
            eye = torch.eye(sum(observation.sizes), device=observation.y.device)
            columns = [observation.forward(e.expand(len(observation), -1)) for e in eye]
            parts.append(torch.stack(columns, dim=-1).split(observation.sizes, dim=-1))
            y.append(observation.y)
        designs = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(torch.cat(y), dict(zip(observation.source_shapes, designs, strict=True)))

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index) -> "Designed":
        return Designed(self.y[index], {s: design[index] for s, design in self.designs.items()})

    def batches(self, size: int):
        """Parts of at most ``size`` observations."""
        return (self[i : i + size] for i in range(0, len(self), size))

    def posterior(self, mixtures) -> ComponentPosterior:
        """The posterior of the components of the sources.

        Parameters
        ----------
        mixtures : mapping of str to GaussianMixture
            Priors of the sources, and maybe of others.
        """
        priors = [mixtures[source] for source in self.designs]
        return ComponentPosterior(self.y, self.designs.values(), priors)


def mixture_draws(mixtures, observation: JointObservation, rows: Rows) -> Tensor:
    """Exact draws of all sources of a batch of observations.

    Parameters
    ----------
    mixtures : mapping of str to GaussianMixture
        Priors of the sources, and maybe of others.
    observation : JointObservation
        The whitened observations.
    rows : Rows
        Random numbers of the draws.

    Returns
    -------
    torch.Tensor
        Joint draws, of shape ``(B, D)``.
    """
    alone, inverse = observation.distinct
    posterior = Designed.gather([alone]).posterior(mixtures)[inverse]
    draws = torch.cat([x[:, 0] for x in posterior.sample(1, rows)], dim=1).float()
    if observation.depends_on_signal:
        # Again with the noise that a first draw makes: on its own branch, if there are two.
        posterior = Designed.gather([observation.at(draws)]).posterior(mixtures)
        draws = torch.cat([x[:, 0] for x in posterior.sample(1, rows)], dim=1).float()
    return draws
