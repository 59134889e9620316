"""What networks do not see: a part of the observations, whole regions of the sky, to check them.

A network that has many weights, or is trained for long, learns the draws that it is shown by heart;
its loss on them then falls below that on others. So the draws of some observations are held out of
what networks learn. Neighbours on the sky share light, so these are all that lie in a region: the
northernmost of all that are known by their coordinates, of all views alike, so that no view tells
of what another one holds out. Observations that have no coordinates are chosen by chance.

`Watch` finds both losses a few times in a training, always on the same draws with the same noise.
It keeps the weights whose loss on what is held out was least, and ends a training in which it
rises.
"""

__all__ = ["Losses", "Watch", "held_out_rows"]

import copy
from typing import NamedTuple

import numpy as np
import torch

from .. import ranks

# Times in a training that losses are found; part of the images of a training on which each is, and
# how many these are at least and at most.
N_LOOKS, PART, LEAST, MOST = 8, 0.01, 128, 1024
# A loss that is above the least one by more than this part, twice in a row, ends the training.
RISEN = 0.03


class Losses(NamedTuple):
    """Losses of a network.

    Attributes
    ----------
    mean : float
        Over the last quarter of the steps.
    seen, held_out : float or None
        Of the weights that were kept, on draws of observations that it was trained on, and on those
        that it was not; None where none are held out.
    """

    mean: float
    seen: float | None = None
    held_out: float | None = None


def held_out_rows(loaders, part: float, seed: int) -> dict[str, np.ndarray]:
    """Which observations of views are held out.

    Parameters
    ----------
    loaders : mapping of str to `~astro_ddprism.diffusion.observation.Loader`
        The observations of the views.
    part : float
        How many of them: the northernmost of all views together; of a view of which these would be
        less than half as many, or more than twice, its own. By chance where there are no
        coordinates.
    seed : int
        Of chance.

    Returns
    -------
    dict of str to numpy.ndarray of bool, shape (N,)
        For each view.
    """
    places = {name: loader.declinations for name, loader in loaders.items()}
    known = [place for place in places.values() if place is not None]
    common = np.quantile(np.concatenate(known), 1 - part) if known else None
    rows = {}
    for k, (name, place) in enumerate(places.items()):
        n = len(loaders[name])
        if place is None:
            rows[name] = np.random.default_rng((seed, k)).permutation(n) < round(part * n)
            continue
        rows[name] = place > common
        if not part / 2 <= rows[name].mean() <= 2 * part:
            rows[name] = place > np.quantile(place, 1 - part)
    return rows


class Watch:
    """Compares the losses of a network on what it is trained on and on what is held out.

    Parameters
    ----------
    step : `~astro_ddprism.diffusion.learning.training.TrainingStep`
        The step of the training.
    draws, held_out : `~astro_ddprism.diffusion.learning.data.Turns`
        What the network is trained on, and what it is not.
    n_images : int
        Images of the training.

    Attributes
    ----------
    seen, held_out : float
        Losses of the best weights so far.
    """

    def __init__(self, step, draws, held_out, n_images: int):
        self._step = step
        n = min(max(int(PART * n_images), LEAST), MOST)
        self._batches = [self._fixed(copy.copy(turns), n) for turns in (draws, held_out)]
        self._best, self._n_risen = step.average.clone(), 0
        self.seen = self.held_out = float("inf")

    def _fixed(self, turns, n: int) -> list:
        batches, size = [], self._step.training.batch_size
        for _ in range(-(-n // size)):
            batch = turns.draws[turns.next()](size)
            batches.append((batch, self._step.times(), torch.randn_like(batch[0])))
        return batches

    def due(self, k: int) -> bool:
        """Whether losses are to be found after step ``k``."""
        n = self._step.n_steps
        return (k + 1) * N_LOOKS // n > k * N_LOOKS // n

    def look(self) -> bool:
        """Find the losses of the present weights; whether the training should end."""
        with self._step.averaged():
            losses = torch.stack([self._loss(batches) for batches in self._batches])
        ranks.agree([losses])
        seen, held_out = losses.tolist()
        if held_out < self.held_out:
            self.seen, self.held_out = seen, held_out
            self._best.copy_(self._step.average)
        self._n_risen = self._n_risen + 1 if held_out > (1 + RISEN) * self.held_out else 0
        return self._n_risen > 1

    def keep(self):
        """Give the network the best weights."""
        self._step.average.copy_(self._best)

    def _loss(self, batches):
        return sum(self._step.loss_of(batch, t, z) for batch, t, z in batches) / len(batches)
