import itertools

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Convolution

IMAGES = [(7, 7), (8, 8), (7, 10), (12, 5), (1, 9), (3, 3)]
KERNELS = [(1, 1), (3, 3), (5, 7), (9, 1), (15, 13)]  # the last is larger than every image


@pytest.mark.parametrize(("image", "kernel"), list(itertools.product(IMAGES, KERNELS)))
def test_against_brute_force(image, kernel, check_adjoint):
    rng = np.random.default_rng(1)
    n, bands = 3, 2
    x, k = rng.normal(size=(n, bands, *image)), rng.normal(size=(n, bands, *kernel))
    operator = Convolution(k, (bands, *image), dtype=torch.float64)
    # Cut out of "full" by hand: scipy's "same" is another thing where the kernel is larger.
    cut = tuple(slice(m // 2, m // 2 + n) for n, m in zip(image, kernel, strict=True))
    expected = [
        [convolve2d(a, b)[cut] for a, b in zip(*pair, strict=True)]
        for pair in zip(x, k, strict=True)
    ]
    np.testing.assert_allclose(operator(torch.tensor(x)), expected, rtol=0, atol=1e-12)
    check_adjoint(operator)


@pytest.mark.parametrize("kernel", [(3, 5), (2, 3, 5), (1, 3, 5), (4, 2, 3, 5), (4, 1, 3, 5)])
def test_kernel_shapes(kernel, check_adjoint, check_selection):
    rng = np.random.default_rng(2)
    n, shape = 4, (2, 8, 9)
    k, x = rng.normal(size=kernel), rng.normal(size=(n, *shape))
    operator = Convolution(k, shape, dtype=torch.float64)
    assert operator.n_observations == (n if len(kernel) == 4 else None)
    full = np.broadcast_to(k, (n, 2, 3, 5))
    expected = [[convolve2d(x[i, b], full[i, b], mode="same") for b in range(2)] for i in range(n)]
    np.testing.assert_allclose(operator(torch.tensor(x)), expected, rtol=0, atol=1e-12)
    check_adjoint(operator)


def test_images_without_bands(check_adjoint):
    rng = np.random.default_rng(3)
    k, x = rng.normal(size=(4, 3, 3)), rng.normal(size=(4, 6, 7))
    operator = Convolution(k, (6, 7), dtype=torch.float64)
    assert operator.n_observations == 4
    expected = [convolve2d(a, b, mode="same") for a, b in zip(x, k, strict=True)]
    np.testing.assert_allclose(operator(torch.tensor(x)), expected, rtol=0, atol=1e-12)
    check_adjoint(operator)


@pytest.mark.parametrize("n", [16, 17, 30, 32, 45])
def test_nothing_wraps_around(n):
    """Light in one corner stays there: not even rounding errors of other sides hold any."""
    kernel = np.ones((9, 9))
    operator = Convolution(kernel, (1, n, n), dtype=torch.float64)
    x = torch.zeros(1, 1, n, n, dtype=torch.float64)
    x[..., 0, 0] = 1
    y = operator(x)[0, 0]
    assert torch.allclose(y[:5, :5], torch.ones(5, 5, dtype=torch.float64), atol=1e-14)
    y[:5, :5] = 0
    assert y.abs().max() < 1e-14


def test_point_source_shows_the_kernel_upright():
    kernel = np.arange(15.0).reshape(3, 5)
    x = torch.zeros(1, 1, 7, 9)
    x[0, 0, 3, 4] = 1
    y = Convolution(kernel, (1, 7, 9))(x)
    np.testing.assert_allclose(y[0, 0, 2:5, 2:7], kernel, atol=1e-5)


def test_transform_follows_the_selection(normal):
    operator = Convolution(normal(3, 1, 3, 3), (1, 6, 6))
    x = normal(3, 1, 6, 6)
    y = operator(x)  # the transform of all three is known from here on
    torch.testing.assert_close(operator[[2]](x[[2]]), y[[2]])
    assert operator.to(dtype=torch.float32)(x.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((4, 3)), "found 4 x 3 pixels, expected odd sizes"),
        (np.ones((3, 2)), "found 3 x 2 pixels, expected odd sizes"),
        (np.full((3, 3), np.nan), "not finite"),
        (np.ones(3), r"found shape \(3,\), expected \(ky, kx\)"),
        (np.ones((3, 3, 3)), r"found shape \(3, 3, 3\), expected"),
        (np.ones((5, 3, 3, 3)), r"found shape \(5, 3, 3, 3\), expected"),
        (np.ones((1, 5, 2, 3, 3)), "expected"),
    ],
)
def test_bad_kernels(kernel, message):
    with pytest.raises(InputError, match="kernel: .*" + message):
        Convolution(kernel, (2, 8, 8))


@pytest.mark.parametrize("shape", [(8,), (1, 2, 8, 8)])
def test_bad_shape(shape):
    with pytest.raises(InputError, match="shape: found"):
        Convolution(np.ones((3, 3)), shape)
