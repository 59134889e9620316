r"""Operators one after the other.

.. math:: A = A_1 A_2 \cdots A_k, \qquad A^\top = A_k^\top \cdots A_2^\top A_1^\top

written as ``Composition(A1, A2, ..., Ak)`` and applied from right to left, as in mathematics.
"""

import itertools

from ..errors import InputError
from .base import MixingOperator, operator_from_state

__all__ = ["Composition"]


class Composition(MixingOperator):
    """The product of several operators.

    Parameters
    ----------
    *operators : MixingOperator
        ``Composition(f, g)(x)`` is ``f(g(x))``. Shared operators and such with one map per
        observation may be mixed.

    Raises
    ------
    InputError
        If there is no operator, or the shapes or numbers of observations do not fit together.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import Amplitude, Composition, DenseMatrix
    >>> A = Composition(Amplitude(2.0, (1,)), DenseMatrix([[1.0, 1.0]]))
    >>> A(torch.tensor([[1.0, 2.0]]))
    tensor([[6.]])
    """

    def __init__(self, *operators):
        if not operators:
            raise InputError("Composition: found no operators, expected at least one")
        for left, right in itertools.pairwise(operators):
            if left.source_shape != right.observation_shape:
                raise InputError(
                    f"Composition: {left} cannot follow {right}: expected equal shapes in between"
                )
        numbers = {operator.n_observations for operator in operators} - {None}
        if len(numbers) > 1:
            raise InputError(
                "Composition: found operators of "
                f"{' and '.join(map(str, sorted(numbers)))} observations, expected equal numbers"
            )
        self.operators = tuple(operators)
        self.source_shape = operators[-1].source_shape
        self.observation_shape = operators[0].observation_shape

    @property
    def before_psf(self):
        """Whether one of the operators applies a point spread function."""
        return any(operator.before_psf for operator in self.operators)

    @property
    def own_pixels(self):
        """Whether one of the operators leads from pixels to others."""
        return any(operator.own_pixels for operator in self.operators)

    @property
    def n_observations(self):
        """Number of observations of those operators that are not shared; None where all are."""
        return next(
            (op.n_observations for op in self.operators if op.n_observations is not None), None
        )

    def __getitem__(self, index):
        if self.n_observations is None:
            return self
        return Composition(*(operator[index] for operator in self.operators))

    def to(self, device=None, dtype=None):
        """Copy all operators to another device or floating-point type."""
        return Composition(*(operator.to(device, dtype) for operator in self.operators))

    def _apply(self, x):
        for operator in reversed(self.operators):
            x = operator(x)
        return x

    def _apply_adjoint(self, y):
        for operator in self.operators:
            y = operator.adjoint(y)
        return y

    def state(self):
        """Arguments of the constructor, for `operator_from_state`."""
        return {
            "operator": "Composition",
            "operators": [operator.state() for operator in self.operators],
        }

    @classmethod
    def from_state(cls, state):
        """Build the operators from what `state` returned."""
        return cls(*(operator_from_state(part) for part in state["operators"]))
