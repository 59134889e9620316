r"""The surface brightness of a source at the middle of each pixel of an image, times its area.

.. math:: y_p = |J_p| \sum_{i, j} \beta(v_p - i) \, \beta(u_p - j) \, (B_y \, x \, B_x^\top)_{ij}

with the B-spline :math:`\beta` of an odd order, and matrices :math:`B` that make of the pixels the
spline's coefficients, so that it passes through them (Unser 1999): what ``reproject_interp`` does
in surface brightness, as an operator. For order 1 they are the identity.

No PSF is changed and no pixel integrated over: the pixels of source and image have to be much alike
for this to be what an instrument does. `Resampling` does it right, and at twice the cost.

References
----------
Unser 1999, IEEE Signal Process. Mag. 16, 22.
"""

import math
from functools import cached_property, partial

import numpy as np
import scipy.ndimage
import torch

from ..errors import InputError
from ..frame.pixelmap import fit_pixel_maps
from .base import MixingOperator, array_dtype, as_shape, as_tensor
from .placement import pixel_areas, pixel_positions
from .taps import Taps

__all__ = ["Interpolation"]


class Interpolation(MixingOperator):
    """Interpolation by splines at the pixels of an image, flux conserved.

    Usually made by `Interpolation.from_wcs`.

    Parameters
    ----------
    coefficients : array_like, shape (N, 2, n, n)
        Where the image's pixels lie (`~astro_ddprism.frame.pixelmap.fit_pixel_maps`).
    source_shape, observation_shape : tuple of int
        ``(bands, ny, nx)`` of the source and of the image.
    order : int
        Odd order of the spline: 1, bilinear; 3, bicubic.
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Raises
    ------
    InputError
        If the order is not 1, 3 or 5, or the bands differ.

    Notes
    -----
    Beyond the source's pixels there is no light.
    """

    own_pixels = True
    _tensors = ("coefficients",)
    _derived = ("_taps", "_splines")

    def __init__(self, coefficients, source_shape, observation_shape, *, order=1, dtype=None):
        self.source_shape = as_shape(source_shape)
        self.observation_shape = as_shape(observation_shape)
        self.order = order
        self.coefficients = as_tensor(coefficients, dtype)
        if order not in (1, 3, 5):
            raise InputError(f"order: found {order}, expected 1, 3 or 5")
        if self.source_shape[0] != self.observation_shape[0]:
            raise InputError(
                f"observation_shape: found {self.observation_shape}, expected "
                f"{self.source_shape[0]} bands, those of the source"
            )

    @classmethod
    def from_wcs(cls, wcs, shape, *, frame, coordinates, order=1, names=None, dtype=None):
        """The operator that leads from a source's frame to images with these headers.

        Parameters
        ----------
        wcs : `~astropy.wcs.WCS` or sequence of it
            The WCS of each observation's image: any celestial one.
        shape : tuple of int
            ``(bands, ny, nx)`` of the images.
        frame : `~astro_ddprism.frame.SourceFrame`
            Where the source lives; its PSF is not looked at.
        coordinates : `~astropy.coordinates.SkyCoord`
            Where the frame lies in each observation, or one coordinate for all.
        order : int
            Odd order of the spline: 1, bilinear; 3, bicubic.
        names : sequence of str, optional
            What messages call the observations; their numbers by default.
        dtype : torch.dtype, optional
            float32 by default.

        Returns
        -------
        operator : Interpolation

        Raises
        ------
        InputError
            If a WCS is not celestial or does not cover its coordinate, or the bands are not those
            of the frame.
        """
        shape = as_shape(shape)
        coefficients = fit_pixel_maps(wcs, shape[-2:], frame, coordinates, names=names)
        return cls(coefficients, frame.shape, shape, order=order, dtype=dtype)

    @property
    def n_observations(self):
        """Number of observations."""
        return len(self.coefficients)

    @cached_property
    def _taps(self):
        """Sums under the spline at the image's pixels."""
        shape = self.observation_shape[1:]
        return Taps(
            pixel_positions(self.coefficients, shape),
            pixel_areas(self.coefficients, shape),
            partial(_spline, self.order),
            self.order + 1,
            self.source_shape[1:],
        )

    @cached_property
    def _splines(self):
        """Matrices that make of pixels the spline's coefficients, along y and along x."""
        return [
            torch.as_tensor(
                scipy.ndimage.spline_filter1d(np.eye(n), self.order, axis=0, mode="mirror")
            ).to(self.coefficients)
            for n in self.source_shape[1:]
        ]

    def _apply(self, x):
        if self.order > 1:
            along_y, along_x = self._splines
            x = along_y @ x @ along_x.mT
        return self._taps.gather(x)

    def _apply_adjoint(self, y):
        x = self._taps.scatter(y)
        if self.order > 1:
            along_y, along_x = self._splines
            x = along_y.mT @ x @ along_x
        return x

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "Interpolation",
            "coefficients": self.coefficients.cpu().numpy(),
            "source_shape": list(self.source_shape),
            "observation_shape": list(self.observation_shape),
            "order": self.order,
        }

    @classmethod
    def from_state(cls, state):
        """Build the operator from what `state` returned."""
        arguments = {key: value for key, value in state.items() if key != "operator"}
        return cls(**arguments, dtype=array_dtype(state["coefficients"]))


def _spline(order, distance):
    """B-spline, by differences of truncated powers."""
    power = [
        (-1) ** k * math.comb(order + 1, k) * ((order + 1) / 2 - k + distance).clamp(min=0) ** order
        for k in range(order + 2)
    ]
    return (sum(power) / math.factorial(order)).clamp(min=0)
