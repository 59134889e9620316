r"""The warm start of small sources: mixtures of Gaussians, grown by closed-form EM.

A single Gaussian for every source is learned first. Then every component splits in two along its
longest axis, EM converges again, and so on: the mixture unfolds along whatever the source lives on,
from coarse to fine, so that no component starts in a place where nothing is. In each iteration the
combination of components of an observation is drawn a few times from its exact posterior, and the
moments of the sources given the components are averaged in closed form.

Every tenth observation takes no part in the maximization: the mean log-evidence of these held-out
observations decides when a mixture of a size has converged, and when finer ones explain no more.

Sources that live on something thinner than the noise are thinned by EM ever more slowly. The last
iterations, which take all observations, are therefore over-relaxed (Salakhutdinov & Roweis 2003,
*Adaptive overrelaxed bound optimization methods*): variances that fall do so by a power of what EM
says, as long as the held-out observations agree.
"""

import math

import torch
from torch import Tensor

from ..posteriors.components import Designed
from ..priors.mixture import GaussianMixture, have_few_features

__all__ = ["MixtureWarmStart", "is_small"]

#: Observations for each component while a mixture grows; the last iterations take all.
_PER_COMPONENT = 128
#: Draws of the components of each observation in an iteration.
_N_DRAWS = 4
#: Gains in the held-out log-evidence, in nats an observation, below which EM has converged, and
#: which a finer mixture must exceed to be worth it.
_CONVERGED, _FINER = 2e-3, 1e-2
#: The same for the last iterations, and by what power they exceed what EM does to variances that
#: fall: EM alone thins a prior below the noise ever more slowly.
_CONVERGED_LAST, _RELAXATION = 1e-4, 3.0
#: Most iterations for a mixture of one size.
_MAX_ITERATIONS = 16
#: Every how many observations one is held out.
_HELD_OUT = 10
#: Observations that are worked on at a time.
_BATCH = 4096
#: Most numbers of an observation for which a mixture is learned.
_MAX_OBSERVED = 16
#: Fewest observations for each component.
_MIN_PER_COMPONENT = 16


def is_small(loader) -> bool:
    """Whether the sources of a view are vectors small enough for mixtures of Gaussians.

    Parameters
    ----------
    loader : `~astro_ddprism.diffusion.observation.Loader`
        The observations of the view.
    """
    return loader.n_observed <= _MAX_OBSERVED and have_few_features(loader.source_shapes)


class MixtureWarmStart:
    """Learns mixtures of Gaussians of new sources beside known ones.

    Parameters
    ----------
    known : dict of str to GaussianMixture
        Priors that stay as they are.
    sizes : dict of str to int
        Number of features of each new source.
    n_components : int
        Most components of a mixture.
    floor : float
        Least standard deviation of a component along any axis.

    Attributes
    ----------
    mixtures : dict of str to GaussianMixture
        What has been learned, in float64.
    log_evidence : float
        Mean log-evidence of the held-out observations, in nats an observation.
    """

    def __init__(self, known, sizes, *, n_components: int, floor: float):
        self.known, self.sizes = dict(known), dict(sizes)
        self.n_components, self.floor = n_components, floor
        self.mixtures: dict[str, GaussianMixture] = {}
        self.log_evidence = -math.inf

    def fit(self, views: list[Designed]):
        """Learn the mixtures.

        Parameters
        ----------
        views : list of Designed
            The observations of each view.

        Yields
        ------
        int
            Number of components, after every EM iteration.
        """
        training = [view[_rows(view, held_out=False)] for view in views]
        held_out = [view[_rows(view, held_out=True)] for view in views]
        self.mixtures = {source: self._isotropic(source, training) for source in self.sizes}
        n_training = sum(len(view) for view in training)
        best, fruitless = (-math.inf, self.mixtures), 0
        while True:
            n = len(next(iter(self.mixtures.values())))
            self.log_evidence = -math.inf
            yield from self._converge(_first(training, _PER_COMPONENT * n), held_out)
            # What a symmetric source is like may take two steps to see.
            fruitless = fruitless + 1 if self.log_evidence < best[0] + _FINER else 0
            if not fruitless:
                best = self.log_evidence, self.mixtures
            if fruitless > 1 or 2 * n > min(self.n_components, n_training / _MIN_PER_COMPONENT):
                break
            self.mixtures = {source: mixture.split() for source, mixture in self.mixtures.items()}
        self.log_evidence, self.mixtures = best
        yield from self._converge(training, held_out, _CONVERGED_LAST, _RELAXATION)

    def _converge(self, training, held_out, converged=_CONVERGED, relaxation=1.0):
        for _ in range(_MAX_ITERATIONS):
            before = self.mixtures
            self.mixtures = self._iterate(training, relaxation)
            log_evidence = self._evaluate(held_out)
            yield len(next(iter(self.mixtures.values())))
            gain = log_evidence - self.log_evidence
            if gain < 0:
                self.mixtures = before
            else:
                self.log_evidence = log_evidence
            if gain < converged:
                break

    def _isotropic(self, source, views) -> GaussianMixture:
        """One component at zero, with the power that the views leave room for."""
        held = [view for view in views if source in view.designs]
        power = sum(float(view.y.double().square().sum()) for view in held)
        gain = sum(float(view.designs[source].double().square().sum()) for view in held)
        size, device = self.sizes[source], held[0].y.device
        options = {"dtype": torch.float64, "device": device}
        covariance = max(power / max(gain, 1e-300), self.floor**2) * torch.eye(size, **options)
        return GaussianMixture(
            torch.ones(1, **options), torch.zeros(1, size, **options), covariance[None]
        )

    def _evaluate(self, views) -> float:
        total = sum(
            float(batch.posterior(self.known | self.mixtures).total_log_evidence.double().sum())
            for view in views
            for batch in view.batches(_BATCH)
        )
        return total / sum(len(view) for view in views)

    def _iterate(self, views, relaxation: float = 1.0) -> dict[str, GaussianMixture]:
        sums = {source: _Sums(mixture) for source, mixture in self.mixtures.items()}
        for view in views:
            for batch in view.batches(_BATCH):
                posterior = batch.posterior(self.known | self.mixtures)
                u = torch.rand(len(batch), _N_DRAWS, dtype=torch.float64, device=batch.y.device)
                chosen = posterior.choose(u)
                moments = posterior.moments(chosen)
                for k, source in enumerate(batch.designs):
                    if source in sums:
                        sums[source].add(chosen[..., k], *moments[k])
        return {source: total.maximize(self.floor, relaxation) for source, total in sums.items()}


class _Sums:
    """Sums over observations from which a mixture follows."""

    def __init__(self, mixture: GaussianMixture):
        # The old mixture counts a little, so that no component is left without any.
        self.weight = mixture.weights.clone()
        self.origin, self.old = mixture.means, mixture.covariances
        self.first = torch.zeros_like(mixture.means)
        self.second = mixture.weights[:, None, None] * mixture.covariances

    def add(self, k: Tensor, mean: Tensor, covariance: Tensor):
        k, mean = k.flatten(), mean.flatten(0, 1) - self.origin[k.flatten()]
        second = covariance.flatten(0, 1) + mean[:, :, None] * mean[:, None, :]
        self.weight.index_add_(0, k, torch.ones_like(mean[:, 0]))
        self.first.index_add_(0, k, mean)
        self.second.index_add_(0, k, second)

    def maximize(self, floor: float, relaxation: float) -> GaussianMixture:
        offset = self.first / self.weight[:, None]
        covariance = self.second / self.weight[:, None, None]
        covariance = covariance - offset[:, :, None] * offset[:, None, :]
        values, vectors = torch.linalg.eigh(covariance)
        old = torch.einsum("kij,kil,klj->kj", vectors, self.old, vectors)
        fall = (values / old.clip(min=floor**2)).clip(min=0.2, max=1)
        values = values * fall ** (relaxation - 1)
        covariance = (vectors * values.clip(min=floor**2)[:, None, :]) @ vectors.mT
        return GaussianMixture(self.weight / self.weight.sum(), self.origin + offset, covariance)


def _rows(view: Designed, *, held_out: bool) -> Tensor:
    index = torch.arange(len(view), device=view.y.device)
    if len(view) < _HELD_OUT:  # too few to spare one
        return index
    return index[(index % _HELD_OUT == 0) == held_out]


def _first(views, n: int):
    """About ``n`` of the observations, from all views alike, but no fewer than a few thousand."""
    share = max(n, _BATCH) / sum(len(view) for view in views)
    return [view[: math.ceil(share * len(view))] for view in views]
