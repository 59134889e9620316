"""Solvers against numpy's dense solution."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import gmres as scipy_gmres

from astro_ddprism.diffusion.solvers import CG, GMRES, SOLVERS, Dense


def system(seed, size=8, batch=5, symmetric=True, dtype=torch.float64):
    """Matrices I + V with V positive, or I + V with V neither symmetric nor positive."""
    rng = np.random.default_rng(seed)
    V = rng.normal(size=(batch, size, size))
    M = np.eye(size) + (V @ V.swapaxes(1, 2) if symmetric else V)
    r = rng.normal(size=(batch, size))
    tensor = torch.tensor(M, dtype=dtype)
    return M, r, lambda z: (tensor @ z[..., None])[..., 0], torch.tensor(r, dtype=dtype)


@pytest.mark.parametrize("solver", [Dense(), GMRES(8), CG(16)], ids=["dense", "gmres", "cg"])
def test_symmetric(solver):
    M, r, matrix, rhs = system(0)
    expected = np.linalg.solve(M, r[..., None])[..., 0]
    np.testing.assert_allclose(solver(matrix, rhs), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", [Dense(), GMRES(8)], ids=["dense", "gmres"])
def test_neither_symmetric_nor_positive(solver):
    M, r, matrix, rhs = system(1, symmetric=False)
    expected = np.linalg.solve(M, r[..., None])[..., 0]
    np.testing.assert_allclose(solver(matrix, rhs), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_gmres_minimizes_the_residual(iterations):
    """After k products the residual is that of scipy's GMRES, whatever the matrix."""
    M, r, matrix, rhs = system(2, symmetric=False)
    found = GMRES(iterations)(matrix, rhs).numpy()
    for A, b, z in zip(M, r, found, strict=True):
        expected, _ = scipy_gmres(A, b, rtol=0, restart=iterations, maxiter=1)
        np.testing.assert_allclose(z, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("solver", "products"), [(GMRES(3), 3), (CG(3), 3), (Dense(), 8)])
def test_number_of_products(solver, products):
    _, _, matrix, rhs = system(3)
    calls = []

    def counted(z):
        calls.append(z)
        return matrix(z)

    solver(counted, rhs)
    assert len(calls) == products


@pytest.mark.parametrize("name", SOLVERS)
def test_more_iterations_than_unknowns(name):
    M, r, matrix, rhs = system(4, size=2)
    expected = np.linalg.solve(M, r[..., None])[..., 0]
    found = SOLVERS[name](6)(matrix, rhs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_observation_without_information(name):
    """All pixels masked: M is the identity and r is zero, and so is the solution."""
    zero = torch.zeros(3, 4)
    assert torch.equal(SOLVERS[name](3)(lambda z: z, zero), zero)


@pytest.mark.parametrize("name", SOLVERS)
def test_identity(name):
    """The Krylov space of the identity has one dimension; further iterations change nothing."""
    r = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(SOLVERS[name](3)(lambda z: z, r), r)


@pytest.mark.parametrize("name", SOLVERS)
def test_precision_is_kept(name):
    M, r, matrix, rhs = system(6, dtype=torch.float32)
    found = SOLVERS[name](8)(matrix, rhs)
    assert found.dtype == torch.float32
    residual = (M @ found.double().numpy()[..., None])[..., 0] - r
    assert np.abs(residual).max() < 1e-3
