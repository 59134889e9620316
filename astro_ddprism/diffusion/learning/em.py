r"""Expectation maximization: from views to learned priors.

*E-step*: draw every observation's sources from their joint posterior under the present priors
(`~astro_ddprism.diffusion.sampling.chains`). *M-step*: train each source's denoiser on its draws
(`~astro_ddprism.diffusion.learning.training`). Both raise, in expectation, a lower bound of the likelihood
of all observations (Rozet et al. 2024, arXiv:2405.13712).

Sources are learned in *stages* (`~astro_ddprism.diffusion.learning.stages`), with all sources learned before
held fixed. Every stage begins with its warm start. That of images is Gaussian, and its first E-step
puts the Gaussian priors of the new sources beside the diffusion priors of the known ones; the first
stage has none, and its first draws are exact. Sources of a few numbers start from mixtures of
Gaussians (`~astro_ddprism.diffusion.learning.growth`), whose draws are always exact. A state that has all
priors to begin with, those of another fit, needs no warm start: its EM iterations begin with the
first one that draws from networks.

Where the posterior is *amortized* (`~astro_ddprism.diffusion.posteriors.amortized`), an M-step of views that
hold several sources trains one network for the joint posterior of all of them, which makes the next
draws; the priors of their new sources are trained on the last draws alone.
"""

__all__ = ["EMState", "ExpectationMaximization"]

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..posteriors.amortized import AmortizedPosterior
from ..posteriors.components import Designed
from ..priors.denoiser import SourceDenoiser
from ..priors.gaussian import GaussianPrior
from ..priors.mixture import GaussianMixture
from ..random import Rows, seeded
from ..sampling.chains import Draws
from .data import images
from .growth import MixtureWarmStart, is_small
from .stages import Stage, plan_stages
from .symmetries import random_transform, random_transform_about_pixel
from .templates import symmetric_templates
from .training import train
from .warmstart import GaussianWarmStart

# What random numbers are for; the last part of a seed.
_WARM_START, _NETWORKS, _E_STEP, _M_STEP, _POSTERIORS = range(5)

# Draws of a source of an earlier stage that are kept, for later stages to begin from.
N_KEPT = 8192

# Noise that outweighs a source, in units of the root mean square of its prior.
_OUTWEIGHING = 10


@dataclass
class EMState:
    """All that a fit has learned, and all that it needs to go on.

    Attributes
    ----------
    gaussians : dict of str to GaussianPrior
        The warm start's priors.
    mixtures : dict of str to GaussianMixture
        The warm start's priors of small sources, whose moments are in ``gaussians``.
    sigma_max : dict of str to float
        The tops of their noise schedules, where noise outweighs them.
    denoisers : dict of str to SourceDenoiser
        The diffusion priors.
    posteriors : dict of tuple of str to AmortizedPosterior
        Denoisers of the joint posterior, by the sources of the views that they are for.
    stage, iteration : int
        The EM iteration that comes next.
    draws : dict of str to Draws
        The last draws of the views of the present stage.
    samples : dict of str to torch.Tensor
        Up to 8192 of the last draws of every source of an earlier stage.
    history : list of dict
        One row for each EM iteration and source that was trained in it.
    """

    gaussians: dict[str, GaussianPrior] = field(default_factory=dict)
    mixtures: dict[str, GaussianMixture] = field(default_factory=dict)
    sigma_max: dict[str, float] = field(default_factory=dict)
    denoisers: dict[str, SourceDenoiser] = field(default_factory=dict)
    posteriors: dict[tuple[str, ...], AmortizedPosterior] = field(default_factory=dict)
    stage: int = 0
    iteration: int = 0
    draws: dict[str, Draws] = field(default_factory=dict)
    samples: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)


class ExpectationMaximization:
    """Learns the priors of all sources of some views.

    Parameters
    ----------
    views : mapping of str to `~astro_ddprism.views.view.View`
        The observations.
    make_sampler : callable
        Called with denoisers, Gaussian priors, mixtures and amortized posteriors; returns a
        `~astro_ddprism.diffusion.sampling.chains.JointSampler`.
    make_denoiser : callable
        Called with the name of a source, its data scale and its mixture or None; returns an
        untrained denoiser on its device.
    amortizes : callable
        Called with the sources of a view; returns whether their joint posterior is to be amortized.
    make_posterior : callable
        Called with names of sources and their data scale; returns an untrained `AmortizedPosterior`
        on its device.
    source_shapes : dict of str to tuple of int
        Shapes of the sources.
    symmetries : dict of str to tuple of str
        Symmetries of the sources.
    settings : mapping
        The numbers of the fit; see `~astro_ddprism.DiffusionSourceSeparator`.
    device : torch.device
        Where to compute.
    track : callable
        Called with an iterable and a description; returns the iterable in a progress bar.
    """

    def __init__(
        self,
        views,
        *,
        make_sampler,
        make_denoiser,
        amortizes,
        make_posterior,
        source_shapes,
        symmetries,
        settings,
        device,
        track,
    ):
        self.views = views
        self.make_sampler = make_sampler
        self.make_denoiser = make_denoiser
        self.amortizes = amortizes
        self.make_posterior = make_posterior
        self.source_shapes = source_shapes
        self.symmetries = symmetries
        self.settings = settings
        self.device = device
        self.track = track
        self.stages = plan_stages({name: view.sources for name, view in views.items()})

    def run(self, state: EMState):
        """Go through all EM iterations that ``state`` has not seen.

        Parameters
        ----------
        state : EMState
            Changed in place.

        Yields
        ------
        EMState
            The state, after each EM iteration.
        """
        while state.stage < len(self.stages):
            stage = self.stages[state.stage]
            if state.iteration == 0:
                if set(stage.sources) <= set(state.denoisers):
                    state.iteration = 1  # the fit starts from priors, and needs no warm start
                else:
                    self._warm_start(stage, state)
            started = time.perf_counter()
            self._expect(stage, state)
            drawn = time.perf_counter()
            losses = self._maximize(stage, state)
            self._record(stage, state, losses, drawn - started, time.perf_counter() - drawn)
            state.iteration += 1
            if state.iteration > self.settings["n_em_iterations"]:
                for source in stage.sources:
                    samples = self._samples(stage, state, source)
                    state.samples[source] = samples[:: -(-len(samples) // N_KEPT)].flatten(1)
                state.stage, state.iteration, state.draws = state.stage + 1, 0, {}
            yield state

    def _seeded(self, state: EMState, purpose: int):
        entropy = (self.settings["seed"], state.stage, state.iteration, purpose)
        return seeded(*entropy, device=self.device)

    def _rows(self, state: EMState, purpose: int, name: str) -> Rows:
        """Random numbers of every observation of a view."""
        entropy = (self.settings["seed"], state.stage, state.iteration, purpose, name)
        return Rows.of(*entropy, ids=self.views[name].ids, device=self.device)

    def _title(self, stage: Stage, state: EMState, step: str) -> str:
        of_all = f"{state.iteration}/{self.settings['n_em_iterations']}"
        return f"{', '.join(stage.sources)} {step} {of_all}"

    def _warm_start(self, stage: Stage, state: EMState):
        held = {source for name in stage.views for source in self.views[name].sources}
        small = all(is_small(self.views[name]) for name in stage.views) and (
            held <= set(stage.sources) | set(state.mixtures)
        )
        with self._seeded(state, _WARM_START), torch.no_grad():
            if small:
                self._grow_mixtures(stage, state)
            else:
                self._fit_gaussians(stage, state)
        for source in stage.sources:
            outweighing = _OUTWEIGHING * state.gaussians[source].rms
            state.sigma_max[source] = max(float(self.settings["sigma_max"]), outweighing)

    def _batches(self, name: str):
        """The whitened observations of a view, a batch at a time, and which they are."""
        sampler = self.make_sampler({}, {}, {}, {})
        view, size = self.views[name], self.settings["batch_size"]
        for i in range(0, len(view), size):
            index = np.arange(i, min(i + size, len(view)))
            yield sampler.observe(view, index), index

    def _grow_mixtures(self, stage: Stage, state: EMState):
        warm_start = MixtureWarmStart(
            state.mixtures,
            {source: int(np.prod(self.source_shapes[source])) for source in stage.sources},
            n_components=self.settings["warm_start_components"],
            floor=self.settings["sigma_min"],
        )
        views = [
            Designed.gather(observation for observation, _ in self._batches(name))
            for name in stage.views
        ]
        for _ in self.track(warm_start.fit(views), f"{', '.join(stage.sources)} warm start"):
            pass
        state.mixtures |= warm_start.mixtures
        state.gaussians |= {
            source: mixture.gaussian().to(dtype=torch.float32)
            for source, mixture in warm_start.mixtures.items()
        }

    def _fit_gaussians(self, stage: Stage, state: EMState):
        settings = self.settings
        key = "warm_start_rank_new" if state.gaussians else "warm_start_rank"
        warm_start = GaussianWarmStart(
            state.gaussians,
            {source: self.source_shapes[source] for source in stage.sources},
            symmetries=self.symmetries,
            ranks=dict.fromkeys(stage.sources, settings[key]),
            known_samples=state.samples,
        )

        def batches():
            for name in stage.views:
                rows = self._rows(state, _WARM_START, name)
                for observation, index in self._batches(name):
                    yield observation, rows[index]

        n = settings["warm_start_iterations"]
        title = f"{', '.join(stage.sources)} warm start"
        for _ in self.track(warm_start.fit(batches, n), title, total=n):
            pass
        state.gaussians |= warm_start.priors

    def _expect(self, stage: Stage, state: EMState):
        sampler = self.make_sampler(
            state.denoisers, state.gaussians, state.mixtures, state.posteriors
        )
        for network in (*state.denoisers.values(), *state.posteriors.values()):
            network.requires_grad_(False)
        for name in stage.views:
            view = self.views[name]
            # Mixtures draw anew: their draws know every branch, a chain only its own.
            previous = None if sampler.has_mixtures(view) else state.draws.get(name)
            title = self._title(stage, state, "E-step")
            state.draws[name] = sampler.draw(
                view,
                np.arange(len(view)),
                lambda batches, title=title: self.track(batches, title),
                rows=self._rows(state, _E_STEP, name),
                first=None if previous is None else previous.x,
                start=self.settings["chain_start"],
            )
            if not state.draws[name].good.any():
                raise InputError(
                    f"view {name!r}: all {len(view)} chains contradict their observations, "
                    "expected data that its variance and mixing can explain"
                )

    def _maximize(self, stage: Stage, state: EMState) -> dict[str, float]:
        held = dict.fromkeys(self.views[name].sources for name in stage.views)
        amortized = [sources for sources in held if self.amortizes(sources)]
        losses = {}
        for sources in amortized:
            losses |= dict.fromkeys(sources, self._maximize_posterior(stage, state, sources))
        # Until the last iteration nothing but the chains of other views asks for the priors.
        last = state.iteration == self.settings["n_em_iterations"]
        asking = {source for sources in held if sources not in amortized for source in sources}
        for source in stage.sources:
            if last or source in asking:
                losses[source] = self._maximize_prior(stage, state, source)
        return losses

    def _maximize_prior(self, stage: Stage, state: EMState, source: str) -> float:
        settings = self.settings
        samples = self._samples(stage, state, source)
        first = source not in state.denoisers
        if first:
            with self._seeded(state, _NETWORKS):
                state.denoisers[source] = self.make_denoiser(
                    source, _data_scale(samples), state.mixtures.get(source)
                )
        state.denoisers[source].requires_grad_(True)
        with self._seeded(state, _M_STEP):
            return self._train(
                state.denoisers[source],
                images(samples, self.symmetries[source], self.device),
                settings["n_first_images" if first else "n_images"],
                self._title(stage, state, "M-step"),
                f"the source {source!r}, EM iteration {state.iteration}",
            )

    def _maximize_posterior(self, stage: Stage, state: EMState, sources) -> float:
        """Train the joint posterior of some sources."""
        settings = self.settings
        samples = {
            source: self._samples(stage, state, source)
            if source in stage.sources
            else state.samples[source].unflatten(1, self.source_shapes[source])
            for source in sources
        }
        first = sources not in state.posteriors
        for source in set(settings["templates"]) & set(stage.sources) & set(sources):
            light = self._light(stage, state, source) if first else samples[source]
            samples[source] = self._templates(source, light)
        with self._seeded(state, _POSTERIORS):
            if first:
                scale = max(_data_scale(x) for x in samples.values())
                state.posteriors[sources] = self.make_posterior(sources, scale)
            state.posteriors[sources].requires_grad_(True).start_training()
            views = [self.views[name] for name in stage.views]
            return self._train(
                state.posteriors[sources],
                self._simulations(samples, [v for v in views if v.sources == sources]),
                settings["n_posterior_images"] // (1 if first else 3),
                self._title(stage, state, "posterior M-step"),
                f"the posterior of {', '.join(sources)}, EM iteration {state.iteration}",
            )

    def _light(self, stage: Stage, state: EMState, source: str) -> Tensor:
        """All light of the draws of the views that hold a source."""
        parts = []
        for name in stage.views:
            draws, held = state.draws[name], self.views[name].sources
            if source in held:
                x = draws.x[draws.good].unflatten(1, (len(held), *self.source_shapes[source]))
                parts.append(x.sum(dim=1))
        return torch.cat(parts)

    def _templates(self, source: str, light: Tensor) -> Tensor:
        """Symmetric parts of images."""
        templates = symmetric_templates(light)
        if not len(templates):
            raise InputError(
                f"templates: found no image of the source {source!r} that is symmetric about its "
                "centre, expected some; leave it out of the templates"
            )
        return templates

    def _simulations(self, samples, views):
        """Sources drawn at random, and what would be observed of them."""
        sampler = self.make_sampler({}, {}, {}, {})
        factors, templates = self.settings["flux_factors"], self.settings["templates"]
        priors = [
            images(
                x,
                self.symmetries[source],
                self.device,
                factors.get(source),
                random_transform_about_pixel if source in templates else random_transform,
            )
            for source, x in samples.items()
        ]
        rows = torch.tensor([float(len(view)) for view in views])

        def draw(n):
            x = {source: prior(n)[0] for source, prior in zip(samples, priors, strict=True)}
            view = views[int(torch.multinomial(rows, 1))]
            index = torch.randint(len(view), (n,)).numpy()
            observation = sampler.simulate(view, index, x)
            return observation.join(list(x.values())), observation

        return draw

    def _train(self, network, draw, n_images: int, title: str, label: str) -> float:
        settings = self.settings
        return train(
            network,
            draw,
            n_images=n_images,
            batch_size=settings["train_batch_size"],
            learning_rate=settings["learning_rate"],
            precision=getattr(torch, settings["precision"]),
            track=lambda steps: self.track(steps, title),
            label=label,
        )

    def _samples(self, stage: Stage, state: EMState, source: str):
        """Draws of one source from all views of the stage that hold it, without failed chains."""
        parts = []
        for name in stage.views:
            draws, held = state.draws[name], self.views[name].sources
            if source in held:
                sizes = [int(np.prod(self.source_shapes[s])) for s in held]
                part = draws.x[draws.good].split(sizes, dim=1)[held.index(source)]
                parts.append(part.reshape(-1, *self.source_shapes[source]))
        return torch.cat(parts)

    def _record(self, stage: Stage, state: EMState, losses, e_time: float, m_time: float):
        draws = [state.draws[name] for name in stage.views]
        chi2 = torch.cat([d.chi2 for d in draws])
        for source in stage.sources:
            samples = self._samples(stage, state, source)
            state.history.append(
                {
                    "stage": state.stage,
                    "iteration": state.iteration,
                    "source": source,
                    "loss": losses[source],
                    "chi2": float(chi2.median()),
                    "chi2_mean": float(torch.cat([d.chi2[d.good] for d in draws]).mean()),
                    "power": float(samples.square().mean()),
                    "n_chains": len(chi2),
                    "n_redrawn": sum(d.n_redrawn for d in draws),
                    "n_left_out": int(sum((~d.good).sum() for d in draws)),
                    "e_step_time": e_time,
                    "m_step_time": m_time,
                }
            )


def _data_scale(samples) -> float:
    """Root mean square of a bright image, brighter than nine of ten."""
    return float(samples.flatten(1).square().mean(dim=1).sqrt().quantile(0.9))
