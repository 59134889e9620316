r"""The warm start: Gaussian priors of new sources, learned from views by closed-form EM.

Expectation maximization frees a source of light that it wrongly holds only slowly: where a known
source explains a blob as well, the new source's share falls as :math:`1/n` with the iteration.
Light that it wrongly lacks, on the other hand, comes as soon as the known sources explain it worse.
A new source therefore starts *restricted*: from the few leading components of what its views hold
in excess of the known sources and the noise,

.. math:: \mathrm{Cov}[b] - \mathrm{Cov}[b_0] + \Delta \Delta^T, \quad
          \Delta = \mathrm{E}[b] - \mathrm{E}[b_0], \quad
          b = \tilde A^T \tilde y, \quad
          b_0 = \tilde A^T (\tilde A x^\mathrm{known} + \varepsilon) ,

with :math:`x^\mathrm{known}` out of the draws of the known sources. A galaxy's leading components
are its mean profile, its size and its ellipticity; a neighbour is none of them.

Fluxes have heavy tails, and the few brightest images would make up both covariances. Each :math:`b`
is therefore paired with a :math:`b_0` at random, and both enter with the weight
:math:`1 / (\|b\|^2 + \|b_0\|^2)`: a bright neighbour counts as little in the one as in the other.
"""

__all__ = ["WARM_STARTS", "GaussianWarmStart", "WarmStart", "batches_of", "explained_by"]

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...registry import MOST_REPEATS, Part, Registry, option
from .. import ranks
from ..observation import JointObservation
from ..posteriors.components import Designed
from ..posteriors.latent import LatentPosterior, latent_posterior
from ..priors.gaussian import GaussianPrior, has_scales
from ..random import Rows
from .growth import MixtureWarmStart, is_small
from .symmetries import orbit

#: Most numbers of a source of which covariances are whole.
MOST_OF_COVARIANCE = 4096
#: Warm starts by name.
WARM_STARTS = Registry("warm start", "astro_ddprism.warm_starts")


@WARM_STARTS.register("gaussian")
@dataclass(frozen=True)
class WarmStart(Part):
    """Priors of new sources from closed-form EM: Gaussian ones, or mixtures of Gaussians.

    Sources of a few numbers get mixtures (`~astro_ddprism.diffusion.learning.growth`), all others
    Gaussian scale mixtures in a subspace.

    Parameters
    ----------
    rank, rank_new : int
        Latent dimensions of Gaussian priors: in the first stage, and of sources that are learned
        beside known ones.
    iterations : int
        EM iterations of Gaussian priors.
    components : int
        Most components of a mixture.
    """

    registry = WARM_STARTS

    rank: int = option(64, least=1)
    rank_new: int = option(6, least=1)
    iterations: int = option(4, least=0, most=MOST_REPEATS)
    components: int = option(128, least=1)

    def fit(self, loaders, shapes, priors, *, symmetries, samples, rows, batch_size, track):
        """Learn the priors of the new sources of a stage.

        Parameters
        ----------
        loaders : dict of str to `~astro_ddprism.diffusion.observation.Loader`
            The observations of the views.
        shapes : dict of str to tuple of int
            The new sources, and their shapes.
        priors : `~astro_ddprism.diffusion.posteriors.base.Priors`
            Those of sources that are known; the new ones are added to it.
        symmetries : dict of str to tuple of str
            Symmetries of the sources.
        samples : dict of str to torch.Tensor
            Draws of the known sources, each of shape ``(N, D_source)``.
        rows : dict of str to Rows
            Random numbers of every observation of a view.
        batch_size : int
            Observations at a time.
        track : callable
            Called with an iterable and its length or None; returns the iterable in a progress bar.
        """
        known = {*shapes, *priors.mixtures}
        if all(is_small(loader) and set(loader.sources) <= known for loader in loaders.values()):
            self._grow_mixtures(loaders, shapes, priors, batch_size, track)
        else:
            self._fit_gaussians(
                loaders, shapes, priors, symmetries, samples, rows, batch_size, track
            )
        for source in shapes:
            for kind in (priors.gaussians, priors.mixtures):
                parts = vars(kind[source]).values() if source in kind else ()
                ranks.agree(part for part in parts if isinstance(part, Tensor))
            priors.sigma_max[source] = priors.noise.top(priors.gaussians[source].rms)

    def _grow_mixtures(self, loaders, shapes, priors, batch_size, track):
        warm_start = MixtureWarmStart(
            priors.mixtures,
            {source: math.prod(shape) for source, shape in shapes.items()},
            n_components=self.components,
            floor=priors.noise.sigma_min,
        )
        views = [
            Designed.gather(observation for observation, _ in batches_of(loader, batch_size))
            for loader in loaders.values()
        ]
        for _ in track(warm_start.fit(views), None):
            pass
        priors.mixtures |= warm_start.mixtures
        priors.gaussians |= {
            source: mixture.gaussian().to(dtype=torch.float32)
            for source, mixture in warm_start.mixtures.items()
        }

    def _fit_gaussians(self, loaders, shapes, priors, symmetries, samples, rows, batch_size, track):
        rank = self.rank_new if priors.gaussians else self.rank
        warm_start = GaussianWarmStart(
            priors.gaussians,
            shapes,
            symmetries=symmetries,
            ranks=dict.fromkeys(shapes, rank),
            known_samples=samples,
        )

        def batches():
            for name, loader in loaders.items():
                for observation, index in batches_of(loader, batch_size):
                    yield observation, rows[name][index]

        for _ in track(warm_start.fit(batches, self.iterations), self.iterations):
            pass
        priors.gaussians |= warm_start.priors


def batches_of(loader, size: int):
    """All observations of a view, a batch at a time, and which they are."""
    for i in range(0, len(loader), size):
        index = np.arange(i, min(i + size, len(loader)))
        yield loader.observe(index), index


class GaussianWarmStart:
    """Learns Gaussian priors of new sources beside known ones.

    Parameters
    ----------
    known : dict of str to GaussianPrior
        Priors that stay as they are.
    known_samples : dict of str to torch.Tensor
        Draws of the known sources, each of shape ``(N, D_source)``.
    shapes : dict of str to tuple of int
        Shapes of the new sources.
    symmetries : dict of str to tuple of str
        Symmetries of the new sources.
    ranks : dict of str to int
        Latent dimensions of the new sources; at most their number of features is used.
    """

    def __init__(self, known, shapes, *, symmetries, ranks, known_samples=None):
        self.known = dict(known)
        self.known_samples = dict(known_samples or {})
        self.shapes = dict(shapes)
        self.symmetries = symmetries
        self.ranks = {s: min(ranks[s], math.prod(shape)) for s, shape in shapes.items()}
        self.priors: dict[str, GaussianPrior] = {}

    def fit(self, batches, iterations: int):
        """Learn the priors of the new sources.

        Parameters
        ----------
        batches : callable
            Called without arguments; iterates over pairs of ``JointObservation`` and ``Rows``,
            their random numbers, the same in the same order each time.
        iterations : int
            Number of EM iterations.

        Yields
        ------
        int
            The iterations done, for a progress bar.
        """
        for number, source in enumerate(self.shapes, 1):
            self.priors[source] = self._initial_prior(source, batches, number)
        for iteration in range(iterations):
            self._iterate(batches)
            yield iteration + 1

    def posterior(self, observation: JointObservation) -> LatentPosterior:
        """The latent posterior of a batch of observations, with its scales at their maximum."""
        learn = [has_scales(shape) for shape in observation.source_shapes.values()]
        return latent_posterior(observation, self.known | self.priors, learn)

    def _initial_prior(self, source, batches, number: int) -> GaussianPrior:
        shape, rank = self.shapes[source], self.ranks[source]
        size = math.prod(shape)

        def pairs():
            for observation, rows in batches():
                if source in observation.source_shapes:
                    own = rows.fork(number)
                    y = explained_by(observation, self.known_samples, own)
                    observed = _backproject(observation, source, observation.y, own)
                    yield observed, _backproject(observation, source, y, own)

        if rank == size:
            powers = [(a.double().square() - b.double().square()).mean(dim=1) for a, b in pairs()]
            power = torch.cat(powers).mean().clip(min=1.0).float()
            return GaussianPrior(power.new_zeros(size), power.sqrt() * torch.eye(size).to(power))
        factor = _excess_factor(pairs, size, 2 * rank)
        mean = factor.new_zeros(size)
        return GaussianPrior(mean, _symmetrized(factor, shape, self.symmetries[source], rank))

    def _iterate(self, batches):
        moments = dict.fromkeys(self.shapes, 0.0)
        means = dict.fromkeys(self.shapes, 0.0)
        log_scales = {source: [] for source in self.shapes}
        counts = dict.fromkeys(self.shapes, 0)
        for observation, _ in batches():
            posterior = self.posterior(observation)
            z = posterior.mean.split(posterior.ranks, dim=1)
            covariances, start = posterior.covariance, 0
            for k, source in enumerate(observation.source_shapes):
                stop = start + posterior.ranks[k]
                if source in self.shapes:
                    covariance = covariances[:, start:stop, start:stop].sum(dim=0)
                    moments[source] = moments[source] + z[k].T @ z[k] + covariance
                    means[source] = means[source] + z[k].sum(dim=0)
                    log_scales[source].append(posterior.scales[:, k].log())
                    counts[source] += len(observation)
                start = stop
        for source in self.shapes:
            found = moments[source] / counts[source], means[source] / counts[source]
            found = (*found, torch.cat(log_scales[source]))
            own = self.priors[source].mean  # whose precision what was found may exceed
            self.priors[source] = self._maximize(source, *(part.to(own) for part in found))

    def _maximize(self, source, moment: Tensor, latent_mean: Tensor, log_scale) -> GaussianPrior:
        prior = self.priors[source]
        mean = prior.mean
        if has_scales(self.shapes[source]):
            typical = log_scale.median()
            spread = torch.stack([torch.zeros_like(typical), log_scale.std()])
        else:
            typical, spread = torch.zeros_like(moment[0, 0]), None
            mean = mean + prior.factor @ latent_mean
            moment = moment - torch.outer(latent_mean, latent_mean)
        jitter = 1e-6 * moment.diagonal().mean() * torch.eye(len(moment), device=moment.device)
        factor = typical.exp() * prior.factor @ torch.linalg.cholesky(moment + jitter)
        factor = _symmetrized(factor, self.shapes[source], self.symmetries[source], prior.rank)
        return GaussianPrior(mean, factor, spread)


def explained_by(observation: JointObservation, samples, rows: Rows) -> Tensor:
    """Whitened observations that known sources, out of their samples, and noise alone would make.

    Parameters
    ----------
    observation : JointObservation
        The observations of a batch.
    samples : dict of str to torch.Tensor
        Draws of the known sources, each of shape ``(N, D_source)``.
    rows : Rows
        Random numbers of the observations.

    Returns
    -------
    torch.Tensor
        Of the shape of ``observation.y``.
    """
    n, parts = len(observation), []
    for source, shape in observation.source_shapes.items():
        if source in samples:
            known = samples[source]
            pick = (rows.uniform(1)[:, 0] * len(known)).long()
            parts.append(known[pick.to(known.device)].to(observation.y.device))
        else:
            parts.append(observation.y.new_zeros(n, math.prod(shape)))
    light = observation.forward(torch.cat(parts, dim=1))
    return light + rows.normal(light.shape[1], dtype=light.dtype)


def _backproject(observation: JointObservation, source: str, y: Tensor, rows: Rows) -> Tensor:
    r"""One source's part of :math:`\tilde A^T \tilde y`, each band at the scale of the source.

    Bands may differ in noise, and what spans the prior must have the source's colours.
    """
    k, shape = list(observation.source_shapes).index(source), observation.source_shapes[source]
    n_bands = shape[0] if has_scales(shape) else 1
    parts = observation.split(rows.normal(sum(observation.sizes), dtype=y.dtype))
    probe, back = (
        source_parts[k].reshape(len(y), n_bands, -1)
        for source_parts in (parts, observation.split(observation.adjoint(y)))
    )
    parts, gains = [torch.zeros_like(p) for p in parts], []
    for band in torch.eye(n_bands).to(probe):
        parts[k] = (band[:, None] * probe).reshape(len(y), *shape)
        power = observation.forward(observation.join(parts)).square().sum(dim=1)
        gains.append(power / probe.shape[2])
    gains = torch.stack(gains, dim=1).clip(min=torch.finfo(y.dtype).tiny)
    return (back / gains[:, :, None]).flatten(1)


def _excess_factor(pairs, size: int, rank: int) -> Tensor:
    """Factor of the positive part of what vectors hold in excess of others.

    ``pairs`` iterates over batches of both, ``(B, size)``, the same each time.
    """
    span = None
    if size > MOST_OF_COVARIANCE:  # work in the span of random combinations of the observations
        combinations = 0.0
        for observed, _ in pairs():
            random = torch.randn(len(observed), 4 * rank, device=observed.device)
            combinations = combinations + observed.T @ random
        span, _ = torch.linalg.qr(combinations)
    total, sums, squares = 0.0, [0.0, 0.0], [0.0, 0.0]
    for both in pairs():
        weights = 1 / sum(x.square().sum(dim=1) for x in both)
        total = total + weights.double().sum()
        for k, x in enumerate(both):
            x = x if span is None else x @ span
            weighted = weights[:, None] * x
            sums[k] = sums[k] + weighted.double().sum(dim=0)
            squares[k] = squares[k] + (weighted.T @ x).double()
    means = [each / total for each in sums]
    excess = (squares[0] - squares[1]) / total
    for sign, mean in ((-1, means[0]), (1, means[1]), (1, means[0] - means[1])):
        excess = excess + sign * torch.outer(mean, mean)
    values, vectors = torch.linalg.eigh(excess.float())
    rank = min(rank, len(values))
    factor = vectors[:, -rank:] * values[-rank:].clip(min=0).sqrt()
    return factor if span is None else span @ factor


def _symmetrized(factor: Tensor, shape, symmetries, rank: int) -> Tensor:
    """The leading directions of a covariance ``W W^T`` averaged over a source's symmetries."""
    images = factor.T.reshape(-1, *shape)
    copies = orbit(images, symmetries)
    columns = copies.flatten(1).T / math.sqrt(len(copies) / len(images))
    basis, singular, _ = torch.linalg.svd(columns, full_matrices=False)
    return basis[:, :rank] * singular[:rank]
