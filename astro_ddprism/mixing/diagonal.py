r"""Operators that act on each pixel alone.

.. math:: y_{ip} = a_{ip} x_{ip}

with :math:`a = 1` (`Identity`), one number for an observation (`Amplitude`: how strongly a view
holds a source), or 0 at bad and 1 at good pixels (`Mask`). Such a matrix is diagonal and thus its
own adjoint.
"""

import numpy as np
import torch

from ..errors import InputError
from .base import MixingOperator, array_dtype, as_shape, as_tensor

__all__ = ["Amplitude", "Identity", "Mask"]


class _Diagonal(MixingOperator):
    """A diagonal operator: sources and observations have the same shape, A^T = A."""

    def __init__(self, shape):
        self.source_shape = self.observation_shape = as_shape(shape)

    def _apply_adjoint(self, y):
        return self._apply(y)


class Identity(_Diagonal):
    """A source that is seen as it is.

    Parameters
    ----------
    shape : tuple of int
        Shape of one source and one observation.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import Identity
    >>> Identity((2,))(torch.tensor([[1.0, 2.0]]))
    tensor([[1., 2.]])
    """

    @property
    def n_observations(self):
        """None: all observations share the identity."""
        return None

    def _apply(self, x):
        return x

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {"operator": "Identity", "shape": list(self.source_shape)}


class Amplitude(_Diagonal):
    """A source times one known number.

    Parameters
    ----------
    amplitude : float or array_like, shape (N,)
        One number for all observations, or one for each.
    shape : tuple of int
        Shape of one source and one observation.
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Raises
    ------
    InputError
        If ``amplitude`` is neither a number nor one-dimensional, or not finite.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import Amplitude
    >>> Amplitude([0.5, 2.0], (2,))(torch.ones(2, 2))
    tensor([[0.5000, 0.5000],
            [2.0000, 2.0000]])
    """

    _tensors = ("amplitude",)

    def __init__(self, amplitude, shape, *, dtype=None):
        super().__init__(shape)
        self.amplitude = as_tensor(amplitude, dtype)
        if self.amplitude.ndim > 1:
            raise InputError(
                f"amplitude: found shape {tuple(self.amplitude.shape)}, expected a number or (N,)"
            )
        if not torch.isfinite(self.amplitude).all():
            raise InputError("amplitude: found values that are not finite")

    @property
    def n_observations(self):
        """Number of amplitudes; None where there is only one number for all observations."""
        return len(self.amplitude) if self.amplitude.ndim else None

    def _apply(self, x):
        return self.amplitude.reshape(-1, *(1,) * len(self.source_shape)) * x

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "Amplitude",
            "amplitude": self.amplitude.cpu().numpy(),
            "shape": list(self.source_shape),
        }

    @classmethod
    def from_state(cls, state):
        """Build the operator from what `state` returned."""
        return cls(state["amplitude"], state["shape"], dtype=array_dtype(state["amplitude"]))


class Mask(_Diagonal):
    """Zero at bad pixels.

    For pixels that a source cannot reach. Bad pixels of an observation need no operator: they
    belong in the view's mask, which `DiagonalNoise` leaves out.

    Parameters
    ----------
    mask : array_like of bool, shape `shape` or (N, *shape)
        True at bad pixels. Whatever value a bad pixel holds, NaN included, becomes 0.
    shape : tuple of int, optional
        Shape of one source and one observation. If None, the shape of ``mask``, which all
        observations then share.

    Raises
    ------
    InputError
        If ``mask`` is not boolean or does not have this shape.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import Mask
    >>> Mask([False, True])(torch.tensor([[1.0, torch.nan]]))
    tensor([[1., 0.]])
    """

    _tensors = ("mask",)

    def __init__(self, mask, shape=None):
        mask = mask if isinstance(mask, torch.Tensor) else as_tensor(mask, _bool(mask))
        super().__init__(mask.shape if shape is None else shape)
        n_leading = mask.ndim - len(self.source_shape)
        if n_leading not in (0, 1) or tuple(mask.shape[n_leading:]) != self.source_shape:
            raise InputError(
                f"mask: found shape {tuple(mask.shape)}, expected {self.source_shape}, with or "
                "without a leading axis of observations"
            )
        if mask.dtype != torch.bool:
            raise InputError(f"mask: found type {mask.dtype}, expected bool (True at bad pixels)")
        self.mask = mask

    @property
    def n_observations(self):
        """Number of masks; None where all observations share one."""
        return len(self.mask) if self.mask.ndim > len(self.source_shape) else None

    def _apply(self, x):
        # Not a product: 0 times NaN is NaN.
        return torch.where(self.mask, torch.zeros_like(x), x)

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "Mask",
            "mask": self.mask.cpu().numpy(),
            "shape": list(self.source_shape),
        }


def _bool(mask) -> torch.dtype:
    """Boolean for a boolean array; else a type that the check of the constructor refuses."""
    return torch.bool if np.asarray(mask).dtype == bool else torch.float32
