r"""The best that any separator can do, by brute force: draws from the exact posterior.

With the prior of each source given by many samples of it, the posterior of an observation weighs
each combination of them, one per source,

.. math:: w(k_1, \dots, k_S) \propto \exp\left(
    -\frac{1}{2 \sigma^2} \left\| y - \sum_s A_s x_{s k_s} \right\|^2 \right).

There are :math:`10^9` combinations of two sources and :math:`10^{13}` of three, and hardly any has
weight. Those are found by halving: samples of a source are the leaves of a binary tree, whose nodes
hold neighbours, and every node has a box in the space of observations. The sum of the boxes of a
combination of nodes bounds the residuals of all combinations of samples within, from below and from
above. Where the lower bound leaves each of them less than :math:`e^{-18}` of the weight of the best
one, they are dropped. In the others the largest node is halved, until their boxes are as small as
the noise. Of these boxes, candidates are drawn by the number of combinations in them and the weight
that the least residual would have, then one combination within each, and the first is kept that
passes with the ratio of its own weight to that: an exact draw.

What remains is how well samples stand for a curve. Neighbours among 32,768 on the published curves
are 0.0005 apart, a twentieth of the noise, and the truth is among draws like one of them. With
2,048 its rank shows the gaps between neighbours, but the limit is the same within its error.
"""

import math

import numpy as np
import torch

from .metrics import summarise_psnr
from .problems import ManifoldProblem

__all__ = ["posterior_draws", "posterior_limit"]

LOG_WEIGHT_DROPPED = 18.0
"""Combinations are dropped whose weight is certainly this many e-folds below the best one's."""

BOX_SIZE = 2.0
"""Boxes whose half diagonal is below so many standard deviations of the noise are not halved."""

N_CANDIDATES = 32
"""Candidates for one draw at a time; about one in five passes."""


def posterior_limit(problem: ManifoldProblem, view: str, **options) -> dict[str, dict]:
    """PSNR of one draw an observation from the exact posterior.

    Parameters
    ----------
    problem : ManifoldProblem
        Observations and the truth.
    view : str
        Which observations.
    **options
        As for `posterior_draws`, ``n_draws`` excepted.

    Returns
    -------
    limit : dict of str to dict
        For each source of the view ``psnr_mean`` and ``psnr_median`` [dB].
    """
    draws = posterior_draws(problem, view, **options)
    return {
        source: summarise_psnr(draws[source][0], truth[: draws[source].shape[1]])
        for source, truth in problem.truth(view).items()
    }


def posterior_draws(
    problem: ManifoldProblem,
    view: str,
    *,
    n_observations=512,
    n_draws=1,
    n_prior=32_768,
    seed=0,
    device="cpu",
    chunk=16,
) -> dict[str, np.ndarray]:
    """Draw from the exact posterior of the first observations of a view.

    Parameters
    ----------
    problem : ManifoldProblem
        Observations and the truth.
    view : str
        Which observations.
    n_observations : int, optional
        How many of them.
    n_draws : int, optional
        Draws for each.
    n_prior : int, optional
        Samples that stand for each curve, a power of two: the last of ``problem.x``.
    seed : int, optional
        Seed of the draws.
    device : str or torch.device, optional
        Where to compute.
    chunk : int, optional
        Observations that are searched at once; memory is proportional to it.

    Returns
    -------
    draws : dict of str to ndarray, shape (n_draws, n_observations, D)
        For each source of the view.

    Raises
    ------
    ValueError
        If ``n_prior`` is no power of two, or its samples would include the observations' own.
    """
    observed, first = problem.views[view], len(problem.x) - n_prior
    if first < 0 or n_prior & (n_prior - 1) or observed.truth[:n_observations].max() >= first:
        raise ValueError(
            f"n_prior: found {n_prior}, expected a power of two that leaves out the samples that "
            f"the {n_observations} observations were made of; there are {len(problem.x)} in all"
        )
    priors = [
        _Tree(torch.as_tensor(problem.x[first:, problem.sources.index(source)], device=device))
        for source in observed.mixing
    ]
    rng = torch.Generator(device).manual_seed(seed)
    draws = []
    for start in range(0, min(n_observations, len(observed)), chunk):
        part = slice(start, min(start + chunk, n_observations))
        y, *matrices = (
            torch.as_tensor(array[part], device=device)
            for array in (observed.y, *observed.mixing.values())
        )
        boxes = [tree.observe(A) for tree, A in zip(priors, matrices, strict=True)]
        index = _Search(y, boxes, problem.noise_std).draw(n_draws, rng)
        draws.append([tree.points[i] for tree, i in zip(priors, index, strict=True)])
    return {
        source: torch.cat(parts, 1).cpu().numpy()
        for source, parts in zip(observed.mixing, zip(*draws, strict=True), strict=True)
    }


class _Tree:
    """Samples in an order in which all blocks of 2, 4, 8, ... hold neighbours.

    Blocks are halved at the median of the coordinate in which they extend farthest.
    """

    def __init__(self, points):
        blocks = points[None]
        while blocks.shape[1] > 1:
            axis = (blocks.amax(1) - blocks.amin(1)).argmax(1)
            along = blocks.take_along_dim(axis[:, None, None], 2)
            blocks = blocks.take_along_dim(along.argsort(1), 1)
            blocks = blocks.unflatten(1, (2, -1)).flatten(0, 1)
        self.points = blocks[:, 0]

    def observe(self, A):
        """Boxes of all nodes seen through A: their centres and half sizes, (n, nodes, M).

        The root is node 1 and the halves of node ``i`` are ``2 i`` and ``2 i + 1``.
        """
        low = high = self.points @ A.mT
        lows, highs = [low], [high]
        while low.shape[1] > 1:
            low, high = low.unflatten(1, (-1, 2)).amin(2), high.unflatten(1, (-1, 2)).amax(2)
            lows.append(low)
            highs.append(high)
        low, high = (torch.cat([ends[-1], *ends[::-1]], 1) for ends in (lows, highs))
        return (low + high) / 2, (high - low) / 2


class _Search:
    """All combinations of nodes that have weight, for a few observations.

    Parameters
    ----------
    y : Tensor, shape (n, M)
        The observations.
    boxes : list of tuple of Tensor
        For each source the centres and half sizes of all nodes' boxes.
    sigma : float
        Standard deviation of the noise.
    """

    def __init__(self, y, boxes, sigma):
        self.y, self.boxes, self.sigma = y, boxes, sigma
        nodes = torch.arange(boxes[0][0].shape[1], device=y.device)
        self.height = (
            len(nodes).bit_length() - 2 - nodes.clamp(min=1).double().log2().floor().long()
        )
        self.best = torch.full_like(y[:, 0], torch.inf)
        self.row, self.node, self.low = (
            torch.cat(parts, -1) for parts in zip(*self._descend(), strict=True)
        )
        order = self.row.argsort()
        self.row, self.node, self.low = self.row[order], self.node[:, order], self.low[order]

    def _descend(self):
        """Halve the largest node of each combination until its box is small; yield those."""
        row = torch.arange(len(self.y), device=self.y.device)
        node = row.new_ones(len(self.boxes), len(row))
        while len(row):
            residual, halves = self._box(row, node)
            half = halves.sum(0)
            low = (residual.abs() - half).clamp(min=0).square().sum(-1)
            high = (residual.abs() + half).square().sum(-1)
            self.best.scatter_reduce_(0, row, high, "amin")
            keep = low <= self.best[row] + 2 * LOG_WEIGHT_DROPPED * self.sigma**2
            small = half.square().sum(-1) <= (BOX_SIZE * self.sigma) ** 2
            final, halved = keep & small, keep & ~small
            yield row[final], node[:, final], low[final]
            largest = halves[:, halved].square().sum(-1).argmax(0).repeat_interleave(2)[None]
            row, node = (part[..., halved].repeat_interleave(2, -1) for part in (row, node))
            child = 2 * node.gather(0, largest)
            child[:, 1::2] += 1
            node.scatter_(0, largest, child)

    def _box(self, row, node):
        """Centre of the residual's box, (n, M), and each source's part of half its size."""
        centres, halves = (
            torch.stack([box[k][row, i] for box, i in zip(self.boxes, node, strict=True)])
            for k in (0, 1)
        )
        return self.y[row] - centres.sum(0), halves

    def draw(self, n: int, rng):
        """Draw combinations, by the position of each source's sample in its tree's order.

        A box is drawn by the weight that it would have if its best corner were all of it; then any
        combination in it, kept by the ratio of its own weight to that.

        Returns
        -------
        index : Tensor of int, shape (S, n, len(y))
        """
        weight = -(self.low.double() - self.best[self.row]) / (2 * self.sigma**2)
        weight = (weight + math.log(2) * self.height[self.node].sum(0)).exp().cumsum(0)
        ends = weight[torch.bincount(self.row, minlength=len(self.y)).cumsum(0) - 1]
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        index = self.row.new_empty(len(self.boxes), n * len(self.y))
        missing = torch.arange(n * len(self.y), device=rng.device)
        while len(missing):
            row = missing % len(self.y)
            place = torch.rand(
                (len(row), N_CANDIDATES), generator=rng, device=rng.device, dtype=torch.float64
            )
            place = starts[row, None] + place * (ends - starts)[row, None]
            leaf, ratio = self._draw_within(torch.searchsorted(weight, place, right=True), rng)
            kept = torch.rand(place.shape, generator=rng, device=rng.device) < ratio
            found, first = kept.any(-1), kept.int().argmax(-1)
            index[:, missing[found]] = leaf[:, found, first[found]]
            missing = missing[~found]
        return index.unflatten(1, (n, len(self.y)))

    def _draw_within(self, box, rng):
        """Draw one combination in each box; its samples, and its weight over the box's."""
        node = self.node[:, box]
        height = self.height[node]
        within = torch.rand(node.shape, generator=rng, device=rng.device)
        leaf = (node << height) + (within * (1 << height)).long()
        residual, _ = self._box(self.row[box], leaf)
        excess = residual.square().sum(-1) - self.low[box]
        return leaf - (len(self.height) >> 1), (-excess / (2 * self.sigma**2)).exp()
