r"""Any linear map, by its matrix.

.. math:: y_{im} = \sum_n A_{imn} x_{in}

for problems whose operators have no structure, or are small enough for it not to matter. Images are
flattened in C order.
"""

import math

import torch

from ..errors import InputError
from .base import MixingOperator, array_dtype, as_shape, as_tensor

__all__ = ["DenseMatrix"]


class DenseMatrix(MixingOperator):
    """A matrix, or one for each observation.

    Parameters
    ----------
    matrix : array_like, shape (m, n) or (N, m, n)
        From ``n`` pixels of the source to ``m`` of the observation.
    source_shape : tuple of int, optional
        Shape of one source, of ``n`` elements; ``(n,)`` by default.
    observation_shape : tuple of int, optional
        Shape of one observation, of ``m`` elements; ``(m,)`` by default.
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Raises
    ------
    InputError
        If the matrix has another number of axes, a size that does not match the shapes, or values
        that are not finite.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import DenseMatrix
    >>> A = DenseMatrix([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    >>> A(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[3., 6.]])
    >>> A.adjoint(torch.tensor([[1.0, 1.0]]))
    tensor([[1., 1., 2.]])
    """

    _tensors = ("matrix",)

    def __init__(self, matrix, source_shape=None, observation_shape=None, *, dtype=None):
        self.matrix = as_tensor(matrix, dtype)
        if self.matrix.ndim not in (2, 3):
            raise InputError(
                f"matrix: found shape {tuple(self.matrix.shape)}, expected (m, n) or (N, m, n)"
            )
        m, n = self.matrix.shape[-2:]
        self.source_shape = (n,) if source_shape is None else as_shape(source_shape)
        self.observation_shape = (m,) if observation_shape is None else as_shape(observation_shape)
        if (math.prod(self.observation_shape), math.prod(self.source_shape)) != (m, n):
            raise InputError(
                f"matrix: found {m} x {n} elements, which do not map sources of shape "
                f"{self.source_shape} to observations of shape {self.observation_shape}"
            )
        if not torch.isfinite(self.matrix).all():
            raise InputError("matrix: found values that are not finite")

    @property
    def n_observations(self):
        """Number of matrices; None where all observations share one."""
        return len(self.matrix) if self.matrix.ndim == 3 else None

    @property
    def _axes(self):
        return "mn" if self.n_observations is None else "bmn"

    def _apply(self, x):
        y = torch.einsum(f"{self._axes},bn->bm", self.matrix, x.flatten(1))
        return y.reshape(-1, *self.observation_shape)

    def _apply_adjoint(self, y):
        x = torch.einsum(f"{self._axes},bm->bn", self.matrix, y.flatten(1))
        return x.reshape(-1, *self.source_shape)

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "DenseMatrix",
            "matrix": self.matrix.cpu().numpy(),
            "source_shape": list(self.source_shape),
            "observation_shape": list(self.observation_shape),
        }

    @classmethod
    def from_state(cls, state):
        """Build the operator from what `state` returned."""
        return cls(
            state["matrix"],
            state["source_shape"],
            state["observation_shape"],
            dtype=array_dtype(state["matrix"]),
        )
