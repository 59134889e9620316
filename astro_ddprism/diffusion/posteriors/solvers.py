r"""Solvers of the update that an observation makes: what its residual says of the sources.

With the covariance :math:`V` of the sources and the residual :math:`r` of the whitened observation,
the posterior mean needs

.. math:: \Delta = V \tilde A^T z, \qquad M z = r, \qquad M = I + \tilde A V \tilde A^T .

:math:`V` is known only through products, and these are what a solve costs: each takes one
vector-Jacobian product of every source's network. All solvers compose :math:`z` of vectors
:math:`z_k` whose :math:`V \tilde A^T z_k` they had to know on the way, so that :math:`\Delta` is a
sum of what is at hand and takes no product of its own.

A learned Jacobian is neither symmetric nor positive: conjugate gradients break down on it, the more
the more they iterate; GMRES, which minimizes the residual whatever the matrix, does not. For
observations of a few numbers, `Dense` writes the matrix down and solves exactly; its products do
not wait for each other, and are asked for all at once.
"""

__all__ = ["CG", "GMRES", "SOLVERS", "Dense", "Solver"]

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...registry import MOST_REPEATS, Part, Registry, option
from ..observation import JointObservation

#: Solvers by name.
SOLVERS = Registry("solver", "astro_ddprism.solvers")


class Solver(Part, abc.ABC):
    """A solver of batches of updates; its options are those of the dataclass."""

    registry = SOLVERS

    @abc.abstractmethod
    def bind(self, observation: JointObservation) -> Callable[[Callable, Tensor], Tensor]:
        r"""Prepare for a batch of observations, once for all the steps of its chains.

        Parameters
        ----------
        observation : JointObservation
            The whitened observations, :math:`\tilde A` and :math:`\tilde A^T`.

        Returns
        -------
        callable
            ``update(covariance, r)`` finds :math:`\Delta`, of shape ``(B, D)``. ``covariance``
            multiplies stacks of vectors, of shape ``(K, B, D)``, by :math:`V`; ``r`` has the shape
            ``(B, M)``.
        """


@SOLVERS.register("gmres")
@dataclass(frozen=True)
class GMRES(Solver):
    r"""Generalized minimal residual iterations: one product each.

    Directions are taken so that their images :math:`q_k = M z_k` are orthonormal; each then takes
    its own share :math:`q_k^T r` off the residual, whatever the others do. The next direction is
    the last image, so that they span the Krylov space (Walker & Zhou 1994).

    Parameters
    ----------
    iterations : int
        Number of iterations; the residual falls with each.

    References
    ----------
    .. [1] Walker & Zhou 1994, Numerical Linear Algebra with Applications 1, 571 (simpler GMRES)
    """

    iterations: int = option(3, least=1, most=MOST_REPEATS)

    def bind(self, observation):  # noqa: D102
        return partial(self._update, observation)

    def _update(self, observation, covariance, r):
        dtype, r = r.dtype, r.double()
        z, update, known = r / _nonzero(r.norm(dim=1, keepdim=True)), 0.0, []
        for _ in range(min(self.iterations, r.shape[1])):
            q, x = _product(observation, covariance, z, dtype)
            for q_k, x_k in known:
                share = _dot(q_k, q)
                q, x = q - share * q_k, x - share * x_k
            norm = _nonzero(q.norm(dim=1, keepdim=True))
            q, x = q / norm, x / norm
            share = _dot(q, r)
            r, update = r - share * q, update + share * x
            known.append((q, x))
            z = q
        return update.to(dtype)


@SOLVERS.register("cg")
@dataclass(frozen=True)
class CG(Solver):
    """Conjugate gradient iterations, for symmetric positive matrices: one product each.

    Parameters
    ----------
    iterations : int
        Number of iterations.
    """

    iterations: int = option(2, least=1, most=MOST_REPEATS)

    def bind(self, observation):  # noqa: D102
        return partial(self._update, observation)

    def _update(self, observation, covariance, r):
        dtype, r = r.dtype, r.double()
        z, update, power = r, 0.0, _dot(r, r)
        for _ in range(self.iterations):
            q, x = _product(observation, covariance, z, dtype)
            step = power / _nonzero(_dot(z, q))
            r, update = r - step * q, update + step * x
            before, power = power, _dot(r, r)
            z = r + power / _nonzero(before) * z
        return update.to(dtype)


@SOLVERS.register("dense")
@dataclass(frozen=True)
class Dense(Solver):
    r"""The exact solution, from the matrix itself: ``M`` products, all at once.

    It holds :math:`\tilde A` and :math:`V \tilde A^T`, ``2 M D`` numbers for each observation.
    """

    def bind(self, observation):  # noqa: D102
        y = observation.y
        identity = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        rows = torch.stack([observation.adjoint(row.expand_as(y)) for row in identity])
        design = rows.transpose(0, 1).contiguous()

        def update(covariance, r):
            products = covariance(rows).transpose(0, 1)
            matrix = identity + design @ products.mT
            # No check for singular matrices: one spoils the chain that it belongs to, no other.
            z, _ = torch.linalg.solve_ex(matrix, r)
            return (z[:, None] @ products)[:, 0]

        return update


def _product(observation, covariance, z: Tensor, dtype) -> tuple[Tensor, Tensor]:
    r""":math:`M z`, and :math:`V \tilde A^T z` on the way, with products in their own precision."""
    x = covariance(observation.adjoint(z.to(dtype))[None])[0]
    return z + observation.forward(x), x.double()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=1, keepdim=True)


def _nonzero(x: Tensor) -> Tensor:
    """The divisor, or 1 where it is zero: there nothing is left to divide."""
    return torch.where(x == 0, 1.0, x)
