r"""Expectation maximization: from views to learned priors.

*E-step*: draw every observation's sources from their joint posterior under the present priors
(`~astro_ddprism.diffusion.sampling.chains`). *M-step*: train each source's denoiser on its draws
(`~astro_ddprism.diffusion.learning.training`). Both raise, in expectation, a lower bound of the
likelihood of all observations (Rozet et al. 2024, arXiv:2405.13712).

Sources are learned in *stages* (`~astro_ddprism.diffusion.learning.stages`), with all sources
learned before held fixed. Every stage begins with its warm start. That of images is Gaussian, and
its first E-step puts the Gaussian priors of the new sources beside the diffusion priors of the
known ones; the first stage has none, and its first draws are exact. Sources of a few numbers start
from mixtures of Gaussians (`~astro_ddprism.diffusion.learning.growth`), whose draws are always
exact. A state that has all priors to begin with, those of another fit, needs no warm start: its EM
iterations begin with the first one that draws from networks.

Where the posterior is *amortized* (`~astro_ddprism.diffusion.posteriors.amortized`), an M-step of
views that hold several sources trains one network for the joint posterior of all of them, which
makes the next draws; the priors of their new sources are trained on the last draws alone. It may
wait for some iterations, whose draws are made by moment matching and teach the priors: a network
that is asked for the draws of a prior that still holds other sources' light learns to make them so,
while one that is asked for single images leaves out much of what is in few of them.

An E-step need not draw all observations: what counts for the next draws is what the networks have
learned, and they learn as much from other observations in every iteration
(``Training.n_observations``).

All observations are drawn, but the draws of those that are held out
(`~astro_ddprism.diffusion.learning.held_out`) train no network.
"""

__all__ = ["EMState", "ExpectationMaximization"]

import math
import time
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..posteriors.base import Priors
from ..priors.build import build_denoiser
from ..random import Rows, seeded
from ..sampling.chains import Draws, draw_sources
from ..scratch import Drawn, some_rows
from .data import Simulations, data_scale, images_of, of_each
from .held_out import Losses, held_out_rows
from .stages import Stage, plan_stages

# What random numbers are for; the last part of a seed.
_WARM_START, _NETWORKS, _E_STEP, _M_STEP, _POSTERIORS = range(5)

# Draws of a source of an earlier stage that are kept, for later stages to begin from.
N_KEPT = 8192


@dataclass
class EMState:
    """All that a fit has learned, and all that it needs to go on.

    Attributes
    ----------
    priors : Priors
        What has been learned.
    stage, iteration : int
        The EM iteration that comes next.
    draws : dict of str to Draws
        The last draws of the views of the present stage from which the next ones begin.
    samples : dict of str to torch.Tensor
        Up to 8192 of the last draws of every source of an earlier stage.
    seeing : dict of str to torch.Tensor
        Through which PSFs these are seen: the widths in pixels, NaN where not known.
    held_out : dict of str to torch.Tensor
        Which of these are held out of what networks learn.
    history : list of dict
        One row for each EM iteration and source that was trained in it.
    """

    priors: Priors
    stage: int = 0
    iteration: int = 0
    draws: dict[str, Draws] = field(default_factory=dict)
    samples: dict[str, torch.Tensor] = field(default_factory=dict)
    seeing: dict[str, torch.Tensor] = field(default_factory=dict)
    held_out: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)


class ExpectationMaximization:
    """Learns the priors of all sources of some views.

    Parameters
    ----------
    loaders : mapping of str to `~astro_ddprism.diffusion.observation.Loader`
        The observations of the views.
    symmetries : dict of str to tuple of str
        Symmetries of the sources.
    posterior : `~astro_ddprism.diffusion.posteriors.base.PosteriorMethod`
        How draws are made.
    warm_start : `~astro_ddprism.diffusion.learning.warmstart.WarmStart`
        How stages begin.
    trainer : `~astro_ddprism.diffusion.learning.training.Trainer`
        Trains networks.
    chains : `~astro_ddprism.diffusion.sampling.chains.Chains`
        How chains run.
    n_em_iterations : dict of str to int
        For each source, EM iterations after the one that trains on the warm start; a stage of
        several has the most of theirs.
    seed : int
        Of all random numbers.
    track : callable
        Called with an iterable and a description; returns the iterable in a progress bar.
    """

    def __init__(
        self, loaders, *, symmetries, posterior, warm_start, trainer, chains,
        n_em_iterations, seed, track,
    ):  # fmt: skip
        self.loaders = loaders
        self.symmetries = symmetries
        self.posterior = posterior
        self.warm_start = warm_start
        self.trainer = trainer
        self.chains = chains
        self.n_em_iterations = n_em_iterations
        self.seed = seed
        self.track = track
        self.execution = trainer.execution
        self.source_shapes = {
            source: shape
            for loader in loaders.values()
            for source, shape in loader.source_shapes.items()
        }
        self.stages = plan_stages({name: loader.sources for name, loader in loaders.items()})
        self._held_out = held_out_rows(loaders, trainer.training.held_out, seed)
        # What the last E-step has drawn, and of which observations.
        self._drawn: dict[str, Draws] = {}
        self._index: dict[str, np.ndarray] = {}

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
                if set(stage.sources) <= set(state.priors.denoisers):
                    state.iteration = 1  # the fit starts from priors, and needs no warm start
                else:
                    self._warm_start(stage, state)
            started = time.perf_counter()
            self._expect(stage, state)
            drawn = time.perf_counter()
            losses = self._maximize(stage, state)
            self._record(stage, state, losses, drawn - started, time.perf_counter() - drawn)
            state.iteration += 1
            if state.iteration > self._last(stage):
                for source in stage.sources:
                    samples = self._samples(stage, source)
                    every = -(-len(samples) // N_KEPT)
                    state.samples[source] = samples[::every].flatten(1)
                    state.seeing[source] = self._seeing(stage, source)[::every]
                    state.held_out[source] = self._are_held_out(stage, source)[::every]
                state.stage, state.iteration, state.draws = state.stage + 1, 0, {}
                self._drawn.clear()
            for name in list(state.draws):
                if not self._continues(state, name):
                    del state.draws[name]
            yield state

    def _continues(self, state: EMState, name: str) -> bool:
        """Whether the next chains of a view begin from its last draws."""
        loader = self.loaders[name]
        method = self.posterior.method_for(loader.source_shapes, state.priors)
        return method.continues(state.priors, loader.sources)

    @staticmethod
    def _size(source_shapes) -> int:
        """Numbers of the joint vector of some sources."""
        return sum(math.prod(shape) for shape in source_shapes.values())

    def _last(self, stage: Stage) -> int:
        """The last EM iteration of a stage."""
        return max(self.n_em_iterations[source] for source in stage.sources)

    def _seeded(self, state: EMState, purpose: int):
        entropy = (self.seed, state.stage, state.iteration, purpose)
        return seeded(*entropy, device=self.execution.torch_device)

    def _rows(self, state: EMState, purpose: int, name: str) -> Rows:
        """Random numbers of every observation of a view."""
        entropy = (self.seed, state.stage, state.iteration, purpose, name)
        ids = self.loaders[name].ids
        return Rows.of(*entropy, ids=ids, device=self.execution.torch_device)

    def _title(self, stage: Stage, state: EMState, step: str) -> str:
        return f"{', '.join(stage.sources)} {step} {state.iteration}/{self._last(stage)}"

    def _warm_start(self, stage: Stage, state: EMState):
        with self._seeded(state, _WARM_START), torch.no_grad():
            self.warm_start.fit(
                {name: self.loaders[name] for name in stage.views},
                {source: self.source_shapes[source] for source in stage.sources},
                state.priors,
                symmetries=self.symmetries,
                samples=state.samples,
                rows={name: self._rows(state, _WARM_START, name) for name in stage.views},
                batch_size=self.execution.n_for(self._size(self.source_shapes)),
                track=lambda steps, total: self.track(
                    steps, f"{', '.join(stage.sources)} warm start", total=total
                ),
            )

    def _expect(self, stage: Stage, state: EMState):
        for network in (*state.priors.denoisers.values(), *state.priors.learned.values()):
            network.requires_grad_(False)
        for name in stage.views:
            loader = self.loaders[name]
            method = self.posterior.method_for(loader.source_shapes, state.priors)
            previous = state.draws.get(name) if self._continues(state, name) else None
            title = self._title(stage, state, "E-step")
            self._index[name] = index = self._turn(stage, state, name)
            rows = torch.as_tensor(index)
            self._drawn[name] = drawn = draw_sources(
                method,
                state.priors,
                loader,
                index,
                self._rows(state, _E_STEP, name)[rows.to(self.execution.torch_device)],
                chains=self.chains,
                batch_size=self.execution.n_for(self._size(loader.source_shapes)),
                track=lambda batches, title=title: self.track(batches, title),
                first=None if previous is None else previous.x[rows],
            )
            if not drawn.good.any():
                raise InputError(
                    f"view {name!r}: all {len(index)} chains contradict their observations, "
                    "expected data that its variance and mixing can explain"
                )
            known = state.draws.get(name, drawn)
            state.draws[name] = known if known is drawn else known.updated(rows, drawn)

    def _turn(self, stage: Stage, state: EMState, name: str) -> np.ndarray:
        """The observations of a view that are drawn in an iteration: in the first and last all."""
        n, most = len(self.loaders[name]), self.trainer.training.n_observations or math.inf
        first = name not in state.draws and self._continues(state, name)
        if most >= n or first or state.iteration in {0, self._last(stage)}:
            return np.arange(n)
        order = np.random.default_rng((self.seed, state.stage)).permutation(n)
        return np.sort(order[((state.iteration - 1) * most + np.arange(most)) % n])

    def _maximize(self, stage: Stage, state: EMState) -> dict[str, Losses]:
        held = dict.fromkeys(self.loaders[name].sources for name in stage.views)
        learning = {sources: self._method(sources) for sources in held}
        # Until the last iteration nothing but the chains of other views asks for the priors.
        last = self._last(stage)
        learning = {
            sources: method
            for sources, method in learning.items()
            if method.learns and state.iteration >= min(method.n_matched, last)
        }
        losses = {}
        for sources, method in learning.items():
            losses |= dict.fromkeys(sources, self._train_method(stage, state, sources, method))
        asking = {source for sources in held if sources not in learning for source in sources}
        for source in stage.sources:
            if state.iteration == last or source in asking:
                losses[source] = self._train_prior(stage, state, source)
        return losses

    def _method(self, sources):
        return self.posterior.method_for({s: self.source_shapes[s] for s in sources})

    def _train_prior(self, stage: Stage, state: EMState, source: str) -> Losses:
        samples = self._samples(stage, source)
        priors, first = state.priors, source not in state.priors.denoisers
        if first:
            with self._seeded(state, _NETWORKS):
                priors.denoisers[source] = build_denoiser(
                    priors.networks[source],
                    self.source_shapes[source],
                    priors.schedule(source),
                    data_scale(samples),
                    priors.mixtures.get(source),
                ).to(self.execution.torch_device)
        priors.denoisers[source].requires_grad_(True)
        draw = partial(
            images_of, symmetries=self.symmetries[source], device=self.execution.torch_device
        )
        held_out, unseen = self._are_held_out(stage, source), None
        if held_out.any():
            unseen = draw(some_rows(samples, held_out))
            samples = some_rows(samples, ~held_out)
        with self._seeded(state, _M_STEP):
            return self.trainer.titled(
                self._title(stage, state, "M-step"),
                f"the source {source!r}, EM iteration {state.iteration}",
            ).train(
                priors.denoisers[source], draw(samples), self.trainer.n_images(first=first), unseen
            )

    def _train_method(self, stage: Stage, state: EMState, sources, method) -> Losses:
        """Let a posterior method learn what it needs for views of some sources."""
        priors, views = state.priors, [self.loaders[name] for name in stage.views]
        samples = {
            source: self._samples(stage, source)
            if source in stage.sources
            else state.samples[source].unflatten(1, self.source_shapes[source])
            for source in sources
        }
        seeing, held_out = (
            {s: of_stage(stage, s) if s in stage.sources else known[s] for s in sources}
            for of_stage, known in (
                (self._seeing, state.seeing),
                (self._are_held_out, state.held_out),
            )
        )
        simulations = Simulations(
            samples,
            [loader for loader in views if loader.sources == sources],
            symmetries=self.symmetries,
            schedule=priors.schedule(*sources),
            learning=stage.sources,
            light=lambda source: self._light(stage, source),
            seeing=seeing,
            held_out=held_out,
        )
        trainer = self.trainer.titled(
            self._title(stage, state, "posterior M-step"),
            f"the posterior of {', '.join(sources)}, EM iteration {state.iteration}",
        )
        with self._seeded(state, _POSTERIORS):
            learned = priors.learned.get(sources)
            priors.learned[sources], losses = method.train(learned, simulations, trainer)
        return losses

    def _light(self, stage: Stage, source: str):
        """All light of the last draws of the views that hold a source."""

        def light(x, held):
            return x.unflatten(1, (len(held), *self.source_shapes[source])).sum(dim=1)

        return self._of_draws(stage, source, light)

    def _samples(self, stage: Stage, source: str):
        """Last draws of a source, of all views of the stage that hold it, but failed chains."""

        def own(x, held):
            sizes = [math.prod(self.source_shapes[s]) for s in held]
            return x.split(sizes, dim=1)[held.index(source)].unflatten(
                1, self.source_shapes[source]
            )

        return self._of_draws(stage, source, own)

    def _of_draws(self, stage: Stage, source: str, make):
        """What a function makes of the last draws that are good, of views that hold a source."""
        sources = []
        for name in self._holding(stage, source):
            draws, held = self._drawn[name], self.loaders[name].sources
            rows = torch.nonzero(draws.good)[:, 0]

            def some(index, x=draws.x, rows=rows, held=held):
                return make(x[rows[index]], held)

            sources.append((len(rows), some))
        return Drawn.of(sources, self.source_shapes[source])

    def _seeing(self, stage: Stage, source: str) -> Tensor:
        """Widths of the PSFs through which `_samples` are seen, in pixels; NaN where not known."""
        return torch.cat(
            [
                torch.full(
                    (int(self._drawn[name].good.sum()),), self.loaders[name].seeing or math.nan
                )
                for name in self._holding(stage, source)
            ]
        )

    def _are_held_out(self, stage: Stage, source: str) -> Tensor:
        """Which of `_samples` networks do not see."""
        return torch.cat(
            [
                torch.as_tensor(self._held_out[name][self._index[name]])[self._drawn[name].good]
                for name in self._holding(stage, source)
            ]
        )

    def _holding(self, stage: Stage, source: str) -> list[str]:
        """The views of a stage that hold a source."""
        return [name for name in stage.views if source in self.loaders[name].sources]

    def _record(self, stage: Stage, state: EMState, losses, e_time: float, m_time: float):
        draws = [self._drawn[name] for name in stage.views]
        chi2 = torch.cat([d.chi2 for d in draws])
        for source in stage.sources:
            samples = self._samples(stage, source)
            state.history.append(
                {
                    "stage": state.stage,
                    "iteration": state.iteration,
                    "source": source,
                    "loss": losses[source].mean,
                    **self._of_others(losses[source]),
                    "chi2": float(chi2.median()),
                    "chi2_mean": float(torch.cat([d.chi2[d.good] for d in draws]).mean()),
                    "power": float(of_each(samples, _power).mean()),
                    "n_chains": len(chi2),
                    "n_redrawn": sum(d.n_redrawn for d in draws),
                    "n_left_out": int(sum((~d.good).sum() for d in draws)),
                    "e_step_time": e_time,
                    "m_step_time": m_time,
                }
            )

    def _of_others(self, losses: Losses) -> dict[str, float]:
        """The losses on what networks see and on what they do not, where some is held out."""
        if not self.trainer.training.held_out:
            return {}
        values = {"loss_seen": losses.seen, "loss_held_out": losses.held_out}
        return {name: math.nan if value is None else value for name, value in values.items()}


def _power(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(dim=1)
