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

__all__ = ["JointObservation", "Loader", "simulate"]

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .depth import ScaledNoise


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
    independent : bool
        Whether the noise of every pixel is its own.
    seeing : float or None
        Full width at half maximum of the PSF through which the sources are seen, in pixels; None
        where it is not known, or there is none.
    n_held : int
        Of how many of them batches may be picked on the device, without a word to the host.
    declinations : numpy.ndarray, shape (N,), or None
        Where on the sky they are, in degrees; None where it is not known.
    """

    ids: np.ndarray
    source_shapes: dict[str, tuple[int, ...]]
    n_observed: int
    device: torch.device
    independent: bool
    seeing: float | None
    n_held: int
    declinations: np.ndarray | None

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources."""

    def __len__(self) -> int: ...

    def part(self, index) -> "Loader":
        """Those of some of the observations."""

    def n_valid(self, index) -> np.ndarray:
        """Number of informative pixels of some observations."""

    def masked(self, index) -> np.ndarray | None:
        """Which pixels of some observations carry no information; None of several images."""

    def observe(self, index) -> "JointObservation":
        """Some observations, whitened; ``index`` is an array, or a tensor on the device."""


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
    information : callable, optional
        Returns `information`, where it is known; of noise that does not depend on the sources.
    seeing : float, optional
        Full width at half maximum of the PSF through which the sources are seen, in pixels.

    Attributes
    ----------
    depends_on_signal : bool
        Whether the noise, and with it the whitening, depends on the sources.
    seeing : torch.Tensor or None
        Of each observation, ``(B,)``.
    """

    def __init__(self, batch, source_shapes, distinct=None, information=None, seeing=None):
        self.source_shapes = dict(source_shapes)
        self.sizes = [math.prod(shape) for shape in self.source_shapes.values()]
        batches = batch if isinstance(batch, Sequence) else [batch]
        self._images = [_Image(batch, self.source_shapes) for batch in batches]
        self._n = len(batches[0].y)
        self.depends_on_signal = any(batch.noise.depends_on_signal for batch in batches)
        self._distinct, self._information = distinct, information
        self.seeing = None
        if seeing is not None:
            self.seeing = torch.full((self._n,), float(seeing), device=batches[0].y.device)

    @functools.cached_property
    def y(self) -> Tensor:
        r"""The whitened observations :math:`\tilde y`, of shape ``(B, M)``."""
        return torch.cat([image.y for image in self._images], dim=1)

    @functools.cached_property
    def n_valid(self) -> Tensor:
        """Number of informative pixels of each observation, of shape ``(B,)``."""
        return sum(image.n_valid for image in self._images)

    @functools.cached_property
    def distinct(self) -> tuple["JointObservation", Tensor]:
        """Each observation once, and which of them every row is, of shape ``(B,)``."""
        if self._distinct is None:
            return self, torch.arange(len(self), device=self.y.device)
        return self._distinct()

    @functools.cached_property
    def information(self) -> tuple[Tensor, Tensor]:
        r"""What the observation tells of each pixel of each source, alone, and the source's sign.

        The information is the sum of a pixel's row of :math:`\tilde A^{\beta T} \tilde A^\beta`,
        where it is positive; signs are those with which sources enter the observation, relative to
        the source that it tells most of. Both are of shape ``(B, S, *shape)``, for ``S`` sources of
        one shape.
        """
        if self._information is not None:
            return self._information()
        couplings = []
        for k in range(len(self.sizes)):
            parts = [self.y.new_full((1, size), k == j) for j, size in enumerate(self.sizes)]
            light = torch.cat(parts, dim=1).expand(len(self), -1)
            couplings.append(torch.stack(self.split(self.adjoint(self.forward(light))), dim=1))
        coupling = torch.stack(couplings, dim=1)
        information = coupling.diagonal(dim1=1, dim2=2).movedim(-1, 1).clip(min=0)
        most = information.argmax(dim=1, keepdim=True).unsqueeze(1).expand_as(coupling[:, :, :1])
        opposite = coupling.gather(2, most).squeeze(2) < 0
        return information, torch.where(opposite, -1.0, 1.0).to(information)

    def __len__(self):
        return self._n

    def __getitem__(self, rows: Tensor) -> "JointObservation":
        """Some of the observations, whose numbers are on the device."""
        new = self._with([image[rows] for image in self._images], keep=())
        new._n = len(rows)
        new.seeing = None if self.seeing is None else self.seeing[rows]
        if self._information is not None:
            new._information = lambda: tuple(part[rows] for part in self.information)
        return new

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
        return self.join([functools.reduce(torch.add, part) for part in parts])

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
        return self._with([image.at(parts) for image in self._images])

    def alone(self, source: str, x: Tensor) -> "JointObservation":
        r"""What one source is left to explain where all others are known.

        .. math:: \tilde y - \sum_{\gamma \ne \beta} \tilde A^\gamma x^\gamma
                  = \tilde A^\beta x^\beta + \varepsilon

        Parameters
        ----------
        source : str
            The source :math:`\beta`.
        x : torch.Tensor
            Joint vectors of all sources, of shape ``(B, D)``. Noise that depends on the sources is
            that of these.

        Returns
        -------
        JointObservation
            Of this source.
        """
        fixed, k = self.at(x), list(self.source_shapes).index(source)
        parts = self.split(x)
        parts[k] = torch.zeros_like(parts[k])
        left = fixed.y - fixed.forward(self.join(parts))
        sizes = [image.y.shape[1] for image in fixed._images]
        new = fixed._with(
            [i.alone(k, y) for i, y in zip(fixed._images, left.split(sizes, dim=1), strict=True)]
        )
        new.source_shapes = {source: self.source_shapes[source]}
        new.sizes, new.depends_on_signal, new._information = [self.sizes[k]], False, None
        new.__dict__.pop("information", None)
        return new

    def simulated(self, x: Tensor) -> "JointObservation":
        r"""The observation of given sources with new noise, :math:`y = A x + \eta`.

        Parameters
        ----------
        x : torch.Tensor
            Joint vectors, of shape ``(B, D)``.

        Returns
        -------
        JointObservation
        """
        parts = self.split(x)
        return self._with([image.simulated(parts) for image in self._images])

    def masked(self, lost) -> "JointObservation":
        """The observation without some pixels.

        Parameters
        ----------
        lost : callable
            Called with the number of observations, the shape of an image, and the device; says
            which pixels are lost, of that shape.

        Returns
        -------
        JointObservation
        """
        new = self._with([image.masked(lost) for image in self._images], keep=())
        new._information = None
        return new

    def under(self, depth: Tensor, seeing: Tensor | None) -> "JointObservation":
        r"""The observation under other conditions: all noise, that of photons too, times a factor.

        Parameters
        ----------
        depth : torch.Tensor
            The factors of the noise, of shape ``(B,)``; the observed values are not to be asked
            for before they are `simulated`.
        seeing : torch.Tensor, optional
            What `seeing` is there.

        Returns
        -------
        JointObservation
        """
        new = self._with([image.exposed(depth) for image in self._images], keep=("n_valid",))
        new.seeing, known = seeing, self._information
        if known is not None:

            def information():
                own, sign = known()
                return own / depth.square().view(-1, *(1,) * (own.ndim - 1)), sign

            new._information = information
        return new

    def _with(self, images: list["_Image"], keep=("n_valid", "information")):
        """The same with other images, and of what was found of them no more than stays."""
        new = copy.copy(self)
        new._images, new._distinct = images, None
        if self.depends_on_signal:
            keep = set(keep) - {"information"}
        for name in {"y", "n_valid", "distinct", "information"} - set(keep):
            new.__dict__.pop(name, None)
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
        self._mixing = [(s, batch.mixing.get(s), shape) for s, shape in source_shapes.items()]

    def __getitem__(self, rows: Tensor) -> "_Image":
        new, batch = copy.copy(self), self._batch
        mixing = {source: operator[rows] for source, operator in batch.mixing.items()}
        new._batch = replace(batch, y=batch.y[rows], mixing=mixing, noise=batch.noise[rows])
        new._mixing = [(s, mixing.get(s), shape) for s, _, shape in self._mixing]
        for name in {"y", "_noise"} & set(vars(self)):
            setattr(new, name, getattr(self, name)[rows])
        return new

    @functools.cached_property
    def _noise(self):
        noise = self._batch.noise
        return noise.at(_smoothed(self._batch)) if noise.depends_on_signal else noise

    @functools.cached_property
    def y(self) -> Tensor:
        return self._noise.whiten(self._batch.y).flatten(1)

    @property
    def n_valid(self) -> Tensor:
        return self._batch.noise.n_valid

    def at(self, parts: list[Tensor]) -> "_Image":
        new = copy.copy(self)
        new.__dict__.pop("y", None)
        new._noise = self._batch.noise.at(self._mix(parts))
        return new

    def masked(self, lost) -> "_Image":
        new, noise = copy.copy(self), self._batch.noise
        for name in ("y", "_noise"):
            new.__dict__.pop(name, None)
        mask = lost(len(self._batch.y), self._shape, self._batch.y.device)
        new._batch = replace(self._batch, noise=noise.masked(mask))
        return new

    def exposed(self, factor: Tensor) -> "_Image":
        new = copy.copy(self)
        for name in ("y", "_noise"):
            new.__dict__.pop(name, None)
        new._batch = replace(self._batch, noise=ScaledNoise(self._batch.noise, factor))
        return new

    def alone(self, k: int, y: Tensor) -> "_Image":
        new = copy.copy(self)
        new._mixing, new.y = self._mixing[k : k + 1], y
        return new

    def simulated(self, parts: list[Tensor]) -> "_Image":
        new, noise = copy.copy(self), self._batch.noise
        new.__dict__.pop("y", None)
        if noise.depends_on_signal:
            new.__dict__.pop("_noise", None)
            new._batch = _observed(self._batch, self._mix(parts))
        else:  # noise is white where it is whitened
            light = self._mix(parts)
            z = torch.where(noise.valid, torch.randn_like(light), 0.0)
            new.y = (noise.whiten(light) + z).flatten(1)
        return new

    def _mix(self, parts: list[Tensor]) -> Tensor:
        light = [
            mixing(part)
            for (_, mixing, _), part in zip(self._mixing, parts, strict=True)
            if mixing is not None
        ]
        return functools.reduce(torch.add, light) if light else torch.zeros_like(self._batch.y)

    def forward(self, parts: list[Tensor]) -> Tensor:
        return self._noise.whiten(self._mix(parts)).flatten(1)

    def adjoint(self, r: Tensor) -> list[Tensor]:
        r = self._noise.whiten_adjoint(r.unflatten(1, self._shape))
        return [
            r.new_zeros(len(r), *shape) if mixing is None else mixing.adjoint(r)
            for _, mixing, shape in self._mixing
        ]


def _smoothed(batch) -> Tensor:
    """Observed images averaged over 3 x 3 informative pixels; vectors as they are."""
    y, valid = torch.where(batch.noise.valid, batch.y, 0), batch.noise.valid.to(batch.y)
    if y.ndim < 3:
        return y
    total, n = (avg_pool2d(x.flatten(1, -3) if x.ndim > 3 else x, 3, 1, 1) for x in (y, valid))
    return (total / n.clip(min=1e-3)).view_as(y)


def simulate(batch, sources: dict[str, Tensor]):
    r"""Observe known sources as others have been: :math:`y = \sum_\beta A^\beta x^\beta + \eta`.

    Parameters
    ----------
    batch : `~astro_ddprism.views.base.Batch`, or sequence of it
        Observations whose mixing operators and noise are used, one batch for each image.
    sources : dict of str to torch.Tensor
        The sources, of shape ``(B, *shape)``.

    Returns
    -------
    batch : Batch, or tuple of it
        The same with new observed values.
    """
    if isinstance(batch, Sequence):
        return tuple(simulate(image, sources) for image in batch)
    return _observed(
        batch, sum(operator(sources[source]) for source, operator in batch.mixing.items())
    )


def _observed(batch, light: Tensor):
    """The batch with observed values of some light, with new noise."""
    noise = batch.noise.at(light).colour(torch.randn_like(light))
    return replace(batch, y=torch.where(batch.noise.valid, light + noise, 0.0))
