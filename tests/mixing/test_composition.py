import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import (
    Amplitude,
    Composition,
    Convolution,
    DenseMatrix,
    Identity,
    Interpolation,
    Mask,
)


def test_from_right_to_left(normal, check_adjoint, check_selection):
    A, B, a = normal(5, 3, 4), normal(4, 6), normal(5)
    operator = Composition(Amplitude(a, (3,)), DenseMatrix(A), DenseMatrix(B))
    product = a[:, None, None] * A @ B
    x = normal(5, 6)
    torch.testing.assert_close(operator(x), (product @ x[..., None])[..., 0])
    assert (operator.source_shape, operator.observation_shape) == ((6,), (3,))
    check_adjoint(operator)
    check_selection(operator)


def test_shared(normal, check_adjoint):
    operator = Composition(Identity((2, 3)), Mask(normal(2, 3) > 0))
    assert operator.n_observations is None
    assert operator[[0, 1]] is operator
    check_adjoint(operator)


def test_order_matters(normal):
    """A mask before the PSF is light that is blocked; behind it, a pixel that is not read."""
    shape = (1, 5, 5)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[0, 2, 2] = True
    blur, block = Convolution(torch.ones(3, 3), shape), Mask(mask)
    x = torch.zeros(1, *shape)
    x[0, 0, 2, 2] = 1
    assert Composition(blur, block)(x).abs().sum() == 0
    assert Composition(block, blur)(x).sum() == pytest.approx(8, abs=1e-5)


@pytest.mark.parametrize(
    ("operators", "before_psf", "own_pixels"),
    [
        ([Amplitude(2.0, (1, 5, 5)), Identity((1, 5, 5))], False, False),
        ([Amplitude(2.0, (1, 5, 5)), Convolution(np.ones((3, 3)), (1, 5, 5))], True, False),
        ([Interpolation(np.zeros((2, 2, 2, 2)), (1, 4, 4), (1, 5, 5))], False, True),
    ],
)
def test_what_a_source_is(operators, before_psf, own_pixels):
    """As any of the operators says, also inside of another composition."""
    for operator in (Composition(*operators), Composition(Composition(*operators))):
        assert (operator.before_psf, operator.own_pixels) == (before_psf, own_pixels)


def test_bad_compositions():
    with pytest.raises(InputError, match="found no operators"):
        Composition()
    with pytest.raises(InputError, match="cannot follow"):
        Composition(Identity((2,)), Identity((3,)))
    with pytest.raises(InputError, match="of 2 and 3 observations"):
        Composition(Amplitude([1.0, 2.0], (4,)), Amplitude([1.0, 2.0, 3.0], (4,)))
