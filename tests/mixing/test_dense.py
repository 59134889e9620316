import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import DenseMatrix


def test_shared(check_adjoint):
    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(3, 5)), rng.normal(size=(7, 5))
    operator = DenseMatrix(A, dtype=torch.float64)
    np.testing.assert_allclose(operator(torch.tensor(x)), x @ A.T, rtol=0, atol=1e-14)
    assert (operator.source_shape, operator.observation_shape) == ((5,), (3,))
    check_adjoint(operator)


def test_per_observation_and_shaped(check_adjoint, check_selection):
    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(5, 6, 8)), rng.normal(size=(5, 2, 4))
    operator = DenseMatrix(A, source_shape=(2, 4), observation_shape=(1, 2, 3), dtype=torch.float64)
    expected = [(a @ v.ravel()).reshape(1, 2, 3) for a, v in zip(A, x, strict=True)]
    np.testing.assert_allclose(operator(torch.tensor(x)), expected, rtol=0, atol=1e-14)
    check_adjoint(operator)
    check_selection(operator)


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (np.ones(3), {}, r"found shape \(3,\), expected \(m, n\)"),
        (np.ones((1, 2, 3, 4)), {}, "found shape"),
        (np.full((2, 2), np.inf), {}, "not finite"),
        (np.ones((2, 3)), {"source_shape": (2,)}, "found 2 x 3 elements"),
        (np.ones((2, 3)), {"observation_shape": (3,)}, "found 2 x 3 elements"),
    ],
)
def test_bad_matrices(matrix, options, message):
    with pytest.raises(InputError, match="matrix: .*" + message):
        DenseMatrix(matrix, **options)
