r"""Contrastive latent variable models, linear: all sources of all views by one likelihood.

Each source is linear in a latent vector of its own,

.. math:: x^\beta = \mu^\beta + W^\beta z^\beta, \qquad z^\beta \sim \mathcal{N}(0, I) ,

and means and factors are those under which the observations of all views together, each with its
own operators and noise, are the most likely [1]_: unlike a warm start, where a view teaches its new
source alone, every view teaches all that it holds. The encoder of such a model, the posterior of
the latent vectors, is known in closed form, and with it the likelihood.

References
----------
.. [1] Severson, Ghosh & Ng 2019, arXiv:1811.06094
"""

__all__ = ["LinearCLVMSourceSeparator", "all_views"]

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion.learning.data import Turns
from ..diffusion.learning.training import Trainer, Training
from ..diffusion.posteriors.base import Priors
from ..diffusion.posteriors.latent import LatentPosterior
from ..diffusion.priors.gaussian import GaussianPrior
from ..diffusion.random import seeded
from ..errors import InputError
from ..registry import option
from .configured import SEPARATORS
from .gaussian import GaussianPriorSeparator

# Observations that tell how strong a source is.
_N_STRENGTH = 256


@SEPARATORS.register("clvm-linear")
@dataclass(eq=False)
class LinearCLVMSourceSeparator(GaussianPriorSeparator):
    """Linear contrastive latent variable model (Severson, Ghosh & Ng 2019), for any views.

    Parameters
    ----------
    sources, device, execution, seed, progress, schedule
        See `~astro_ddprism.separator.gaussian.GaussianPriorSeparator`.
    rank : int or dict of str to int
        Latent dimensions of each source; at most its number of features is used.
    training : Training
        The ascent: ``n_first_images`` observations.

    Attributes
    ----------
    priors_, sources_, source_shapes_, unit_, noise_scale_, training_, device_
        See `~astro_ddprism.separator.base.SourceSeparator`.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import LinearCLVMSourceSeparator, MultiViewDataset
    >>> rng = np.random.default_rng(1)
    >>> data = rng.normal(0, 3, (256, 2)) * [1, 2] + rng.normal(0, 1, (256, 2))
    >>> views = MultiViewDataset.from_arrays({
    ...     "first": {"data": data, "variance": 1.0, "mixing": {"a": np.eye(2)}},
    ... })
    >>> training = {"n_first_images": 6400, "batch_size": 64, "learning_rate": 0.05}
    >>> separator = LinearCLVMSourceSeparator(training=training, device="cpu", progress=False)
    >>> _ = separator.fit(views)
    >>> spread = separator.sample(n_samples=4000)["a"].std(axis=0)
    >>> bool((abs(spread.value / [3, 6] - 1) < 0.2).all())
    True
    """

    rank: int | dict[str, int] = option(5, least=1)
    training: Training = option(Training())

    def _fit(self, task):
        ranks = ranks_of(self.rank, task.source_shapes)
        with seeded(self.seed, device=self.device_):
            model = _LinearModel(strengths(task), ranks).to(self.device_)
            trainer = Trainer(self.training, self.execution, task.track, "likelihood ascent")
            trainer.train(model, all_views(task.loaders), trainer.n_images(first=True))
        with torch.no_grad():
            return Priors(self.schedule, gaussians=model.priors)

    def _check_dataset(self, dataset):
        super()._check_dataset(dataset)
        ranks_of(self.rank, dataset.source_shapes)


class _LinearModel(nn.Module):
    """Means and factors of all sources, in units of their strengths."""

    def __init__(self, strengths, ranks):
        super().__init__()
        self.sources = tuple(strengths)
        self.strengths = [strength for _, strength in strengths.values()]
        sizes = [size for size, _ in strengths.values()]
        self.means = nn.ParameterList(torch.zeros(size, dtype=torch.float64) for size in sizes)
        self.factors = nn.ParameterList(
            torch.randn(size, ranks[source], dtype=torch.float64) / ranks[source] ** 0.5
            for source, size in zip(self.sources, sizes, strict=True)
        )

    @property
    def priors(self) -> dict[str, GaussianPrior]:
        parts = zip(self.strengths, self.means, self.factors, strict=True)
        found = (GaussianPrior(scale * mean, scale * factor) for scale, mean, factor in parts)
        return dict(zip(self.sources, found, strict=True))

    def loss(self, y: Tensor, t, z, observation) -> Tensor:  # noqa: ARG002
        """Minus the log-likelihood of each observation, for each number in it: ``(B,)``."""
        priors = self.priors
        own = [priors[source] for source in observation.source_shapes]
        return -LatentPosterior(observation, own).log_evidence / y.shape[1]


def ranks_of(rank: int | dict[str, int], source_shapes) -> dict[str, int]:
    """Latent dimensions of each source, at most its number of features."""
    ranks = dict.fromkeys(source_shapes, rank) if isinstance(rank, int) else rank
    if set(ranks) != set(source_shapes):
        raise InputError(
            f"rank: found {', '.join(ranks) or 'none'}, expected one for each of "
            f"{', '.join(source_shapes)}"
        )
    return {s: min(ranks[s], torch.Size(shape).numel()) for s, shape in source_shapes.items()}


def all_views(loaders) -> Turns:
    """Draws observations of all views at random, each view as often as it has observations."""

    def draws_of(loader):
        def draw(n):
            observation = loader.observe(torch.randint(len(loader), (n,), device=loader.device))
            return observation.y, observation

        return draw

    return Turns([draws_of(each) for each in loaders.values()], [len(v) for v in loaders.values()])


def strengths(task) -> dict[str, tuple[int, float]]:
    """Numbers of each source, and the root mean square that they would have were it all the light.

    Of the view that holds the fewest others.
    """
    found = {}
    for source, shape in task.source_shapes.items():
        held = [loader for loader in task.loaders.values() if source in loader.sources]
        loader, size = min(held, key=lambda each: len(each.sources)), torch.Size(shape).numel()
        observation = loader.observe(np.arange(min(len(loader), _N_STRENGTH)))
        zeros = observation.y.new_zeros(len(observation), sum(observation.sizes))
        alone = observation.alone(source, zeros)
        power = (alone.y.square().sum() - alone.n_valid.sum()).clip(min=1.0)
        gain = alone.forward(torch.randn(len(zeros), size).to(zeros)).square().sum()
        found[source] = size, float((power / gain).sqrt())
    return found
