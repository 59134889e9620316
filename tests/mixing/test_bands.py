import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Bands, Composition, Convolution, operator_from_state


def test_weighted_sums(normal, check_adjoint):
    weights, x = normal(2, 3), normal(4, 3, 5, 6)
    operator = Bands(weights, (3, 5, 6))
    expected = np.einsum("ob,ibyx->ioyx", weights, x)
    np.testing.assert_allclose(operator(x), expected, rtol=0, atol=1e-14)
    assert operator.observation_shape == (2, 5, 6)
    assert operator.n_observations is None
    check_adjoint(operator)


def test_weights_of_each_observation(normal, check_adjoint, check_selection):
    weights, x = normal(5, 2, 3), normal(5, 3, 4, 6)
    operator = Bands(weights, (3, 4, 6))
    expected = np.einsum("iob,ibyx->ioyx", weights, x)
    np.testing.assert_allclose(operator(x), expected, rtol=0, atol=1e-14)
    assert operator.n_observations == 5
    check_adjoint(operator)
    check_selection(operator)


def test_a_subset_of_the_bands(normal):
    x = normal(2, 4, 3, 3)
    operator = Bands(np.eye(4)[[3, 1]], (4, 3, 3), dtype=torch.float64)
    assert torch.equal(operator(x), x[:, [3, 1]])


def test_bands_and_convolution_change_places(normal, check_adjoint):
    psf, weights = normal(3, 3), normal(1, 3)
    after = Composition(Bands(weights, (3, 6, 5)), Convolution(psf, (3, 6, 5)))
    before = Composition(Convolution(psf, (1, 6, 5)), Bands(weights, (3, 6, 5)))
    x = normal(2, 3, 6, 5)
    torch.testing.assert_close(after(x), before(x), rtol=0, atol=1e-13)
    check_adjoint(after)


@pytest.mark.parametrize("shape", [(1, 3), (2, 1, 3)])
def test_state_and_gradient(normal, shape):
    operator = Bands(normal(*shape), (3, 2, 2))
    x = normal(2, 3, 2, 2).requires_grad_()
    again = operator_from_state(operator.state())
    assert repr(again) == repr(operator)
    assert torch.equal(again(x), operator(x))
    y = normal(2, 1, 2, 2)
    (gradient,) = torch.autograd.grad((operator(x) * y).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(y), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("weights", "shape", "message"),
    [
        (np.ones(3), (3, 2, 2), r"weights: found shape \(3,\), expected \(out_bands, in_bands\)"),
        (np.ones((1, 2)), (3, 2, 2), r"weights: found shape \(1, 2\), .* in_bands = 3"),
        (np.ones((0, 3)), (3, 2, 2), r"weights: found shape \(0, 3\)"),
        (np.ones((1, 1, 1, 3)), (3, 2, 2), "weights: found shape"),
        ([[1, np.nan, 0]], (3, 2, 2), "weights: found values that are not finite"),
        (np.ones((1, 3)), (3,), r"shape: found \(3,\), expected \(in_bands, ny, nx\)"),
    ],
)
def test_bad_weights(weights, shape, message):
    with pytest.raises(InputError, match=message):
        Bands(weights, shape)
