import numpy as np
import scipy.optimize

from astro_ddprism.mixing.stationary import nearest_autocorrelation

# What a short stretch of noise may show: no power, and less, at the highest frequencies.
MEASURED = np.array([[0.02, 0.18, 0.03], [0.3, 0.62, 0.28], [0.55, 1.0, 0.55], [0.28, 0.62, 0.3]])
MEASURED = np.concatenate([MEASURED, MEASURED[:1, ::-1]])


def eigenvalues(patch, ny, nx):
    """Those of the dense covariance of an image."""
    y, x = np.mgrid[:ny, :nx].reshape(2, -1)
    ky, kx = patch.shape
    dy, dx = y[:, None] - y + ky // 2, x[:, None] - x + kx // 2
    near = (dy >= 0) & (dy < ky) & (dx >= 0) & (dx < kx)
    return np.linalg.eigvalsh(np.where(near, patch[dy.clip(0, ky - 1), dx.clip(0, kx - 1)], 0))


def test_positive_definite():
    for shape in ((20, 16), (7, 30), (3, 3)):
        assert eigenvalues(MEASURED, *shape)[0] < 0
        for floor in (0.3, 0.01, 1e-3):
            found = nearest_autocorrelation(MEASURED, shape, floor)
            assert eigenvalues(found, *shape)[0] > floor - 2e-6
            assert found[2, 1] == 1
            np.testing.assert_allclose(found, found[::-1, ::-1], rtol=0, atol=1e-14)


def test_nearest():
    """Of all autocorrelations of five lags, by a general-purpose optimizer."""
    measured, floor, n = np.array([0.8, 0.2]), 0.05, 30
    k = 2 * np.pi * np.arange(n // 2 + 2) / 32  # the periodic image has 32 pixels
    design = 2 * np.stack([np.cos(k), np.cos(2 * k)], axis=1)
    best = scipy.optimize.minimize(
        lambda c: ((c - measured) ** 2).sum(),
        [0, 0],
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda c: 1 + design @ c - floor},
        options={"ftol": 1e-14},
    ).x
    patch = np.array([[*measured[::-1], 1, *measured]])
    found = nearest_autocorrelation(patch, (1, n), floor)
    assert np.abs(best - measured).max() > 0.05
    np.testing.assert_allclose(found, [[*best[::-1], 1, *best]], rtol=0, atol=2e-4)


def test_what_is_positive_stays():
    patch = np.outer([0.2, 1, 0.2], [0.3, 1, 0.3])
    both = np.stack([patch, np.outer([0.6, 1, 0.6], [0.6, 1, 0.6])])
    assert nearest_autocorrelation(patch, (8, 9), 0.01) is patch
    found = nearest_autocorrelation(both, (8, 9), 0.01)
    assert np.array_equal(found[0], both[0])
    assert not np.array_equal(found[1], both[1])
    # Once more, as after storage in single precision, changes nothing.
    stored = found.astype(np.float32).astype(float)
    assert nearest_autocorrelation(stored, (8, 9), 0.01) is stored
