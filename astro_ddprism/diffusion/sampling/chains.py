r"""Draws of all sources of observations from their joint posterior: the E-step.

A chain starts from a first draw :math:`x_0`, perturbed to the noise scale at which the chain
begins, and runs down the noise schedule under the joint posterior denoiser. If :math:`x_0` came
from the posterior, the perturbed draw has the very distribution that a chain from far away would
have at that noise scale, so nothing is lost by starting there; and what :math:`x_0` gets wrong
below that scale is forgotten. What first draws are, and whether there are any, is the method's
business (`~astro_ddprism.diffusion.posteriors.base`).

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
does not depend on what is drawn beside it, nor on which of several processes draws it
(`~astro_ddprism.diffusion.ranks`).
"""

__all__ = ["Chains", "Draws", "draw_sources"]

import logging
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...registry import MOST_REPEATS, Part, option
from .. import ranks
from ..parallel import in_pieces
from ..random import Rows
from ..scratch import empty_rows, release, row_parts
from .samplers import Ancestral, Sampler

logger = logging.getLogger(__name__)

# Bytes of draws that stay on a device, rather than make it wait for the host.
MOST_KEPT = 1 << 30

# Vectors that run side by side, repeated where there are fewer: products of matrices sum fewer rows
# in another order, and the chains of a few numbers, whose solves are exact, carry that on.
LEAST_OF_VECTORS = 16


@dataclass(frozen=True)
class Chains(Part):
    """How chains run, and which of them are kept.

    Parameters
    ----------
    sampler : Sampler
        How chains come down the noise schedule. An amortized posterior has a sampler of its own.
    n_steps : int
        Steps of a chain over the whole noise schedule. Chains of priors alone have four times as
        many.
    start : float
        The time in (0, 1] at which chains begin, from their perturbed first draws: 1 is the top of
        the noise schedule, 0 its bottom, logarithmic in between.
    max_chi2 : float
        Reduced chi-squared beyond which a chain contradicts its observation.
    n_candidates : int
        Chains for each draw. One is kept; those whose residual noise does not explain are the less
        likely.
    n_redraws : int
        How often a chain that contradicts its observation is drawn again before it is left out.
    """

    sampler: Sampler = option(Ancestral())
    n_steps: int = option(16, least=1, most=MOST_REPEATS)
    start: float = option(0.7, above=0, most=1)
    max_chi2: float = option(2.0, above=0)
    n_candidates: int = option(1, least=1, most=MOST_REPEATS)
    n_redraws: int = option(1, least=0, most=MOST_REPEATS)


@dataclass
class Draws:
    """One joint draw for each requested observation.

    Attributes
    ----------
    x : torch.Tensor
        Joint vectors of the sources, of shape ``(N, D)``, on the CPU; in a temporary file where
        they are large (`~astro_ddprism.diffusion.scratch`).
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

    def updated(self, rows: Tensor, others: "Draws") -> "Draws":
        """The same with others in place of some rows."""
        x, chi2, good = empty_rows(*self.x.shape), self.chi2.clone(), self.good.clone()
        x.copy_(self.x)
        x[rows], chi2[rows], good[rows] = others.x, others.chi2, others.good
        return Draws(x, chi2, good, others.n_redrawn)

    @classmethod
    def joined(cls, parts) -> "Draws":
        """Draws of parts of the observations: pairs of which, as bool (N,), and their draws."""
        first, n = parts[0][1], len(parts[0][0])
        x = empty_rows(n, first.x.shape[1], dtype=first.x.dtype)
        chi2, good = first.chi2.new_empty(n), first.good.new_empty(n)
        for here, draws in parts:
            index = torch.nonzero(here)[:, 0]
            for some in row_parts(len(index), draws.x[:1].nbytes):
                x[index[some]] = draws.x[some]
            chi2[here], good[here] = draws.chi2, draws.good
        return cls(x, chi2, good, sum(draws.n_redrawn for _, draws in parts))


def draw_sources(
    method, priors, loader, index, rows: Rows, *, chains: Chains, batch_size: int, track, first=None
) -> Draws:
    """Draw all sources once for each of some observations.

    Parameters
    ----------
    method : `~astro_ddprism.diffusion.posteriors.base.PosteriorMethod`
        How one draw is made.
    priors : `~astro_ddprism.diffusion.posteriors.base.Priors`
        Under which priors.
    loader : `~astro_ddprism.diffusion.observation.Loader`
        The observations.
    index : numpy.ndarray
        Which of them, of shape ``(N,)``; repeats are allowed, and cheapest side by side.
    rows : Rows
        Random numbers for each of ``index``, on the device of the chains.
    chains : Chains
        How chains run, and which are kept.
    batch_size : int
        Chains that run side by side; memory grows with it and not with ``N``.
    track : callable
        Wraps an iterable in a progress bar.
    first : torch.Tensor, optional
        First draws, of shape ``(N, D)``, for methods whose chains go on from them.

    Returns
    -------
    Draws
        The draws, in the order of ``index``.
    """
    options = {"chains": chains, "batch_size": batch_size, "track": track}
    serves = method.serves(priors, loader, index)
    if serves.all():
        return _draw(method, priors, loader, index, rows, first=first, **options)
    logger.info(
        "%d of %d draws are of observations that the posterior has not learned: made by %s",
        np.sum(~serves),
        len(serves),
        type(method.otherwise).__name__,
    )
    parts = []
    for own, chosen in ((method, serves), (method.otherwise, ~serves)):
        if chosen.any():
            here = torch.as_tensor(chosen)
            known = None if first is None else first[here]
            drawn = draw_sources(
                own,
                priors,
                loader,
                index[chosen],
                rows[here.to(rows.device)],
                first=known,
                **options,
            )
            parts.append((here, drawn))
    return Draws.joined(parts)


def _draw(method, priors, loader, index, rows, *, chains, batch_size, track, first) -> Draws:
    few = all(len(shape) == 1 for shape in loader.source_shapes.values())
    least = LEAST_OF_VECTORS if few else 1

    def draw(index, rows, start, first=None):
        n, own = len(index), ranks.own_rows(len(index))
        index, rows = index[own], rows[own]
        first = None if first is None else first[own]
        size = sum(torch.Size(shape).numel() for shape in loader.source_shapes.values())
        table = _Table(len(index), size)
        for i in track(range(0, len(index), batch_size)):
            batch = slice(i, i + batch_size)
            known = None if first is None else first[batch]
            run = partial(_run, method, priors, loader, index[batch], rows[batch], known, least)
            table.add(in_pieces(partial(run, chains, start), len(index[batch])))
        x, chi2 = table.whole()
        return ranks.gathered(x, n, empty_rows), ranks.gathered(chi2, n)

    valid = torch.as_tensor(loader.n_valid(index))
    spread = (2 / valid.clip(min=1)).sqrt()
    limit = (1 + 6 * spread).clip(min=chains.max_chi2).float()
    x, chi2 = draw(index, rows.fork(1), chains.start, first)
    if not method.approximates(priors, loader.sources):
        return Draws(x, chi2, chi2 <= limit, 0)
    candidates = _Candidates(valid, 1 + 2 * spread, x, chi2)
    for number in range(2, chains.n_candidates + 1):
        another = draw(index, rows.fork(number), chains.start, first)
        candidates.add(*another, rows.uniform(1)[:, 0].cpu())
    redrawn = 0
    # First draws that are continued may be what went wrong: a chain that begins anew forgets them.
    restart = 1.0 if method.continues(priors, loader.sources) else chains.start
    for number in range(chains.n_redraws):
        bad = torch.nonzero(~(candidates.chi2 <= limit))[:, 0]
        if not len(bad):
            break
        attempt = rows[bad.to(rows.device)].fork(chains.n_candidates + 1 + number)
        candidates.improve(bad, *draw(index[bad.numpy()], attempt, restart))
        redrawn += len(bad)
    return Draws(candidates.x, candidates.chi2, candidates.chi2 <= limit, redrawn)


def _run(method, priors, loader, index, rows, first, least, chains, start, piece: slice):
    """Draws for some of the observations of a batch, and their chi-squared, on the device."""
    n = piece.stop - piece.start
    part = np.resize(np.arange(piece.start, piece.stop), max(n, least))
    observation = loader.observe(index[part])
    known = None if first is None else first[part].to(observation.y.device)
    drawn = method.run(priors, observation, rows[part], chains=chains, start=start, first=known)
    return drawn[:n], observation.chi2(drawn)[:n]


class _Table:
    """Draws of ever more batches; those on a device stay there until they are many."""

    def __init__(self, n: int, size: int):
        self.n, self.size = n, size
        self.x, self.chi2, self.done, self.waiting = None, torch.empty(n), 0, []

    def add(self, pieces):
        """More of them: vectors and their chi-squared."""
        self.waiting += pieces
        most = MOST_KEPT if self.waiting[0][0].device.type == "cuda" else 0
        if sum(x.nbytes for x, _ in self.waiting) > most:
            self._write()

    def _write(self):
        for x, chi2 in self.waiting:
            if self.x is None:
                self.x = empty_rows(self.n, self.size, dtype=x.dtype)
            rows = slice(self.done, self.done + len(x))
            self.x[rows], self.chi2[rows] = x.cpu(), chi2.cpu()
            self.done = rows.stop
        self.waiting.clear()
        release()

    def whole(self) -> tuple[Tensor, Tensor]:
        """All of them; none where there are more processes than observations."""
        self._write()
        return torch.empty(0, self.size) if self.x is None else self.x, self.chi2


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
