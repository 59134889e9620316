import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import DiagonalNoise

BAD = [0.0, -1.0, np.nan, np.inf, -np.inf]


@pytest.fixture
def noise():
    variance = np.full((3, 7), 4.0)
    variance[0, :5] = BAD
    mask = np.zeros((3, 7), bool)
    mask[1, 0] = True
    return DiagonalNoise(variance, mask, dtype=torch.float64)


def test_pixels_without_information(noise):
    assert noise.n_valid.tolist() == [2, 6, 7]
    assert (noise.n_observations, noise.shape) == (3, (7,))
    r = torch.full((3, 7), 6.0, dtype=torch.float64)
    r[0, :5] = torch.tensor([np.nan, np.inf, -np.inf, 1e300, 1.0])
    r[1, 0] = torch.nan
    for operation, expected in ((noise.whiten, 3.0), (noise.colour, 12.0)):
        result = operation(r)
        assert (result[~noise.valid] == 0).all()
        assert (result[noise.valid] == expected).all()


def test_whiten_undoes_colour(noise, normal):
    z = normal(3, 7)
    torch.testing.assert_close(noise.whiten(noise.colour(z)), torch.where(noise.valid, z, 0.0))


def test_gradient_at_bad_pixels_is_zero(noise):
    r = torch.full((3, 7), torch.nan, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(noise.whiten(r).sum(), r)
    assert torch.equal(gradient, noise.weight)


def test_selection_and_precision(noise):
    some = noise[[2, 0, 0]].to(dtype=torch.float32)
    assert some.n_valid.tolist() == [7, 2, 2]
    assert some.std.dtype == some.weight.dtype == torch.float32
    assert some.valid.dtype == torch.bool
    assert noise[1:].n_observations == 2
    assert repr(some) == "<DiagonalNoise (7,), 3 observations>"


def test_coloured_noise_has_the_variance():
    variance = torch.tensor([0.25, 9.0]).expand(100_000, 2)
    z = torch.randn(variance.shape, generator=torch.Generator().manual_seed(3))
    # The standard error of a variance is sqrt(2 / n) of it: 0.45 %.
    torch.testing.assert_close(
        DiagonalNoise(variance).colour(z).var(0), variance[0], rtol=0.02, atol=0
    )


def test_mask_of_another_shape():
    with pytest.raises(InputError, match=r"mask: found shape \(2,\), expected .* \(3, 2\)"):
        DiagonalNoise(np.ones((3, 2)), np.zeros(2, bool))
