"""Block factors against dense ones; a Cholesky factor is unique."""

import numpy as np
import pytest
import scipy.linalg
import torch

from astro_ddprism.mixing.cholesky import BlockCholesky, SharedFactors


def problem(ny, nx, ky, kx, n=3, seed=0):
    """Positive autocorrelations, masks, and dense Cholesky factors."""
    rng = np.random.default_rng(seed)
    patches = rng.uniform(-1, 1, (n, ky, kx)) / (ky * kx)
    patches = patches + patches[:, ::-1, ::-1]
    patches[:, ky // 2, kx // 2] = 2
    valid = rng.random((n, ny, nx)) < 0.8
    y, x = np.mgrid[:ny, :nx].reshape(2, -1)
    dy, dx = y[:, None] - y + ky // 2, x[:, None] - x + kx // 2
    near = (dy >= 0) & (dy < ky) & (dx >= 0) & (dx < kx)
    covariances = np.where(near, patches[:, dy.clip(0, ky - 1), dx.clip(0, kx - 1)], 0)
    flat = valid.reshape(n, -1)
    covariances = np.where(flat[:, :, None] & flat[:, None, :], covariances, np.eye(ny * nx))
    return torch.as_tensor(patches), torch.as_tensor(valid), np.linalg.cholesky(covariances)


@pytest.mark.parametrize(
    ("ny", "nx", "ky", "kx"),
    [
        (6, 5, 3, 3),
        (7, 4, 5, 3),
        (8, 5, 7, 1),
        (5, 6, 1, 5),
        (3, 4, 9, 9),
        (1, 6, 3, 3),
        (4, 4, 1, 1),
    ],
)
def test_against_dense_factors(normal, ny, nx, ky, kx):
    """Ranges that divide the rows or do not, that exceed the image, along one axis only."""
    patches, valid, L = problem(ny, nx, ky, kx)
    factors = BlockCholesky.of_images(patches, valid, torch.float64)
    vectors = normal(3, 2, ny * nx)
    for operation, trans in ((factors.solve, "N"), (factors.solve_adjoint, "T")):
        expected = [
            scipy.linalg.solve_triangular(one, v.T, trans=trans, lower=True).T
            for one, v in zip(L, vectors.numpy(), strict=True)
        ]
        np.testing.assert_allclose(operation(vectors), expected, rtol=0, atol=1e-12)
    expected = vectors.numpy() @ L.swapaxes(1, 2)
    np.testing.assert_allclose(factors.multiply(vectors), expected, rtol=0, atol=1e-12)


def test_memory():
    """Two blocks for each row of blocks: nothing is dense."""
    patches, valid, _ = problem(12, 5, 5, 3)
    factors = BlockCholesky.of_images(patches, valid, torch.float32)
    assert factors.inverse.shape == factors.coupling.shape == (3, 6, 10, 10)
    assert factors.inverse.dtype == factors.coupling.dtype == torch.float32
    assert len(factors) == 3


@pytest.mark.parametrize(
    "rows", [[0, 1, 2], [2, 2, 0, 1, 0, 2, 2, 2, 0], [1], 7 * [1] + [0], [0, 1] * 4]
)
def test_shared_factors(normal, rows):
    patches, valid, L = problem(4, 3, 3, 3)
    shared = SharedFactors(
        BlockCholesky.of_images(patches, valid, torch.float64), torch.tensor(rows)
    )
    assert len(shared.factors) == len(set(rows))
    vectors = normal(len(rows), 12)
    expected = np.einsum("ipq,iq->ip", L[rows], vectors)
    np.testing.assert_allclose(shared.multiply(vectors), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(shared.solve(shared.multiply(vectors)), vectors)
    expected = np.einsum("iqp,iq->ip", np.linalg.inv(L)[rows], vectors)
    np.testing.assert_allclose(shared.solve_adjoint(vectors), expected, rtol=0, atol=1e-12)
    chosen = torch.tensor([len(rows) - 1, 0, 0])
    some = shared[chosen]
    assert len(some.factors) == len({rows[i] for i in chosen})
    torch.testing.assert_close(some.solve(vectors[chosen]), shared.solve(vectors)[chosen])


def test_at_most_half_of_the_work_is_in_vain():
    patches, valid, _ = problem(4, 3, 3, 3, n=9)
    rows = torch.arange(9).repeat_interleave(torch.arange(1, 10))
    shared = SharedFactors(BlockCholesky.of_images(patches, valid, torch.float64), rows)
    slots = [images.shape for _, images in shared._batches]
    assert slots == [(1, 1), (1, 2), (2, 4), (4, 8), (1, 16)]
    assert sum(n * width for n, width in slots) < 2 * len(rows)
