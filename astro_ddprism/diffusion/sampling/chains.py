r"""The E-step: draws of all sources of a view's observations from their joint posterior.

A chain starts from a first draw :math:`x_0`, perturbed to the noise scale at which the chain
begins, and runs down the noise schedule under the joint posterior denoiser. If :math:`x_0` came
from the posterior, the perturbed draw has the very distribution that a chain from far away would
have at that noise scale, so nothing is lost by starting there; and what :math:`x_0` gets wrong
below that scale is forgotten. First draws come from the warm start's priors in closed form, or from
the previous EM iteration.

Where the joint posterior of a view's sources is amortized (`~astro_ddprism.diffusion.posteriors.amortized`),
its chains need no first draw: they begin at the top of the noise schedule, from the posterior mean.

A chain may end far from its own observation, on a branch that does not explain it, and its
residual tells. Several *candidates* may be drawn for each observation, of which one is kept with a
probability proportional to

.. math:: w = \exp\left[-\tfrac{n}{2} \max\left(\chi^2 - 1 - 2 \sqrt{2 / n}, 0\right)\right]

for a reduced :math:`\chi^2` over ``n`` informative pixels. Weights :math:`\exp(-n \chi^2 / 2)`
would count the observation twice and pick the draws that fit its noise best; here all residuals
that noise explains are equally likely, and only those beyond count for less.

A chain with :math:`\chi^2 > \max(\chi^2_\mathrm{max}, 1 + 6 \sqrt{2 / n})` contradicts its
observation. It is drawn again, and if that does not help it is reported as failed.

All random numbers of a chain are its row's own (`~astro_ddprism.diffusion.random.Rows`): a draw
does not depend on what is drawn beside it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from azula.sample import zEABSampler
from torch import Tensor

from ..learning.data import simulate
from ..observation import JointObservation
from ..posteriors.amortized import AmortizedPosterior
from ..posteriors.components import Designed
from ..posteriors.latent import absorb_residual, latent_posterior
from ..posteriors.moment_matching import JointPosteriorDenoiser
from ..posteriors.solvers import Solver
from ..priors.denoiser import ExtendedDenoiser
from ..priors.gaussian import GaussianPrior, ScaleMixtureDenoiser
from ..priors.mixture import GaussianMixture
from ..random import Rows
from .samplers import SAMPLERS

__all__ = ["Draws", "JointSampler"]

# The sampler and the steps of chains under an amortized posterior, whose steps cost little.
AMORTIZED_SAMPLER, AMORTIZED_STEPS = zEABSampler, 24
# Evaluations that find the mean from which they begin.
AMORTIZED_STARTS = 3


@dataclass
class Draws:
    """One joint draw for each requested observation.

    Attributes
    ----------
    x : torch.Tensor
        Joint vectors of the sources, of shape ``(N, D)``, on the CPU.
    chi2 : torch.Tensor
        Reduced chi-squared of each draw against its own observation, of shape ``(N,)``.
    good : torch.Tensor
        False for draws that contradict their observation, of shape ``(N,)``.
    n_redrawn : int
        Number of chains that were drawn again.
    """

    x: Tensor
    chi2: Tensor
    good: Tensor
    n_redrawn: int


class _Candidates:
    """One of several draws for each observation, kept at random with their weights."""

    def __init__(self, valid: Tensor, expected: Tensor, x: Tensor, chi2: Tensor):
        self.valid, self.expected = valid, expected
        self.x, self.chi2 = x, chi2
        self._total = self._log_weight(chi2)

    def _log_weight(self, chi2: Tensor) -> Tensor:
        excess = (chi2 - self.expected).clip(min=0).nan_to_num(nan=torch.inf)
        return -0.5 * self.valid * excess

    def add(self, x: Tensor, chi2: Tensor, u: Tensor):
        """Another draw for each observation, which replaces the present one by its weight.

        ``u`` are uniform numbers, of shape ``(N,)``.
        """
        log_weight = self._log_weight(chi2)
        self._total = torch.logaddexp(self._total, log_weight)
        # Where all weights vanish, the draw that contradicts its observation least is kept.
        hopeless = self._total < -80.0
        better = torch.where(
            hopeless,
            _is_better(chi2, self.chi2),
            u.log() < log_weight - self._total,
        )
        self.x[better], self.chi2[better] = x[better], chi2[better]

    def improve(self, index: Tensor, x: Tensor, chi2: Tensor):
        """Further draws for some observations, kept where they contradict them less."""
        better = _is_better(chi2, self.chi2[index])
        self.x[index[better]], self.chi2[index[better]] = x[better], chi2[better]


def _is_better(chi2: Tensor, old: Tensor) -> Tensor:
    """Whether new draws contradict their observation less; a failed chain, NaN, does the most."""
    return (chi2 < old) | (old.isnan() & ~chi2.isnan())


class JointSampler:
    """Draws from the joint posterior of all sources of observations.

    Parameters
    ----------
    denoisers : dict of str to azula.denoise.Denoiser
        Denoisers of the sources that have one; the others' Gaussian priors stand in for them.
    gaussians : dict of str to GaussianPrior
        Gaussian priors of all sources.
    mixtures : dict of str to GaussianMixture
        Mixtures of Gaussians as priors of small sources. Where all sources of a view have one,
        first draws come from these.
    posteriors : dict of tuple of str to AmortizedPosterior
        Denoisers of the joint posterior, by the sources of the views that they are for.
    schedule : callable
        Called with the sources of a view; returns the noise schedule of their chains.
    source_shapes : dict of str to tuple of int
        Shapes of all sources.
    scale : callable
        Called with a view; returns the flux, in the view's unit, that is 1 in the core.
    device : torch.device
        Where chains run.
    sampler : str
        A name of `SAMPLERS`.
    n_steps : int
        Steps of a chain over the whole noise schedule.
    solver : Solver
        The solver of the joint posterior.
    batch_size : int
        Chains that run side by side; memory grows with it and not with the number of observations.
    max_chi2 : float
        Reduced chi-squared from which on a chain contradicts its observation.
    n_candidates : int
        Chains for each draw, one of which is kept.
    n_redraws : int
        How often a chain that contradicts its observation is drawn again.
    """

    def __init__(
        self,
        denoisers,
        gaussians: dict[str, GaussianPrior],
        mixtures: dict[str, GaussianMixture],
        posteriors: dict[tuple[str, ...], AmortizedPosterior],
        *,
        schedule,
        source_shapes,
        scale,
        device,
        sampler: str,
        n_steps: int,
        solver: Solver,
        batch_size: int,
        max_chi2: float,
        n_candidates: int,
        n_redraws: int,
    ):
        self.denoisers = denoisers
        self.gaussians = gaussians
        self.mixtures = mixtures
        self.posteriors = posteriors
        self.schedule = schedule
        self.source_shapes = source_shapes
        self.scale = scale
        self.device = device
        self.sampler = SAMPLERS[sampler]
        self.n_steps = n_steps
        self.solver = solver
        self.batch_size = batch_size
        self.max_chi2 = max_chi2
        self.n_candidates = n_candidates
        self.n_redraws = n_redraws

    def observe(self, view, index) -> JointObservation:
        """The whitened observations of some rows of a view."""
        return self._whitened(view, self._batch(view, index))

    def simulate(self, view, index, sources: dict[str, Tensor]) -> JointObservation:
        """What would have been observed of known sources in some rows of a view."""
        return self._whitened(view, simulate(self._batch(view, index), sources))

    def _batch(self, view, index):
        return view.batch(index, scale=self.scale(view), device=self.device, dtype=torch.float32)

    def _whitened(self, view, batch) -> JointObservation:
        return JointObservation(
            batch, {source: self.source_shapes[source] for source in view.sources}
        )

    def draw(
        self, view, index, track, *, rows: Rows, first: Tensor | None = None, start: float = 1.0
    ) -> Draws:
        """Draw once for each row of ``index``.

        Parameters
        ----------
        view : `~astro_ddprism.views.view.View`
            Observations.
        index : numpy.ndarray
            Rows of the view, of shape ``(N,)``; repeats are allowed, and cheapest side by side.
        track : callable
            Wraps an iterable in a progress bar.
        rows : Rows
            Random numbers for each row of ``index``, on the device of the chains.
        first : torch.Tensor, optional
            First draws, of shape ``(N, D)``; from the warm start's priors if not given.
        start : float
            Time in (0, 1] at which the chains begin; 1 is the top of the noise schedule.

        Returns
        -------
        Draws
            The draws, in the order of ``index``.
        """
        valid = torch.as_tensor(view.n_valid(index))
        spread = (2 / valid.clip(min=1)).sqrt()
        x, chi2 = self._draw(view, index, track, rows.fork(1), first, start)
        if not self._has_networks(view):
            return Draws(x, chi2, chi2 <= self._limit(spread), 0)
        candidates = _Candidates(valid, 1 + 2 * spread, x, chi2)
        for number in range(2, self.n_candidates + 1):
            another = self._draw(view, index, track, rows.fork(number), first, start)
            candidates.add(*another, rows.uniform(1)[:, 0].cpu())
        limit, redrawn = self._limit(spread), 0
        # Mixtures' first draws are on the right branch; Gaussians' may be what went wrong, so that
        # a chain that begins anew forgets them.
        restart = start if self.has_mixtures(view) else 1.0
        for number in range(self.n_redraws):
            bad = torch.nonzero(~(candidates.chi2 <= limit))[:, 0]
            if not len(bad):
                break
            attempt = rows[bad.to(self.device)].fork(self.n_candidates + 1 + number)
            again = self._draw(view, index[bad.numpy()], track, attempt, None, restart)
            candidates.improve(bad, *again)
            redrawn += len(bad)
        return Draws(candidates.x, candidates.chi2, candidates.chi2 <= limit, redrawn)

    def _limit(self, spread: Tensor) -> Tensor:
        return (1 + 6 * spread).clip(min=self.max_chi2).float()

    def _has_networks(self, view) -> bool:
        if view.sources in self.posteriors:
            return True
        known = [source in self.denoisers for source in view.sources]
        return all(known) if self.has_mixtures(view) else any(known)

    def has_mixtures(self, view) -> bool:
        """Whether all sources of a view have a mixture, so that first draws come from these."""
        return all(source in self.mixtures for source in view.sources)

    def _draw(self, view, index, track, rows, first, start) -> tuple[Tensor, Tensor]:
        draws, chi2 = [], []
        for i in track(range(0, len(index), self.batch_size)):
            part = slice(i, i + self.batch_size)
            observation, own = self.observe(view, index[part]), rows[part]
            if view.sources in self.posteriors:
                x = self._run_amortized(self.posteriors[view.sources].given(observation), own)
            else:
                x, scales = self._begin(view, index[part], observation, own)
                if first is not None:
                    x = first[part].to(self.device)
                if self._has_networks(view):
                    denoisers = self._denoisers(view.sources, scales)
                    x = self._run(denoisers, observation, x, start, own)
            draws.append(x.cpu())
            chi2.append(observation.chi2(x).cpu())
        return torch.cat(draws), torch.cat(chi2)

    def _begin(self, view, index, observation, rows):
        """First draws of a batch, from priors in closed form, and the scales of its sources."""
        distinct, inverse = np.unique(index, return_inverse=True)
        alone = observation if len(distinct) == len(index) else self.observe(view, distinct)
        inverse = torch.as_tensor(
            np.arange(len(index)) if alone is observation else inverse, device=self.device
        )
        sources = view.sources
        if self.has_mixtures(view):
            posterior = Designed.gather([alone]).posterior(self.mixtures)[inverse]
            first = torch.cat([x[:, 0] for x in posterior.sample(1, rows)], dim=1).float()
            if observation.depends_on_signal:
                # Again with the noise that a first draw makes: on its own branch, if there are two.
                posterior = Designed.gather([observation.at(first)]).posterior(self.mixtures)
                first = torch.cat([x[:, 0] for x in posterior.sample(1, rows)], dim=1).float()
            scales = first.new_ones(len(sources), len(first))
            return first, scales
        latent = latent_posterior(alone, self.gaussians)
        first = torch.cat(latent.sample(rows, inverse), dim=1)
        first = absorb_residual(observation, first, rows)
        return first, latent.scales[inverse].T

    def _denoisers(self, sources, scales) -> list:
        """Denoisers of all sources on one noise schedule, of chains with known scales."""
        schedule, denoisers = self.schedule(sources), []
        for source, scale in zip(sources, scales, strict=True):
            own = self.denoisers.get(source)
            if own is None or own.schedule.sigma_max < schedule.sigma_max:
                gaussian = ScaleMixtureDenoiser(self.gaussians[source], scale, schedule)
                own = gaussian if own is None else ExtendedDenoiser(own, gaussian)
            denoisers.append(own)
        return denoisers

    def _run(self, denoisers, observation, first, start, rows) -> Tensor:
        denoiser = JointPosteriorDenoiser(denoisers, observation, self.solver)
        steps = max(round(start * self.n_steps), 1)
        sampler = self.sampler(denoiser, rows, start=start, steps=steps, silent=True)
        time = torch.tensor(start, device=self.device)
        alpha, sigma = denoiser.schedule(time)
        x = sampler(alpha * first + sigma * rows.normal(first.shape[1]))
        return denoiser(x, torch.zeros_like(time)).mean

    def _run_amortized(self, denoiser, rows) -> Tensor:
        time = torch.ones((), device=self.device)
        _, sigma = denoiser.schedule(time)
        z = rows.normal(sum(denoiser.observation.sizes))
        x = sigma * z
        for _ in range(AMORTIZED_STARTS):  # towards the mean, which may be far above the noise
            x = denoiser(x, time).mean + sigma * z
        x = AMORTIZED_SAMPLER(denoiser, steps=AMORTIZED_STEPS, silent=True)(x)
        return denoiser(x, torch.zeros_like(time)).mean
