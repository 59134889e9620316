"""Operators and noise of several sets of observations, one set after the other.

Cutouts of several tiles have PSFs of several shapes, or noise of several kinds. Joined, each set
keeps its own, and a batch is taken apart, mapped set by set, and put together again.
"""

import copy
import itertools

import numpy as np
import torch

from ..errors import InputError
from ..io.mapped import joined_rows
from .base import MixingOperator, array_dtype, as_tensor, operator_from_state, select
from .noise import DiagonalNoise, Noise, noise_from_state
from .photon import PhotonNoise

__all__ = ["JoinedNoise", "JoinedOperator", "join_noises", "join_operators"]


class _Joined:
    """Several parts, and where each observation is in all of their rows, one after the other."""

    def _set(self, parts, counts, place=None):
        self.parts, self.counts = tuple(parts), tuple(int(count) for count in counts)
        total = sum(self.counts)
        self.place = torch.arange(total) if place is None else torch.as_tensor(place)
        if not torch.equal(self.place.sort().values.cpu(), torch.arange(total)):
            raise InputError(f"place: found {self.place.tolist()}, expected each of {total} once")
        return self

    def _chosen(self, index):
        """Parts, counts and places of some observations; repeats are rows of their own."""
        place = select(self.place.cpu(), index.cpu() if torch.is_tensor(index) else index)
        parts, counts, found = [], [], []
        ends = torch.tensor(self.counts).cumsum(0)
        number = torch.searchsorted(ends, place, right=True)
        for k in number.unique().tolist():
            here = torch.nonzero(number == k).flatten()
            parts.append(self.parts[k][place[here] - (ends[k] - self.counts[k])])
            counts.append(len(here))
            found.append(here)
        order = torch.cat(found) if found else place
        return parts or [part[:0] for part in self.parts[:1]], counts or [0], order.argsort()

    def _each(self, values, function):
        """Apply a function of a part and its rows of the values to all parts."""
        place = self.place.to(values.device)
        rows = values[place.argsort()].split(self.counts)
        found = [function(part, own) for part, own in zip(self.parts, rows, strict=True)]
        return torch.cat(found)[place]


class JoinedOperator(_Joined, MixingOperator):
    """Mixing operators of several sets of observations.

    Parameters
    ----------
    operators : sequence of MixingOperator
        Of the same sources and observations.
    counts : sequence of int
        How many observations each of them is for.
    place : array_like of int, shape (N,), optional
        Where each observation is among those of all operators, one after the other; by default in
        this order.

    Raises
    ------
    InputError
        If shapes or numbers of observations do not fit together.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import Amplitude, Identity
    >>> from astro_ddprism.mixing.joined import JoinedOperator
    >>> joined = JoinedOperator([Identity((1,)), Amplitude([2.0, 3.0], (1,))], [1, 2])
    >>> joined(torch.ones(3, 1)).flatten()
    tensor([1., 2., 3.])
    >>> joined[[2, 0]](torch.ones(2, 1)).flatten()
    tensor([3., 1.])
    """

    def __init__(self, operators, counts, place=None):
        first = operators[0]
        self.source_shape, self.observation_shape = first.source_shape, first.observation_shape
        for operator, count in zip(operators, counts, strict=True):
            if (operator.source_shape, operator.observation_shape) != (
                self.source_shape,
                self.observation_shape,
            ) or operator.n_observations not in (None, count):
                raise InputError(
                    f"operators: found {operator} for {count} observations, expected one beside "
                    f"{first}"
                )
        self._set(operators, counts, place)

    @property
    def before_psf(self):
        """Whether one of the operators applies a point spread function."""
        return any(operator.before_psf for operator in self.parts)

    @property
    def own_pixels(self):
        """Whether one of the operators leads from pixels to others."""
        return any(operator.own_pixels for operator in self.parts)

    @property
    def n_observations(self):
        """Number of observations of all operators."""
        return len(self.place)

    def __getitem__(self, index):
        return JoinedOperator(*self._chosen(index))

    def to(self, device=None, dtype=None):
        """Copy all operators to another device or floating-point type."""
        return JoinedOperator(
            [operator.to(device, dtype) for operator in self.parts], self.counts, self.place
        )

    def _apply(self, x):
        return self._each(x, lambda operator, rows: operator(rows))

    def _apply_adjoint(self, y):
        return self._each(y, lambda operator, rows: operator.adjoint(rows))

    def state(self):
        """Arguments of the constructor, for `~astro_ddprism.mixing.operator_from_state`."""
        return {
            "operator": "JoinedOperator",
            "operators": [operator.state() for operator in self.parts],
            "counts": list(self.counts),
            "place": self.place.numpy(),
        }

    @classmethod
    def from_state(cls, state):
        """Build the operators from what `state` returned."""
        operators = [operator_from_state(part) for part in state["operators"]]
        return cls(operators, state["counts"], np.asarray(state["place"]).astype(np.int64))


class JoinedNoise(_Joined, Noise):
    """Noise of several sets of observations, each of its own kind.

    Parameters
    ----------
    noises : sequence of Noise
        Of observations of one shape.
    place : array_like of int, shape (N,), optional
        Where each observation is among those of all noises, one after the other; by default in
        this order.

    Raises
    ------
    InputError
        If shapes differ.
    """

    def __init__(self, noises, place=None):
        for noise in noises:
            if noise.shape != noises[0].shape:
                raise InputError(f"noises: found {noise}, expected one beside {noises[0]}")
        self._set(noises, [noise.n_observations for noise in noises], place)

    @property
    def depends_on_signal(self):
        """Whether any of them depends on the light."""
        return any(noise.depends_on_signal for noise in self.parts)

    def _gathered(self, tensors):
        together = torch.cat(list(tensors))
        return together[self.place.to(together.device)]

    def _with(self, function):
        new = copy.copy(self)
        new.parts = tuple(function(noise) for noise in self.parts)
        return new

    def _with_each(self, values, function):
        rows = values[self.place.to(values.device).argsort()].split(self.counts)
        new = copy.copy(self)
        new.parts = tuple(function(n, own) for n, own in zip(self.parts, rows, strict=True))
        return new

    @property
    def valid(self):
        """True at pixels with information, shape (N, *observation_shape)."""
        return self._gathered(noise.valid for noise in self.parts)

    @property
    def n_observations(self):  # noqa: D102
        return len(self.place)

    @property
    def shape(self):  # noqa: D102
        return self.parts[0].shape

    @property
    def variance(self):
        """Variance of every pixel; infinite without information."""
        return self._gathered(noise.variance for noise in self.parts)

    @property
    def factors_size(self):
        """Bytes of what whitening has to know, beside the noise itself."""
        return sum(noise.factors_size for noise in self.parts)

    def at(self, signal):
        """The noise of observations whose noiseless light is known."""
        return self._with_each(signal, lambda noise, own: noise.at(own))

    def added(self, variance):
        """The noise with more variance in every pixel."""
        return self._with_each(variance, lambda noise, own: noise.added(own))

    def masked(self, mask):
        """The noise of observations whose pixels in ``mask`` carry no information either."""
        mask = torch.as_tensor(mask)
        if mask.shape != self.valid.shape:
            raise InputError(
                f"mask: found shape {tuple(mask.shape)}, expected {tuple(self.valid.shape)}"
            )
        return self._with_each(mask, lambda noise, own: noise.masked(own))

    def rescaled(self, factor):
        """The noise of observations that are multiplied by ``factor``."""
        return self._with(lambda noise: noise.rescaled(factor))

    def to(self, device=None, dtype=None):
        """Copy the noise to another device or floating-point type."""
        return self._with(lambda noise: noise.to(device, dtype))

    def __getitem__(self, index):
        parts, _, place = self._chosen(index)
        return JoinedNoise(parts, place)

    def _whiten(self, r):
        return self._each(r, lambda noise, own: noise.whiten(own))

    def _whiten_adjoint(self, z):
        return self._each(z, lambda noise, own: noise.whiten_adjoint(own))

    def _colour(self, z):
        return self._each(z, lambda noise, own: noise.colour(own))

    def state(self):
        """The state of each noise and the places, for `~astro_ddprism.mixing.noise_from_state`."""
        return {
            "noise": "JoinedNoise",
            "noises": [noise.state() for noise in self.parts],
            "place": self.place.numpy(),
        }

    @classmethod
    def from_state(cls, state):
        """Build the noise from what `state` returned."""
        noises = [noise_from_state(part) for part in state["noises"]]
        return cls(noises, np.asarray(state["place"]).astype(np.int64))


def join_operators(operators, counts):
    """The operator of several sets of observations.

    Parameters
    ----------
    operators : sequence of MixingOperator
        Of the same sources and observations.
    counts : sequence of int
        How many observations each is for.

    Returns
    -------
    operator : MixingOperator
        The first, where all observations share one and the same; else a `JoinedOperator`.
    """
    shared = all(operator.n_observations is None for operator in operators)
    if shared and all(_equal(a.state(), b.state()) for a, b in itertools.pairwise(operators)):
        return operators[0]
    return JoinedOperator(operators, counts)


def join_noises(noises):
    """The noise of several sets of observations.

    Parameters
    ----------
    noises : sequence of Noise

    Returns
    -------
    noise : Noise
        Where all have photon noise, it is that of the joined backgrounds; where all are diagonal,
        so is it.
    """
    noises = list(noises)
    if all(isinstance(noise, PhotonNoise) for noise in noises):
        shapes = {tuple(n.effective_gain.shape[1:]) for n in noises}
        own = shapes.pop() if len(shapes) == 1 else noises[0].shape
        gains = [n.effective_gain.expand(n.n_observations, *own).numpy() for n in noises]
        return PhotonNoise(join_noises(n.background for n in noises), _tensor(joined_rows(gains)))
    if all(type(noise) is DiagonalNoise for noise in noises):
        return DiagonalNoise.from_state({"std": joined_rows([n.std.numpy() for n in noises])})
    return JoinedNoise(noises)


def _tensor(array):
    return as_tensor(array, array_dtype(array))


def _equal(one, other) -> bool:
    """Whether two states say the same."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return np.array_equal(one, other)
