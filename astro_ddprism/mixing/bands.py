r"""Images whose bands are weighted sums of a source's bands.

.. math:: y_{iop} = \sum_b w_{iob} \, x_{ibp}

for output band :math:`o` and pixel :math:`p`: a broad band that spans several narrow ones, the grey
image of a coloured source, a subset of the bands. The weights are the same in every pixel, so that
a change of bands and a convolution or a resampling, the same for all bands, may change places.
"""

import torch

from ..errors import InputError
from .base import MixingOperator, array_dtype, as_shape, as_tensor

__all__ = ["Bands"]


class Bands(MixingOperator):
    """Weighted sums of a source's bands.

    Parameters
    ----------
    weights : array_like, shape (out_bands, in_bands) or (N, out_bands, in_bands)
        Share of each of the source's bands (columns) in each observed band (rows); one matrix for
        all observations, or one for each.
    shape : tuple of int, (in_bands, ny, nx)
        Shape of one source. An observation has the shape (out_bands, ny, nx).
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Raises
    ------
    InputError
        If the weights have another number of axes, are not those of the source's number of bands
        or not finite.

    Examples
    --------
    The grey image of a source of three bands:

    >>> import torch
    >>> from astro_ddprism.mixing import Bands
    >>> grey = Bands([[0.25, 0.5, 0.25]], (3, 1, 2))
    >>> grey
    <Bands (3, 1, 2) -> (1, 1, 2), shared>
    >>> grey(torch.tensor([[[[1.0, 0.0]], [[2.0, 0.0]], [[3.0, 4.0]]]]))
    tensor([[[[2., 1.]]]])

    The last and the first of three bands:

    >>> import numpy as np
    >>> Bands(np.eye(3)[[2, 0]], (3, 1, 2))
    <Bands (3, 1, 2) -> (2, 1, 2), shared>
    """

    _tensors = ("weights",)

    def __init__(self, weights, shape, *, dtype=None):
        self.source_shape = as_shape(shape)
        self.weights = as_tensor(weights, dtype)
        self._check_weights()
        self.observation_shape = (self.weights.shape[-2], *self.source_shape[1:])

    def _check_weights(self):
        found = tuple(self.weights.shape)
        if len(self.source_shape) < 2:
            raise InputError(f"shape: found {self.source_shape}, expected (in_bands, ny, nx)")
        if len(found) not in (2, 3) or found[-1] != self.source_shape[0] or 0 in found:
            raise InputError(
                f"weights: found shape {found}, expected (out_bands, in_bands) or "
                f"(N, out_bands, in_bands) with in_bands = {self.source_shape[0]}"
            )
        if not torch.isfinite(self.weights).all():
            raise InputError("weights: found values that are not finite")

    @property
    def n_observations(self):
        """Number of matrices of weights; None where all observations share one."""
        return len(self.weights) if self.weights.ndim == 3 else None

    def _apply(self, x):
        return (self.weights @ x.flatten(2)).unflatten(2, self.source_shape[1:])

    def _apply_adjoint(self, y):
        return (self.weights.mT @ y.flatten(2)).unflatten(2, self.source_shape[1:])

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "Bands",
            "weights": self.weights.cpu().numpy(),
            "shape": list(self.source_shape),
        }

    @classmethod
    def from_state(cls, state):
        """Build the operator from what `state` returned."""
        return cls(state["weights"], state["shape"], dtype=array_dtype(state["weights"]))
