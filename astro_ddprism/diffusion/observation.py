r"""The linear observation that posterior samplers and the warm start condition on.

For one batch of observations, with mixing operators :math:`A^\beta` and noise covariance
:math:`\Sigma`,

.. math:: y = \sum_\beta A^\beta x^\beta + \eta, \qquad \eta \sim \mathcal{N}(0, \Sigma) .

Everything downstream sees it *whitened*, :math:`\tilde y = W y` and
:math:`\tilde A^\beta = W A^\beta` with :math:`W \Sigma W^T = I`, so that the noise is
:math:`\mathcal{N}(0, I)` on the informative pixels and masked pixels are rows of zeros, which say
nothing. The sources of an observation travel as one flat vector, their concatenation
:math:`x = (x^1, \dots, x^S)`. Of an observation with several images, :math:`\tilde y` is the
concatenation of all of them, whatever their shapes.

Where the noise depends on the light itself (`~astro_ddprism.mixing.PhotonNoise`), so does the
whitening, and `JointObservation.at` is the observation with the noise that given sources would
make. Who knows no sources yet gets it with that of the observed light, smoothed over :math:`3
\times 3` pixels: a first guess, good enough to begin with and to be corrected.
"""

__all__ = ["JointObservation", "Loader"]

import copy
import functools
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


class Loader(Protocol):
    """The observations of a view, as the core asks for them.

    Attributes
    ----------
    ids : numpy.ndarray of str, shape (N,)
        Names of the observations.
    source_shapes : dict of str to tuple of int
        The sources that they hold, and their shapes.
    n_observed : int
        Numbers in one observation.
    device : torch.device
        Where batches are.
    """

    ids: np.ndarray
    source_shapes: dict[str, tuple[int, ...]]
    n_observed: int
    device: torch.device

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources."""

    def __len__(self) -> int: ...

    def n_valid(self, index) -> np.ndarray:
        """Number of informative pixels of some observations."""

    def masked(self, index) -> np.ndarray | None:
        """Which pixels of some observations carry no information; None of several images."""

    def observe(self, index, change=None) -> "JointObservation":
        """Some observations, whitened; ``change`` is called with the batch before."""


class JointObservation:
    r"""The whitened linear observation of several sources.

    Parameters
    ----------
    batch : `~astro_ddprism.views.base.Batch`, or sequence of it
        Observed values, mixing operators and noise of ``B`` observations; one batch for each of the
        images that an observation has.
    source_shapes : dict of str to tuple of int
        The sources, in the order in which their features are concatenated, and their shapes.
        Sources that ``batch`` does not hold are not observed.
    distinct : callable, optional
        Returns `distinct`, where observations are repeated.

    Attributes
    ----------
    y : torch.Tensor
        The whitened observations :math:`\tilde y`, of shape ``(B, M)``.
    depends_on_signal : bool
        Whether the noise, and with it the whitening, depends on the sources.
    """

    def __init__(self, batch, source_shapes, distinct=None):
        self.source_shapes = dict(source_shapes)
        self.sizes = [math.prod(shape) for shape in self.source_shapes.values()]
        batches = batch if isinstance(batch, Sequence) else [batch]
        self._images = [_Image(batch, self.source_shapes) for batch in batches]
        self.y = torch.cat([image.y for image in self._images], dim=1)
        self.n_valid = sum(batch.noise.n_valid for batch in batches)
        self.depends_on_signal = any(batch.noise.depends_on_signal for batch in batches)
        self._distinct = distinct

    @functools.cached_property
    def distinct(self) -> tuple["JointObservation", Tensor]:
        """Each observation once, and which of them every row is, of shape ``(B,)``."""
        if self._distinct is None:
            return self, torch.arange(len(self), device=self.y.device)
        return self._distinct()

    def __len__(self):
        return len(self.y)

    def split(self, x: Tensor) -> list[Tensor]:
        """Cut joint vectors ``(..., D)`` into the sources ``(..., *shape)``."""
        parts = x.split(self.sizes, dim=-1)
        shapes = self.source_shapes.values()
        return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def join(self, parts: list[Tensor]) -> Tensor:
        """Concatenate sources ``(B, *shape)`` into joint vectors ``(B, D)``."""
        return torch.cat([part.flatten(1) for part in parts], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        r"""Apply :math:`\tilde A = (\tilde A^1, \dots, \tilde A^S)`: ``(B, D)`` to ``(B, M)``."""
        parts = self.split(x)
        return torch.cat([image.forward(parts) for image in self._images], dim=1)

    def adjoint(self, r: Tensor) -> Tensor:
        r"""Apply :math:`\tilde A^T`: ``(B, M)`` to ``(B, D)``."""
        sizes = [image.y.shape[1] for image in self._images]
        images = zip(self._images, r.split(sizes, dim=1), strict=True)
        parts = zip(*(image.adjoint(part) for image, part in images), strict=True)
        return self.join([sum(part) for part in parts])

    def at(self, x: Tensor) -> "JointObservation":
        r"""The observation with the noise that the light of given sources has, :math:`\Sigma(A x)`.

        Parameters
        ----------
        x : torch.Tensor
            Joint vectors, of shape ``(B, D)``.

        Returns
        -------
        JointObservation
            This one if its noise does not depend on them.
        """
        if not self.depends_on_signal:
            return self
        parts = self.split(x)
        new = copy.copy(self)
        new._images = [image.at(parts) for image in self._images]
        new.y = torch.cat([image.y for image in new._images], dim=1)
        return new

    def chi2(self, x: Tensor) -> Tensor:
        r"""Reduced :math:`\chi^2 = \|\tilde y - \tilde A x\|^2 / n_\mathrm{valid}`, ``(B,)``.

        With the noise that ``x`` itself makes.
        """
        observation = self.at(x)
        residual = observation.y - observation.forward(x)
        return residual.square().sum(dim=1) / self.n_valid.clip(min=1)


class _Image:
    """The whitened images of one instrument."""

    def __init__(self, batch, source_shapes):
        self._batch, self._shape = batch, batch.y.shape[1:]
        self._mixing = [(batch.mixing.get(s), shape) for s, shape in source_shapes.items()]
        noise = batch.noise
        self._whiten_with(noise.at(_smoothed(batch)) if noise.depends_on_signal else noise)

    def _whiten_with(self, noise):
        self._noise = noise
        self.y = noise.whiten(self._batch.y).flatten(1)

    def at(self, parts: list[Tensor]) -> "_Image":
        new = copy.copy(self)
        new._whiten_with(self._batch.noise.at(self._mix(parts)))
        return new

    def _mix(self, parts: list[Tensor]) -> Tensor:
        return sum(
            mixing(part)
            for (mixing, _), part in zip(self._mixing, parts, strict=True)
            if mixing is not None
        )

    def forward(self, parts: list[Tensor]) -> Tensor:
        return self._noise.whiten(self._mix(parts)).flatten(1)

    def adjoint(self, r: Tensor) -> list[Tensor]:
        r = self._noise.whiten_adjoint(r.unflatten(1, self._shape))
        return [
            r.new_zeros(len(r), *shape) if mixing is None else mixing.adjoint(r)
            for mixing, shape in self._mixing
        ]


def _smoothed(batch) -> Tensor:
    """Observed images averaged over 3 x 3 informative pixels; vectors as they are."""
    y, valid = torch.where(batch.noise.valid, batch.y, 0), batch.noise.valid.to(batch.y)
    if y.ndim < 3:
        return y
    total, n = (avg_pool2d(x.flatten(1, -3) if x.ndim > 3 else x, 3, 1, 1) for x in (y, valid))
    return (total / n.clip(min=1e-3)).view_as(y)
