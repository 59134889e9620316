r"""Linear solvers for the covariance of a predicted observation.

The score of the moment-matched likelihood needs :math:`z = M^{-1} r` with

.. math:: M = I + \tilde A V \tilde A^T ,

where :math:`V` is known only through products (one vector-Jacobian product of each network a
product). A learned Jacobian is neither symmetric nor positive: conjugate gradients break down on
it, the more the more they iterate; GMRES, which minimizes the residual whatever the matrix, does
not. For observations of a few numbers, `Dense` writes the matrix down and solves exactly.
"""

__all__ = ["CG", "GMRES", "SOLVERS", "Dense", "Solver"]

import abc
from collections.abc import Callable

import torch
from azula.linalg import solve
from torch import Tensor


class Solver(abc.ABC):
    """A solver of batches of linear systems; subclasses are found by their lower-case name."""

    @abc.abstractmethod
    def __call__(self, matrix: Callable[[Tensor], Tensor], r: Tensor) -> Tensor:
        """Solve ``matrix(z) = r`` for ``r`` of shape ``(B, M)``."""


class GMRES(Solver):
    """Generalized minimal residual iterations: one product each.

    Parameters
    ----------
    iterations : int
        Number of iterations; the residual falls with each.
    """

    def __init__(self, iterations: int = 2):
        self.iterations = iterations

    def __call__(self, matrix, r):  # noqa: D102
        return solve.gmres(matrix, r, iterations=min(self.iterations, r.shape[1]))


class CG(Solver):
    """Conjugate gradient iterations, for symmetric positive matrices: one product each.

    Parameters
    ----------
    iterations : int
        Number of iterations.
    """

    def __init__(self, iterations: int = 2):
        self.iterations = iterations

    def __call__(self, matrix, r):  # noqa: D102
        return solve.cg(matrix, r, iterations=self.iterations)


class Dense(Solver):
    """The exact solution, from the matrix itself: ``M`` products.

    Parameters
    ----------
    iterations : int, optional
        Not used: an exact solve has none. Accepted so that solvers are interchangeable.
    """

    def __init__(self, iterations: int | None = None):
        self.iterations = iterations

    def __call__(self, matrix, r):  # noqa: D102
        basis = torch.eye(r.shape[1], dtype=r.dtype, device=r.device)
        columns = [matrix(e.expand_as(r)) for e in basis]
        return torch.linalg.solve(torch.stack(columns, dim=-1), r)


SOLVERS = {cls.__name__.lower(): cls for cls in (GMRES, CG, Dense)}
