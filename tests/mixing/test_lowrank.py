import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import DiagonalNoise, LowRankNoise

SHAPE = (1, 3, 4)


@pytest.fixture
def pixels():
    return DiagonalNoise(torch.full((2, *SHAPE), 2.0, dtype=torch.float64))


def test_parallel_and_vanishing_patterns(pixels, normal):
    """Where the patterns' matrix has no inverse."""
    u = normal(*SHAPE)
    once = LowRankNoise(pixels, 5**0.5 * u[None])
    redundant = LowRankNoise(pixels, torch.stack([u, 2 * u, 0 * u]))
    r = normal(2, *SHAPE)
    for name in ("whiten", "whiten_adjoint", "colour"):
        torch.testing.assert_close(
            getattr(redundant, name)(r), getattr(once, name)(r), rtol=0, atol=1e-12
        )


def test_patterns_below_the_mask(pixels, normal):
    """A pattern that no valid pixel shows is no noise, whatever it holds."""
    mask = torch.zeros(2, *SHAPE, dtype=torch.bool)
    mask[:, 0, 0, :2] = True
    patterns = torch.where(mask, torch.nan, 0.0)[:, None]
    noise = LowRankNoise(pixels.masked(mask), patterns)
    r = normal(2, *SHAPE)
    torch.testing.assert_close(noise.whiten(r), pixels.masked(mask).whiten(r))
    assert torch.equal(noise.variance, pixels.masked(mask).variance)


def test_a_strong_pattern_is_projected_out_in_single_precision(pixels, normal):
    noise = LowRankNoise(pixels, 1e4 * torch.ones(1, *SHAPE)).to(dtype=torch.float32)
    r = normal(2, *SHAPE).float()
    flat = torch.full_like(r, 1e4)
    expected = (r - r.flatten(1).mean(1).reshape(2, 1, 1, 1)) / 2**0.5
    torch.testing.assert_close(noise.whiten(r), expected, rtol=0, atol=1e-3)
    # One standard deviation of the pattern is one unit.
    torch.testing.assert_close(
        noise.whiten(flat).flatten(1).norm(dim=1), torch.ones(2), rtol=1e-2, atol=0
    )


def test_draws_have_the_patterns_covariance():
    pixels = DiagonalNoise(torch.ones(100_000, 1, 1, 2))
    noise = LowRankNoise(pixels, [[[[2.0, 1.0]]]])
    z = torch.randn(100_000, 1, 1, 2, generator=torch.Generator().manual_seed(4))
    covariance = torch.cov(noise.colour(z).flatten(1).T)
    # The standard error of a variance is sqrt(2 / n) of it: 0.45 %.
    torch.testing.assert_close(
        covariance, torch.tensor([[5.0, 2.0], [2.0, 2.0]]), rtol=0, atol=0.07
    )


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (np.ones(SHAPE), r"found shape \(1, 3, 4\), expected \(R, 1, 3, 4\) or \(2, R, 1, 3, 4\)"),
        (np.ones((3, 1, *SHAPE)), "found shape"),
        (np.ones((1, 1, 3, 5)), "found shape"),
        (np.ones((0, *SHAPE)), "found shape"),
        (np.full((1, *SHAPE), np.nan), ".*not finite"),
    ],
)
def test_bad_patterns(pixels, patterns, message):
    with pytest.raises(InputError, match="patterns: " + message):
        LowRankNoise(pixels, patterns)
