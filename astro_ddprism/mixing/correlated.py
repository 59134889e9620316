r"""Noise that neighbouring pixels share, as drizzling and resampling leave it.

A resampled pixel is a weighted sum of a few original ones, and shares some of them, and their
noise, with its neighbours. Such noise is stationary but for its amplitude,

.. math:: \Sigma = D^{1/2} C D^{1/2}, \qquad D = \operatorname{diag}(\sigma_p^2), \qquad
          C_{pq} = c_{p - q} ,

with an autocorrelation :math:`c` of short range that can be measured where the image holds no
source (`astro_ddprism.survey.estimate_autocorrelation`). Between bands there is no correlation.

Whitening is exact, masks included. Let :math:`V` select the valid pixels; then

.. math:: L L^\top = V C V + (I - V), \qquad W = L^{-1} V D^{-1/2} ,

with a Cholesky factor :math:`L` that is the identity at all other pixels. It depends on the mask
and the autocorrelation alone, not on the amplitude: all images without masked pixels share one.
"""

import copy
import warnings

import numpy as np
import torch
from astropy.utils.exceptions import AstropyUserWarning

from ..errors import InputError
from .base import array_dtype, as_tensor, move, select
from .cholesky import BlockCholesky, SharedFactors
from .noise import DiagonalNoise, Noise
from .stationary import nearest_autocorrelation

__all__ = ["CorrelatedNoise"]


class CorrelatedNoise(Noise):
    """Gaussian noise of a known variance and a stationary autocorrelation of short range.

    Parameters
    ----------
    variance : array_like, shape (N, *observation_shape)
        Variance of each pixel by itself. Pixels without a positive, finite variance carry no
        information. Observations have the shape (bands, ny, nx) or (ny, nx).
    autocorrelation : array_like, shape (ky, kx), (bands, ky, kx) or (N, bands, ky, kx)
        Correlation of two pixels against their distance: one for all, one per band, or one per
        observation and band. Of odd sizes, 1 in the centre, equal at opposite lags, and 0 beyond.
        An axis of bands may have length 1. For images without bands: (ky, kx) or (N, ky, kx).
    mask : array_like of bool, optional
        True at pixels without information, of the shape of ``variance``.
    floor : float
        The least power that any spatial frequency of the noise may have, in units of that of white
        noise of the same variance.
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Attributes
    ----------
    autocorrelation : Tensor, shape (1 or N, 1 or bands, ky, kx)
        The autocorrelation that is used.

    Raises
    ------
    InputError
        If shapes do not fit together, or the autocorrelation is not one.

    Warns
    -----
    AstropyUserWarning
        If ``floor`` changed a correlation by more than 0.05.

    Notes
    -----
    A measured autocorrelation has powers around and below 0 at frequencies where resampling left
    hardly any noise. It is replaced by the nearest one of the same range whose power is at least
    ``floor`` everywhere. This is also a safeguard: whitening multiplies a frequency by the inverse
    root of its power, and with it everything that is wrong there with the model of the sources.

    The range decides the cost: it grows with the square of the number of lags, for each mask that
    is not equal to another. Factors are computed when first used; selections of the observations
    inherit them.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import CorrelatedNoise
    >>> noise = CorrelatedNoise(torch.full((1, 1, 2), 4.0), [[0.48, 1.0, 0.48]])
    >>> noise.whiten(torch.tensor([[[2.0, 2.0]]]))
    tensor([[[1.0000, 0.5927]]])
    >>> noise.colour(torch.tensor([[[1.0, 0.0]]]))
    tensor([[[2.0000, 0.9600]]])
    """

    def __init__(self, variance, autocorrelation, mask=None, *, floor=0.01, dtype=None):
        self.pixels = DiagonalNoise(variance, mask, dtype=dtype)
        if not 1e-4 <= floor < 1:
            raise InputError(f"floor: found {floor}, expected a power between 1e-4 and 1")
        self.floor = float(floor)
        measured = self._checked(np.asarray(autocorrelation, dtype=float))
        used = nearest_autocorrelation(measured, self.shape[-2:], self.floor)
        change = np.abs(used - measured).max()
        if change > 0.05:
            warnings.warn(
                f"autocorrelation: no noise has the one given; the nearest one whose power is at "
                f"least {self.floor} differs by up to {change:.2f}",
                AstropyUserWarning,
                stacklevel=2,
            )
        self.autocorrelation = torch.as_tensor(used, dtype=self.pixels.std.dtype).to(
            self.pixels.std.device
        )
        self._factors = None

    def _checked(self, values) -> np.ndarray:
        shape, found = self.shape, values.shape
        if len(shape) not in (2, 3):
            raise InputError(
                f"variance: found observations of shape {shape}, expected (bands, ny, nx) or "
                "(ny, nx)"
            )
        full = (self.n_observations, *shape[:-2])
        leading = found[:-2]
        if not 2 <= len(found) <= len(shape) + 1 or any(
            n not in (1, size) for n, size in zip(leading[::-1], full[::-1], strict=False)
        ):
            raise InputError(
                f"autocorrelation: found shape {found}, expected (ky, kx), (bands, ky, kx) or "
                f"(N, bands, ky, kx) for {self.n_observations} observations of shape {shape}"
            )
        ky, kx = found[-2:]
        if ky % 2 == 0 or kx % 2 == 0:
            raise InputError(
                f"autocorrelation: found {ky} x {kx} lags, expected odd sizes, so that lag 0 is in "
                "the centre"
            )
        centre = values[..., ky // 2, kx // 2]
        if not np.allclose(centre, 1, rtol=0, atol=1e-3):
            raise InputError(
                f"autocorrelation: found {centre.flat[np.abs(centre - 1).argmax()]} in the centre, "
                "expected 1 (the variance is an argument of its own)"
            )
        if not (np.abs(values) < 1 + 1e-3).all():
            raise InputError("autocorrelation: found values not between -1 and 1")
        opposite = values[..., ::-1, ::-1]
        if np.abs(values - opposite).max() > 1e-3:
            raise InputError("autocorrelation: found opposite lags that differ, expected equal")
        values = (values + opposite) / 2
        values[..., ky // 2, kx // 2] = 1
        return values.reshape(*(1,) * (len(full) - len(leading)), *values.shape)

    @property
    def valid(self):
        """True at pixels with information, shape (N, *observation_shape)."""
        return self.pixels.valid

    @property
    def variance(self):
        """Variance of every pixel by itself; infinite without information."""
        return self.pixels.variance

    @property
    def factors(self) -> SharedFactors:
        """Cholesky factors of the correlations, one for each mask and autocorrelation."""
        if self._factors is None:
            self._factors = self._factor()
        return self._factors

    @property
    def factors_size(self):
        """Bytes of what whitening has to know, beside the noise itself."""
        kinds, _ = self._kinds()
        return len(kinds) * BlockCholesky.size(self.autocorrelation, self.shape[-2:])

    def _kinds(self):
        """Autocorrelations with masks, each once, and which of them each plane has."""
        ny, nx = self.shape[-2:]
        valid = self.valid.reshape(-1, ny * nx)
        lags = self.autocorrelation.expand(*self.valid.shape[:-2], -1, -1)
        lags = lags.reshape(len(valid), -1).double()
        return torch.unique(torch.cat([lags, valid.double()], dim=1), dim=0, return_inverse=True)

    @torch.no_grad()
    def _factor(self):
        ny, nx = self.shape[-2:]
        kinds, rows = self._kinds()
        lags, valid = kinds.split([kinds.shape[1] - ny * nx, ny * nx], dim=1)
        factors = BlockCholesky.of_images(
            lags.unflatten(1, self.autocorrelation.shape[-2:]),
            valid.bool().unflatten(1, (ny, nx)),
            self.pixels.std.dtype,
        )
        return SharedFactors(factors, rows)

    def _apply(self, operation, values):
        return operation(values.reshape(-1, *self.shape[-2:]).flatten(1)).view_as(values)

    def _whiten(self, r):
        return self._apply(self.factors.solve, self.pixels._whiten(r))

    def _whiten_adjoint(self, z):
        return self.pixels._whiten_adjoint(self._apply(self.factors.solve_adjoint, z))

    def _colour(self, z):
        return self.pixels._colour(self._apply(self.factors.multiply, z))

    def rescaled(self, factor):
        """The noise of observations that are multiplied by ``factor``."""
        return self._with(self.pixels.rescaled(factor), self._factors)

    def masked(self, mask):
        """The noise of observations whose pixels in ``mask`` carry no information either."""
        return self._with(self.pixels.masked(mask), None)

    def added(self, variance):
        """The noise with more variance in every pixel, which neighbours share like the rest.

        What made neighbours share their noise, a resampling, did so to all of it.
        """
        return self._with(self.pixels.added(variance), self._factors)

    def __getitem__(self, index):
        new = self._with(self.pixels[index], None)
        if len(self.autocorrelation) > 1:
            new.autocorrelation = select(self.autocorrelation, index)
        if self._factors is not None:
            rows = torch.arange(len(self._factors.rows), device=self._factors.rows.device)
            rows = select(rows.reshape(self.n_observations, -1), index).flatten()
            # Which images share a factor is asked of the host's own rows alone.
            own = isinstance(index, torch.Tensor)
            new._factors = self._factors.of(rows) if own else self._factors[rows]
        return new

    def to(self, device=None, dtype=None):
        """Copy the noise to another device or floating-point type."""
        new = self._with(self.pixels.to(device, dtype), None)
        new.autocorrelation = move(self.autocorrelation, device, dtype)
        std = new.pixels.std
        # Factors of short floating-point numbers are not worth longer ones.
        if self._factors is not None and std.itemsize <= self.pixels.std.itemsize:
            new._factors = self._factors.to(std.device, std.dtype)
        return new

    def _with(self, pixels, factors):
        new = copy.copy(self)
        new.pixels, new._factors = pixels, factors
        return new

    def state(self):
        """Variance of the pixels and autocorrelation, for `noise_from_state`."""
        return {
            "noise": "CorrelatedNoise",
            "pixels": self.pixels.state(),
            "autocorrelation": self.autocorrelation.cpu().numpy(),
            "floor": self.floor,
        }

    @classmethod
    def from_state(cls, state):
        """Build the noise from what `state` returned."""
        new = cls.__new__(cls)
        new.pixels = DiagonalNoise.from_state(state["pixels"])
        new.autocorrelation = as_tensor(
            state["autocorrelation"], array_dtype(state["autocorrelation"])
        )
        new.floor, new._factors = state["floor"], None
        return new
