r"""Moments of views: Gaussian priors of sources without any iteration.

Carried back to a source, an observation is :math:`b = \tilde A^T \tilde y / g`, with :math:`g` the
diagonal of :math:`\tilde A^T \tilde A`, where that is all there is of it, and nowhere 0: data are
*complete* then, whatever the noise of each pixel, and :math:`b` is the source, beside all that it
is observed with. So the mean and the covariance of a new source are those of its views, less those
that known sources and noise would have alone,

.. math:: \mu = \mathrm{E}[b] - \mathrm{E}[b_0], \qquad
          W W^T = \left(\mathrm{Cov}[b] - \mathrm{Cov}[b_0]\right)_+ , \qquad
          b_0 = \tilde A^T (\tilde A x^\mathrm{known} + \varepsilon) / g ,

with :math:`x^\mathrm{known}` out of the draws of the known sources. Closed-form EM takes very long
to get there: where two sources explain the same light, each iteration moves but a small part of it.
Of observations that are not complete, such as masked ones, moments are only near: where enough are
complete, they alone are used.
"""

__all__ = ["MomentWarmStart", "Moments"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...registry import option
from ..observation import JointObservation
from ..priors.gaussian import GaussianPrior
from ..random import Rows
from .symmetries import permutations
from .warmstart import WARM_STARTS, WarmStart, batches_of, explained_by

# How far the operator of complete data may be from a diagonal one; how many of them are enough.
TOLERANCE, ENOUGH = 1e-4, 500
# Draws of known sources and noise for each observation.
N_EXPLAINED = 4


@WARM_STARTS.register("moments")
@dataclass(frozen=True)
class MomentWarmStart(WarmStart):
    """Gaussian priors from moments of the views: plain Gaussians, of images as well.

    For sources that vary in many directions and are seen whole. Sources of a few numbers get
    mixtures of Gaussians, as from any warm start; ``iterations`` there are none.

    Parameters
    ----------
    rank, rank_new : int
        Most directions of a source: in the first stage, and of those learned beside known ones.
    iterations : int
        0.
    components : int
        Most components of a mixture.
    """

    rank: int = option(4096, least=1)
    rank_new: int = option(4096, least=1)
    iterations: int = option(0, least=0, most=0)

    def _fit_gaussians(self, loaders, shapes, priors, symmetries, samples, rows, batch_size, track):
        rank, found = self.rank_new if priors.gaussians else self.rank, {}
        for number, (source, shape) in enumerate(track(shapes.items(), len(shapes)), 1):
            held = [name for name, loader in loaders.items() if source in loader.sources]
            observed, known = Moments(math.prod(shape)), Moments(math.prod(shape))
            for name in held:
                for observation, index in batches_of(loaders[name], batch_size):
                    own = rows[name][index].fork(number)
                    observed.add(observation, source, observation.y, own)
                    for _ in range(N_EXPLAINED):
                        y = explained_by(observation, samples, own)
                        known.add(observation, source, y, own)
            (mean, covariance), (level, spread) = observed.found(), known.found()
            mean, excess = _symmetrized(
                mean - level, covariance - spread, shape, symmetries[source]
            )
            values, vectors = torch.linalg.eigh(excess)
            kept = min(rank, int((values > 0).sum()) or 1)
            factor = vectors[:, -kept:] * values[-kept:].clip(min=0).sqrt()
            found[source] = GaussianPrior(mean.float(), factor.float())
        priors.gaussians |= found


class Moments:
    """Mean and covariance of a source, were it all that is seen, of ever more observations.

    Parameters
    ----------
    size : int
        Numbers of the source.

    Attributes
    ----------
    noise_variance : float or None
        Variance of the noise in the source, where all data are complete and have the same; else
        None.
    """

    def __init__(self, size: int):
        self.size = size
        # Of observations that are not complete, and of those that are: number, and sums.
        self._sums = [[0, 0.0, 0.0], [0, 0.0, 0.0]]
        self._gains = []

    def add(self, observation: JointObservation, source: str, y: Tensor, rows: Rows):
        """Count observations ``y`` in, whitened as the others of ``observation``.

        Parameters
        ----------
        observation : JointObservation
            The operators.
        source : str
            The source that they are carried back to.
        y : torch.Tensor
            Of shape ``(B, M)``.
        rows : Rows
            Random numbers of the observations, for probes of the operators.
        """
        k = list(observation.source_shapes).index(source)
        sizes = observation.sizes

        def there_and_back(x):
            parts = [x if j == k else x.new_zeros(len(x), size) for j, size in enumerate(sizes)]
            return observation.adjoint(observation.forward(torch.cat(parts, dim=1)))

        probe = rows.normal(self.size).to(y)
        every = (
            there_and_back(torch.ones_like(probe)),
            there_and_back(probe),
            observation.adjoint(y),
        )
        gain, back, x = (values.split(sizes, dim=1)[k] for values in every)
        off = (back - gain * probe).norm(dim=1) / back.norm(dim=1)
        least, most = gain.aminmax(dim=1)
        complete = (off < TOLERANCE) & (least > TOLERANCE * most)
        self._gains.append(torch.where(complete, torch.stack((least, most)), torch.nan).double())
        # Of others a probe tells the mean of many.
        mean = (back * probe).sum() / probe.square().sum()
        x = (x / torch.where(complete[:, None], gain, mean)).double()
        for which in (0, 1):
            some = x[complete == bool(which)]
            n, total, square = self._sums[which]
            self._sums[which] = [n + len(some), total + some.sum(dim=0), square + some.T @ some]

    def found(self) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance ``(D, D)``: of complete data, if they are enough."""
        sums = self._sums[1:] if self._sums[1][0] >= ENOUGH else self._sums
        n, total, square = (sum(part) for part in zip(*sums, strict=True))
        return total / n, square / n - torch.outer(total / n, total / n)

    @property
    def noise_variance(self) -> float | None:
        """See the class."""
        gains = torch.cat(self._gains, dim=1)
        same = torch.isclose(gains, gains.mean(), rtol=TOLERANCE).all()
        return float(1 / gains.mean()) if same else None


def _symmetrized(mean: Tensor, covariance: Tensor, shape, symmetries) -> tuple[Tensor, Tensor]:
    """Moments averaged over a source's symmetries."""
    if not symmetries:
        return mean, covariance
    n_bands, n_pixels = shape[0], math.prod(shape[-2:])
    group = permutations(symmetries, shape[-2:]).to(mean.device)
    bands = n_pixels * torch.arange(n_bands, device=mean.device)[:, None]
    orders = [(bands + order).flatten() for order in group]
    covariances = (covariance[order][:, order] for order in orders)
    return sum(mean[order] for order in orders) / len(orders), sum(covariances) / len(orders)
