r"""Probabilistic contrastive principal components: what one view varies by beyond another.

The views that bring a source hold light that other views hold as well, their *background*. PCPCA
[1]_ looks for the subspace :math:`x^\beta = \mu + W z`, :math:`z \sim \mathcal{N}(0, I)`, along
which the one varies most and the other least: it maximizes

.. math:: \frac{1}{n} \sum_i
          \log \mathcal{N}\big(y_i \mid A_i \mu_i, A_i W W^T A_i^T + \Sigma_i\big)
          - \frac{\gamma}{m} \sum_j
          \log \mathcal{N}\big(y_j \mid A_j \mu_j, A_j W W^T A_j^T + \Sigma_j\big)

over the observations :math:`i` of the source's own views and :math:`j` of the background. For
complete data (:math:`A` a number and noise of one variance, :math:`\sigma^2` in the source, both
the same everywhere) the maximum is in closed form: with the eigenvalues :math:`\Lambda` and
vectors :math:`U` of :math:`(S - \gamma S_\mathrm{background}) / (1 - \gamma)`, where :math:`S` are
second moments about the means, :math:`W = U (\Lambda - \sigma^2)_+^{1/2}`. Otherwise a likelihood
ascent begins there.

What differs from [1]_: the noise is that of the observations, known; and a background is no part of
the noise in draws, but a source of its own, with a PCPCA of its own (the first source's is a
probabilistic PCA), so that a draw is one of all sources together. The background is seen through
its last source's operator, times the amplitude of the new source relative to it.

References
----------
.. [1] Li, Jones & Engelhardt 2020, arXiv:2012.07977
"""

__all__ = ["PCPCASourceSeparator"]

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.learning.data import Turns
from ..diffusion.learning.moments import TOLERANCE, Moments
from ..diffusion.learning.stages import plan_stages
from ..diffusion.learning.training import Trainer, Training
from ..diffusion.observation import JointObservation
from ..diffusion.posteriors.base import Priors
from ..diffusion.posteriors.latent import LatentPosterior
from ..diffusion.priors.gaussian import GaussianPrior
from ..diffusion.random import Rows, seeded
from ..errors import InputError
from ..registry import option
from .configured import SEPARATORS
from .gaussian import GaussianPriorSeparator

# Observations at a time whose moments are found.
AT_A_TIME = 256


@SEPARATORS.register("pcpca")
@dataclass(eq=False)
class PCPCASourceSeparator(GaussianPriorSeparator):
    """Probabilistic contrastive principal components of each source (Li, Jones & Engelhardt 2020).

    Views must bring their sources one after the other; a source without background (no view holds
    all the others of its view and no more) gets probabilistic principal components. Draws are
    exact.

    Parameters
    ----------
    sources, device, execution, seed, progress, schedule
        See `~astro_ddprism.separator.gaussian.GaussianPriorSeparator`.
    rank : int
        Latent dimensions of a source; at most its number of features is used.
    gamma : float
        Weight of the background, below 1.
    training : Training
        The likelihood ascent, where data are incomplete: ``n_first_images`` observations.

    Attributes
    ----------
    priors_, sources_, source_shapes_, unit_, noise_scale_, training_, device_
        See `~astro_ddprism.separator.base.SourceSeparator`.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import MultiViewDataset, PCPCASourceSeparator
    >>> rng = np.random.default_rng(1)
    >>> background = rng.normal(0, 1, (2, 400, 3)) * [4, 1, 1]
    >>> signal, A = rng.normal(0, 1, (400, 3)) * [0.1, 0.1, 3], {"b": np.eye(3)}
    >>> both, total = A | {"s": np.eye(3)}, background[1] + signal
    >>> views = MultiViewDataset.from_arrays({
    ...     "first": {"data": background[0], "variance": 1.0, "mixing": A},
    ...     "second": {"data": total, "variance": 1.0, "mixing": both},
    ... })
    >>> separator = PCPCASourceSeparator(rank=1, gamma=0.8, device="cpu", progress=False)
    >>> separator.fit(views).priors_["s"].factor[:, 0].abs().argmax().item()
    2
    """

    rank: int = option(5, least=1)
    gamma: float = option(0.3, least=0, most=0.999)
    training: Training = option(Training())

    def _fit(self, task):
        priors, device = Priors(self.schedule), self.device_
        stages = plan_stages({name: each.sources for name, each in task.loaders.items()})
        for stage in stages:
            if len(stage.sources) > 1:
                raise InputError(
                    f"dataset: found views that bring {', '.join(stage.sources)} together, "
                    "expected one new source after the other for pcpca"
                )
        for number, stage in enumerate(stages):
            (source,) = stage.sources
            with seeded(self.seed, number, device=device):
                contrast = _Contrast(source, stage.views, task, priors.gaussians, self.gamma)
                prior, complete = contrast.closed_form(min(self.rank, contrast.size), self._rows)
                if not complete:
                    prior = self._ascend(contrast, prior, task)
            priors.gaussians[source] = prior
        return priors

    def _rows(self, loader, index) -> Rows:
        return Rows.of(self.seed, ids=loader.ids[index], device=self.device_)

    def _ascend(self, contrast, prior: GaussianPrior, task) -> GaussianPrior:
        model = _Likelihood(contrast, prior)
        title = f"{contrast.source} likelihood ascent"
        trainer = Trainer(self.training, self.execution, task.track, title, title)
        draws = [contrast.pairs(loader) for loader in contrast.own]
        turns = Turns(draws, [len(loader) for loader in contrast.own])
        trainer.train(model, turns, trainer.n_images(first=True))
        with torch.no_grad():
            return model.prior


class _Contrast:
    """Observations that hold a source, and its background's, less the means of the others."""

    def __init__(self, source: str, views, task, known, gamma: float):
        self.source, self.known = source, known
        self.own = [task.loaders[name] for name in views]
        self.size = torch.Size(task.source_shapes[source]).numel()
        others = {s for loader in self.own for s in loader.sources} - {source}
        found = [v for v in task.loaders.values() if others and set(v.sources) == others]
        self.background = max(found, key=len) if found else None
        self.gamma, self.amplitude = gamma if found else 0.0, 1.0
        if found:
            last, shapes = self.background.sources[-1], task.source_shapes
            if shapes[last] != shapes[source]:
                raise InputError(
                    f"dataset: found the source {source!r} of shape {shapes[source]}, expected "
                    f"{shapes[last]}, that of its background {last!r}, for pcpca"
                )
            self.amplitude = self._relative_amplitude(last)

    @torch.no_grad()
    def observe(self, loader, index) -> JointObservation:
        """Some observations as of the source alone; of the background, as of its last source."""
        observation = loader.observe(index)
        source = loader.sources[-1] if loader is self.background else self.source
        means = [
            torch.zeros(math.prod(shape)).to(observation.y) if s == source else self.known[s].mean
            for s, shape in observation.source_shapes.items()
        ]
        light = torch.cat([mean.to(observation.y) for mean in means])
        return observation.alone(source, light.expand(len(observation), -1))

    def pairs(self, loader):
        """Draws observations of a view at random, beside as many of the background."""
        views = [loader] if self.background is None else [loader, self.background]

        def draw(n):
            index = [torch.randint(len(view), (n,), device=view.device) for view in views]
            batches = [self.observe(view, i) for view, i in zip(views, index, strict=True)]
            return batches[0].y, *batches

        return draw

    def of_background(self, prior: GaussianPrior) -> GaussianPrior:
        """The source's subspace in the background, about the mean of that one's last source."""
        mean = self.known[self.background.sources[-1]].mean
        return GaussianPrior(mean, self.amplitude * prior.factor)

    def _relative_amplitude(self, last: str) -> float:
        observation = self.own[0].observe(np.arange(min(len(self.own[0]), AT_A_TIME)))
        zeros = observation.y.new_zeros(len(observation), sum(observation.sizes))
        v = torch.randn(len(observation), self.size).to(zeros)
        own, other = (observation.alone(s, zeros).forward(v) for s in (self.source, last))
        return float((own * other).sum() / other.square().sum())

    def closed_form(self, rank: int, rows_of) -> tuple[GaussianPrior, bool]:
        """The maximum of the likelihood if data are complete, else a place to begin; and which."""
        own = self._moments(self.own, rows_of)
        (mean, moment), variance = own.found(), own.noise_variance
        complete = variance is not None
        if self.gamma:
            other, square = self._moments([self.background], rows_of), self.amplitude**2
            moment = (moment - self.gamma * other.found()[1] / square) / (1 - self.gamma)
            alike = (other.noise_variance or math.nan) / square
            complete = complete and math.isclose(alike, variance, rel_tol=TOLERANCE)
        values, vectors = torch.linalg.eigh(moment)
        values = values[-rank:] - (variance if complete else 0)
        factor = vectors[:, -rank:] * values.clip(min=0).sqrt()
        return GaussianPrior(mean, factor), complete

    def _moments(self, loaders, rows_of) -> Moments:
        moments = Moments(self.size)
        for loader in loaders:
            for i in range(0, len(loader), AT_A_TIME):
                index = np.arange(i, min(i + AT_A_TIME, len(loader)))
                observation = self.observe(loader, index)
                (source,) = observation.source_shapes
                moments.add(observation, source, observation.y, rows_of(loader, index))
        return moments


class _Likelihood(nn.Module):
    """The contrast of the likelihoods, for the ascent; parameters are in units of their spread."""

    def __init__(self, contrast: _Contrast, prior: GaussianPrior):
        super().__init__()
        self.contrast, self.spread = contrast, prior.rms
        # A direction of no light would stay so: its gradient is zero.
        begin = prior.factor / self.spread + 1e-2 * torch.randn_like(prior.factor)
        self.mean, self.factor = nn.Parameter(prior.mean / self.spread), nn.Parameter(begin)

    @property
    def prior(self) -> GaussianPrior:
        return GaussianPrior(self.spread * self.mean, self.spread * self.factor)

    def loss(self, y: Tensor, t, z, own, background=None) -> Tensor:  # noqa: ARG002
        """Minus the contrast, of each pair of observations, for each number in them: ``(B,)``."""
        contrast = LatentPosterior(own, [self.prior]).log_evidence
        if background is not None:
            prior = self.contrast.of_background(self.prior)
            other = LatentPosterior(background, [prior]).log_evidence
            contrast = contrast - self.contrast.gamma * other
        return -contrast / y.shape[1]
