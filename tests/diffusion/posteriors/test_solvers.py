"""Solvers against numpy's dense solution."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import gmres as scipy_gmres

from astro_ddprism.diffusion.posteriors.solvers import CG, GMRES, SOLVERS, Dense


def solver_of(name, iterations):
    """A solver by name; an exact one has no iterations."""
    kind = SOLVERS[name]
    return kind() if kind is Dense else kind(iterations)


class System:
    """Observations of ``size`` numbers of ``size + 2`` unknowns, V positive or not even symmetric.

    Attributes
    ----------
    M : ndarray, shape (batch, size, size)
        I + A V A^T.
    cross : ndarray, shape (batch, size + 2, size)
        V A^T.
    products : list of int
        Sizes of the stacks of vectors that were multiplied by V.
    """

    def __init__(self, seed, size=8, batch=5, symmetric=True, dtype=torch.float64):
        rng = np.random.default_rng(seed)
        A = rng.normal(size=(batch, size, size + 2)) / np.sqrt(size)
        V = rng.normal(size=(batch, size + 2, size + 2))
        if symmetric:
            V = V @ V.swapaxes(1, 2)
        self.r = rng.normal(size=(batch, size))
        self.cross = V @ A.swapaxes(1, 2)
        self.M = np.eye(size) + A @ self.cross
        A, V, self.y = (torch.tensor(array, dtype=dtype) for array in (A, V, self.r))
        self.forward = lambda x: (A @ x[..., None])[..., 0]
        self.adjoint = lambda z: (A.mT @ z[..., None])[..., 0]
        self._V, self.products = V, []

    def exact(self):
        return (self.cross @ np.linalg.solve(self.M, self.r[..., None]))[..., 0]

    def covariance(self, v):
        self.products.append(len(v))
        return (self._V @ v[..., None])[..., 0]

    def solve(self, solver):
        return solver.bind(self)(self.covariance, self.y)


@pytest.mark.parametrize("solver", [Dense(), GMRES(8), CG(16)], ids=["dense", "gmres", "cg"])
def test_symmetric(solver):
    system = System(0)
    np.testing.assert_allclose(system.solve(solver), system.exact(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", [Dense(), GMRES(8)], ids=["dense", "gmres"])
def test_neither_symmetric_nor_positive(solver):
    system = System(1, symmetric=False)
    np.testing.assert_allclose(system.solve(solver), system.exact(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_gmres_minimizes_the_residual(iterations):
    """After k products the residual is that of scipy's GMRES, whatever the matrix."""
    system = System(2, symmetric=False)
    found = system.solve(GMRES(iterations)).numpy()
    for M, cross, r, update in zip(system.M, system.cross, system.r, found, strict=True):
        z, _ = scipy_gmres(M, r, rtol=0, restart=iterations, maxiter=1)
        np.testing.assert_allclose(update, cross @ z, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("solver", "products"), [(GMRES(3), [1, 1, 1]), (CG(3), [1, 1, 1]), (Dense(), [8])]
)
def test_number_of_products(solver, products):
    """The update takes no product beyond those of the solve; `Dense` asks for all at once."""
    system = System(3)
    system.solve(solver)
    assert system.products == products


@pytest.mark.parametrize("name", SOLVERS.names())
def test_more_iterations_than_unknowns(name):
    system = System(4, size=2)
    np.testing.assert_allclose(system.solve(solver_of(name, 6)), system.exact(), rtol=0, atol=1e-8)


class Itself:
    """Observations of the unknowns themselves, times a factor each."""

    def __init__(self, y, factor=1.0):
        self.y = y
        self.forward = self.adjoint = lambda x: factor * x


@pytest.mark.parametrize("name", SOLVERS.names())
def test_observation_without_information(name):
    """All pixels masked: A and r are zero, and so is the update."""
    zero = torch.zeros(3, 4)
    update = solver_of(name, 3).bind(Itself(zero, 0.0))
    assert torch.equal(update(torch.ones_like, zero), zero)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_identity(name):
    """The Krylov space of twice the identity has one dimension; more iterations change nothing."""
    r = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(solver_of(name, 3).bind(Itself(r))(lambda v: v, r), r / 2)


@pytest.mark.parametrize("name", SOLVERS.names())
def test_precision_is_kept(name):
    system = System(6, dtype=torch.float32)
    found = system.solve(solver_of(name, 16))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, system.exact(), rtol=0, atol=2e-3)


def test_singular_matrix_spoils_no_other():
    """A learned Jacobian may make the matrix of one chain singular: the others go on."""
    r = torch.ones(3, 2)
    scale = torch.tensor([1.0, -1.0, 3.0])[:, None]
    update = Dense().bind(Itself(r))(lambda v: scale * v, r)
    assert not torch.isfinite(update[1]).all()
    torch.testing.assert_close(update[[0, 2]], torch.tensor([[0.5, 0.5], [0.75, 0.75]]))
