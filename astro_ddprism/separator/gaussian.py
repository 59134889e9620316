r"""Gaussian priors of several sources, learned in closed form: a probabilistic PCA of views.

The warm start of `~astro_ddprism.DiffusionSourceSeparator` alone: each source is a Gaussian scale
mixture in a subspace (`~astro_ddprism.diffusion.priors.gaussian`), or, of a few numbers, a mixture
of Gaussians (`~astro_ddprism.diffusion.priors.mixture`). It takes seconds and needs no network: a
first look at data, and a baseline.
"""

__all__ = ["GaussianPriorSeparator", "GaussianSourceSeparator"]

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..diffusion.learning.stages import plan_stages
from ..diffusion.learning.symmetries import SYMMETRIES, symmetries_of
from ..diffusion.learning.warmstart import WarmStart
from ..diffusion.posteriors.base import PosteriorMethod, Priors
from ..diffusion.posteriors.exact import ExactGaussian
from ..diffusion.posteriors.moment_matching import MomentMatching
from ..diffusion.priors.schedule import NoiseSchedule
from ..diffusion.random import Rows, seeded
from ..diffusion.sampling.chains import Chains, draw_sources
from ..registry import option
from .base import SourceSeparator
from .configured import SEPARATORS
from .trees import priors_from_tree, priors_tree

# What random numbers of a fit are for.
_WARM_START, _DRAWS = range(2)


@dataclass(eq=False)
class GaussianPriorSeparator(SourceSeparator):
    """What separators have in common whose priors are Gaussians: draws, densities and files.

    A method writes ``_fit``, which returns `~astro_ddprism.diffusion.posteriors.base.Priors`.

    Parameters
    ----------
    sources, device, execution, seed, progress
        See `~astro_ddprism.separator.base.SourceSeparator`.
    schedule : NoiseSchedule
        Its ``sigma_min`` is the finest detail of a prior: the scatter about the subspace of a
        Gaussian prior in `log_prob`.

    Attributes
    ----------
    posterior_method : PosteriorMethod
        How joint draws are made.
    priors_ : dict of str to GaussianPrior or GaussianMixture
        The prior of each source.
    """

    posterior_method: ClassVar[PosteriorMethod] = ExactGaussian()

    schedule: NoiseSchedule = option(NoiseSchedule())

    @property
    def priors_(self):
        """The prior of each source."""
        priors = self._learned.state
        return {**priors.gaussians, **priors.mixtures}

    def _draw(self, state, loader, index, rows, track):
        return draw_sources(
            self.posterior_method,
            state,
            loader,
            np.asarray(index),
            rows,
            chains=Chains(),
            batch_size=self.execution.n_at_a_time,
            track=track,
        )

    def _draw_prior(self, state, source, rows, track):  # noqa: ARG002
        prior, size = self.priors_[source], self.execution.n_at_a_time
        batches = track(range(0, len(rows), size))
        return torch.cat([prior.sample(rows[i : i + size]).float().cpu() for i in batches])

    def _log_prob(self, state, source, values, *, n_probes, seed, track):  # noqa: ARG002
        sigma = torch.tensor(self.schedule.sigma_min, dtype=torch.float64, device=values.device)
        x, prior = values.flatten(1).double(), self.priors_[source]
        if source in state.mixtures:
            log_prob = prior.to(dtype=torch.float64).log_prob(x)
        else:
            log_prob = prior.to(dtype=torch.float64).log_prob(x, sigma)
        return log_prob, torch.zeros_like(log_prob)

    def _state_tree(self, state, *, draws):  # noqa: ARG002
        return priors_tree(state)

    def _from_tree(self, tree, source_shapes):
        return priors_from_tree(
            tree, source_shapes, self.schedule, self.posterior_method, self.execution
        )


@SEPARATORS.register("gaussian")
@dataclass(eq=False)
class GaussianSourceSeparator(GaussianPriorSeparator):
    """Gaussian priors of several sources, learned from views, and the posterior under them.

    Under mixtures it is exact. Under Gaussian priors the first source also takes what a draw leaves
    unexplained, where that is more than noise would be (two standard deviations of chi-squared).

    Parameters
    ----------
    sources, device, execution, seed, progress
        See `~astro_ddprism.separator.base.SourceSeparator`.
    warm_start : WarmStart
        Ranks, components and EM iterations.
    schedule : NoiseSchedule
        Its ``sigma_min`` is the finest detail of a prior: the least deviation of a mixture's
        component, and the scatter about the subspace of a Gaussian prior in `log_prob`.
    symmetries : dict of str to tuple of str, optional
        As of `~astro_ddprism.DiffusionSourceSeparator`.

    Attributes
    ----------
    priors_ : dict of str to GaussianPrior or GaussianMixture
        The prior of each source.
    sources_, source_shapes_, unit_, noise_scale_, training_, device_
        See `~astro_ddprism.separator.base.SourceSeparator`.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import GaussianSourceSeparator, MultiViewDataset
    >>> rng = np.random.default_rng(1)
    >>> data = rng.normal(0, 3, (256, 2)) * [1, 2] + rng.normal(0, 1, (256, 2))
    >>> mixing = {"a": np.eye(2)}
    >>> views = MultiViewDataset.from_arrays({
    ...     "first": {"data": data, "variance": 1.0, "mixing": mixing},
    ... })
    >>> separator = GaussianSourceSeparator(device="cpu", progress=False).fit(views)
    >>> separator.sample(views["first"], n_samples=3).samples["a"].shape
    (3, 256, 2)
    >>> spread = separator.sample(n_samples=4000)["a"].std(axis=0)
    >>> bool((abs(spread.value / [3, 6] - 1) < 0.2).all())
    True
    """

    # In closed form where no source has a network.
    posterior_method: ClassVar[PosteriorMethod] = MomentMatching()

    warm_start: WarmStart = option(WarmStart())
    symmetries: dict[str, tuple[str, ...]] | None = option(None, choices=SYMMETRIES)

    def _fit(self, task):
        priors, samples = Priors(self.schedule), {}
        device, loaders = self.execution.torch_device, task.loaders
        symmetries = symmetries_of(self.symmetries, task.source_shapes)
        stages = plan_stages({name: loader.sources for name, loader in loaders.items()})
        for k, stage in enumerate(stages):
            with seeded(self.seed, k, _WARM_START, device=device), torch.no_grad():
                self.warm_start.fit(
                    {name: loaders[name] for name in stage.views},
                    {source: task.source_shapes[source] for source in stage.sources},
                    priors,
                    symmetries=symmetries,
                    samples=samples,
                    rows={name: self._rows(k, _WARM_START, name, loaders) for name in stage.views},
                    batch_size=self.execution.n_at_a_time,
                    track=lambda steps, total, stage=stage: task.track(
                        steps, f"{', '.join(stage.sources)} warm start", total=total
                    ),
                )
            if k + 1 < len(stages):  # the next stage looks for what these do not explain
                samples |= self._draws_of(k, stage, loaders, priors, task.track)
        return priors

    def _draws_of(self, k, stage, loaders, priors, track):
        samples = {source: [] for source in stage.sources}
        for name in stage.views:
            loader, rows = loaders[name], self._rows(k, _DRAWS, name, loaders)
            draws = self._draw(
                priors, loader, range(len(loader)), rows, lambda batches: track(batches, "draws")
            )
            sizes = [torch.Size(shape).numel() for shape in loader.source_shapes.values()]
            parts = dict(zip(loader.sources, draws.x[draws.good].split(sizes, dim=1), strict=True))
            for source in set(samples) & set(parts):
                samples[source].append(parts[source])
        return {source: torch.cat(parts) for source, parts in samples.items()}

    def _rows(self, k, purpose, name, loaders) -> Rows:
        ids = loaders[name].ids
        return Rows.of(self.seed, k, purpose, name, ids=ids, device=self.device_)
