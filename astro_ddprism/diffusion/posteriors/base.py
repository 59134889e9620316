r"""How all sources of an observation are drawn from their joint posterior, under given priors.

A `PosteriorMethod` describes one way: a frozen dataclass of its options, registered by name in
`POSTERIORS`. Most ways are a denoiser of the joint vector of all sources, which estimates
:math:`\mathbb{E}[x \mid x_t, y]`; such a method writes `PosteriorMethod.denoiser`, and works with
every sampler. One that is not (Gibbs sampling, Langevin dynamics, an exact posterior) overrides
`PosteriorMethod.run`. One that has to learn something itself writes `PosteriorMethod.train`.
"""

__all__ = ["POSTERIORS", "Beginning", "PosteriorMethod", "Priors"]

from dataclasses import dataclass, field

import numpy as np
import torch
from azula.denoise import Denoiser
from azula.noise import VESchedule
from torch import Tensor, nn

from ...registry import Part, Registry
from ..capture import CapturedDenoiser
from ..networks import Network
from ..observation import JointObservation
from ..priors.denoiser import ExtendedDenoiser, SourceDenoiser
from ..priors.gaussian import GaussianPrior, ScaleMixtureDenoiser
from ..priors.mixture import GaussianMixture, MixtureDenoiser
from ..priors.schedule import NoiseSchedule, time_of
from ..random import Rows
from ..sampling.samplers import Sampler

#: Methods by name.
POSTERIORS = Registry("posterior method", "astro_ddprism.posteriors")


@dataclass
class Priors:
    """What is known of every source, and what a posterior method has learned besides.

    Attributes
    ----------
    noise : NoiseSchedule
        The noise schedule where a source does not need more.
    networks : dict of str to Network
        What describes the networks of diffusion priors.
    gaussians : dict of str to GaussianPrior
        Gaussian priors, which stand in for diffusion priors that are not learned yet.
    mixtures : dict of str to GaussianMixture
        Mixtures of Gaussians as priors of small sources, whose moments are in ``gaussians``.
    sigma_max : dict of str to float
        The tops of the sources' noise schedules, where noise outweighs them.
    denoisers : dict of str to SourceDenoiser
        Diffusion priors.
    learned : dict of tuple of str to torch.nn.Module
        What a posterior method has learned (`PosteriorMethod.train`), by the sources of the views
        that it is for.
    """

    noise: NoiseSchedule
    networks: dict[str, Network] = field(default_factory=dict)
    gaussians: dict[str, GaussianPrior] = field(default_factory=dict)
    mixtures: dict[str, GaussianMixture] = field(default_factory=dict)
    sigma_max: dict[str, float] = field(default_factory=dict)
    denoisers: dict[str, SourceDenoiser] = field(default_factory=dict)
    learned: dict[tuple[str, ...], nn.Module] = field(default_factory=dict)

    def schedule(self, *sources: str) -> VESchedule:
        """The noise schedule of chains of some sources, to the largest of their noise scales."""
        tops = [self.sigma_max.get(source, self.noise.sigma_max) for source in sources]
        return self.noise.build(max(tops))

    def has_mixtures(self, sources) -> bool:
        """Whether all sources have a mixture of Gaussians."""
        return all(source in self.mixtures for source in sources)

    def on_one_schedule(self, sources, scales) -> list[Denoiser]:
        """Denoisers of some sources on the noise schedule of their joint chains.

        Parameters
        ----------
        sources : sequence of str
            The sources.
        scales : sequence of torch.Tensor
            Scales of the Gaussian priors of each, of shape ``(B,)``.
        """
        schedule, denoisers = self.schedule(*sources), []
        for source, scale in zip(sources, scales, strict=True):
            own = self.denoisers.get(source)
            if own is None and source in self.mixtures:
                own = MixtureDenoiser(self.mixtures[source], schedule)
            elif own is None or own.schedule.sigma_max < schedule.sigma_max:
                gaussian = ScaleMixtureDenoiser(self.gaussians[source], scale, schedule)
                own = gaussian if own is None else ExtendedDenoiser(own, gaussian)
            denoisers.append(own)
        return denoisers


@dataclass(frozen=True)
class Beginning:
    """Where chains begin.

    Attributes
    ----------
    x : torch.Tensor
        Perturbed joint vectors, of shape ``(B, D)``.
    start : float
        Their time in (0, 1].
    denoiser : azula.denoise.Denoiser or None
        That of the chains; None where ``x`` are draws already.
    """

    x: Tensor
    start: float = 0.0
    denoiser: Denoiser | None = None

    def descended(self, rows: Rows, sampler: Sampler, n_steps: int) -> Tensor:
        """Draws: chains brought down to the bottom of the noise schedule, and denoised.

        Parameters
        ----------
        rows : Rows
            Random numbers of the chains.
        sampler : Sampler
            How.
        n_steps : int
            Number of steps over the whole noise schedule.
        """
        if self.denoiser is None:
            return self.x
        steps = max(round(self.start * n_steps), 1)
        denoiser = CapturedDenoiser.of(self.denoiser, steps, self.x.device)
        x = sampler.run(denoiser, self.x, rows, start=self.start, steps=steps)
        return denoiser(x, time_of(0.0, x.device)).mean


class PosteriorMethod(Part):
    """A way to draw from joint posteriors; its options are those of the dataclass."""

    registry = POSTERIORS
    # EM iterations of a stage that pass before the first `train`, if there are so many.
    n_matched = 0

    def handles(self, source_shapes: dict[str, tuple[int, ...]]) -> bool:  # noqa: ARG002
        """Whether it can draw the sources of observations with such sources.

        Parameters
        ----------
        source_shapes : dict of str to tuple of int
            The sources and their shapes.
        """
        return True

    def method_for(self, source_shapes, priors: Priors | None = None) -> "PosteriorMethod":
        """The method itself, or the one that stands in for it.

        Parameters
        ----------
        source_shapes : dict of str to tuple of int
            The sources, and their shapes.
        priors : Priors, optional
            With these, the one that can draw under them.
        """
        able = self.handles(source_shapes)
        if able and (priors is None or self.is_ready(priors, tuple(source_shapes))):
            return self
        return self.otherwise.method_for(source_shapes, priors)

    def is_ready(self, priors: Priors, sources: tuple[str, ...]) -> bool:
        """Whether all that it needs has been learned."""
        return not self.learns or sources in priors.learned

    @property
    def learns(self) -> bool:
        """Whether there is something to `train`."""
        return type(self).train is not PosteriorMethod.train

    def train(self, learned, simulations, trainer) -> tuple[nn.Module, float]:
        """Learn what the method needs beside the priors: an M-step of its own.

        Parameters
        ----------
        learned : torch.nn.Module or None
            What was learned before; None the first time.
        simulations : `~astro_ddprism.diffusion.learning.data.Simulations`
            Sources drawn from their priors, and what would be observed of them.
        trainer : `~astro_ddprism.diffusion.learning.training.Trainer`
            Trains a network.

        Returns
        -------
        learned : torch.nn.Module
            What `denoiser` will find in ``priors.learned``.
        loss : float
            Its loss.
        """
        raise NotImplementedError

    def build(self, source_shapes, data_scale, schedule, execution) -> nn.Module:
        """What `train` learns, untrained, to hold weights that were saved.

        Parameters
        ----------
        source_shapes : dict of str to tuple of int
            The sources.
        data_scale : float
            Their typical root mean square, in units of the noise.
        schedule : azula.noise.VESchedule
            The noise schedule of joint chains.
        execution : `~astro_ddprism.diffusion.parallel.Execution`
            Where, and in which precision.
        """
        raise NotImplementedError

    def serves(self, priors: Priors, loader, index) -> np.ndarray:  # noqa: ARG002
        """Which of some observations it draws rightly; the others are left to ``otherwise``.

        Parameters
        ----------
        priors : Priors
            The priors of the sources.
        loader : `~astro_ddprism.diffusion.observation.Loader`
            The observations.
        index : numpy.ndarray
            Which of them, of shape ``(N,)``.

        Returns
        -------
        serves : numpy.ndarray of bool, shape (N,)
        """
        return np.ones(len(index), dtype=bool)

    def approximates(self, priors: Priors, sources: tuple[str, ...]) -> bool:  # noqa: ARG002
        """Whether a draw may miss its observation, so that candidates and redraws make sense."""
        return True

    def continues(self, priors: Priors, sources: tuple[str, ...]) -> bool:  # noqa: ARG002
        """Whether chains go on from the draws of the EM iteration before."""
        return False

    def denoiser(self, priors: Priors, observation: JointObservation) -> Denoiser:
        """The denoiser of the joint vector of all sources, given observations.

        Parameters
        ----------
        priors : Priors
            The priors of the sources.
        observation : JointObservation
            The whitened observations of a batch.

        Returns
        -------
        azula.denoise.Denoiser
            Maps perturbed joint vectors ``(B, D)`` to posterior means.
        """
        raise NotImplementedError

    def begin(
        self, priors: Priors, observation: JointObservation, rows: Rows, *, start, first=None
    ) -> Beginning:
        """Where chains begin; if nothing better is known, at the top of the noise schedule.

        Parameters
        ----------
        priors : Priors
            The priors of the sources.
        observation : JointObservation
            The whitened observations of a batch.
        rows : Rows
            Random numbers of the chains.
        start : float
            Time in (0, 1] at which chains may begin that have a first draw.
        first : torch.Tensor, optional
            First draws that are known, of shape ``(B, D)``.

        Returns
        -------
        Beginning
        """
        del start, first
        denoiser = self.denoiser(priors, observation)
        _, sigma = denoiser.schedule(time_of(1.0, observation.y.device))
        return Beginning(sigma * rows.normal(sum(observation.sizes)), 1.0, denoiser)

    def steps(self, chains) -> tuple[Sampler, int]:
        """The sampler, and its number of steps over the whole noise schedule.

        Parameters
        ----------
        chains : `~astro_ddprism.diffusion.sampling.chains.Chains`
            The user's.
        """
        return chains.sampler, chains.n_steps

    @torch.no_grad()
    def run(
        self,
        priors: Priors,
        observation: JointObservation,
        rows: Rows,
        *,
        chains,
        start,
        first=None,
    ) -> Tensor:
        """Draw all sources of a batch of observations.

        Parameters
        ----------
        priors : Priors
            The priors of the sources.
        observation : JointObservation
            The whitened observations.
        rows : Rows
            Random numbers of the chains.
        chains : `~astro_ddprism.diffusion.sampling.chains.Chains`
            How chains run.
        start : float
            Time in (0, 1] at which chains may begin that have a first draw.
        first : torch.Tensor, optional
            First draws that are known, of shape ``(B, D)``.

        Returns
        -------
        torch.Tensor
            Joint draws, of shape ``(B, D)``.
        """
        begun = self.begin(priors, observation, rows, start=start, first=first)
        return begun.descended(rows, *self.steps(chains))
