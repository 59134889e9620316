"""Photon noise of the sources against its closed form."""

import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import (
    CorrelatedNoise,
    DiagonalNoise,
    LowRankNoise,
    PhotonNoise,
    noise_from_state,
)

SHAPE = (2, 3, 4)
N = 3


@pytest.fixture
def background(normal):
    return DiagonalNoise(1 + normal(N, *SHAPE).square())


@pytest.fixture
def signal(normal):
    return 5 * normal(N, *SHAPE)


def dense(noise):
    """Covariance matrices, from what whitens."""
    size = int(np.prod(noise.shape))
    columns = [
        noise.colour(e.reshape(noise.shape).expand(N, *noise.shape)).flatten(1)
        for e in torch.eye(size, dtype=torch.float64)
    ]
    L = torch.stack(columns, dim=-1)
    return L @ L.mT


@pytest.mark.parametrize("shape", [(), (2, 1, 1), SHAPE, (N, 1, 1, 1), (N, *SHAPE)])
def test_variance_at_a_signal(background, signal, normal, shape):
    gain = normal(1, *shape)[0].abs() + 0.1
    noise = PhotonNoise(background, gain)
    expected = background.variance + signal.clip(min=0) / gain
    torch.testing.assert_close(noise.at(signal).variance, expected, rtol=1e-14, atol=0)
    # In the dark it is the background, bit for bit; nor does one signal add to another.
    r = signal + 1
    assert torch.equal(noise.whiten(r), background.whiten(r))
    assert torch.equal(noise.at(signal).at(2 * signal).variance, noise.at(signal).variance)
    assert noise.depends_on_signal
    assert not noise.at(signal).depends_on_signal


def test_patterns_stay_what_they_are(background, signal, normal):
    patterns = normal(2, *SHAPE)
    found = dense(PhotonNoise(LowRankNoise(background, patterns), 0.3).at(signal))
    U = patterns.flatten(1)
    variance = (background.variance + signal.clip(min=0) / 0.3).flatten(1)
    expected = torch.diag_embed(variance) + U.mT @ U
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_resampled_photons_are_correlated_like_the_rest(background, signal):
    noise = CorrelatedNoise(background.variance, [[0.4, 1.0, 0.4]])
    before = dense(noise)
    std = background.std.flatten(1)
    correlation = before / (std[:, :, None] * std[:, None, :])
    std = (background.variance + signal.clip(min=0) / 0.3).sqrt().flatten(1)
    found = dense(PhotonNoise(noise, 0.3).at(signal))
    expected = std[:, :, None] * correlation * std[:, None, :]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    # Factors are of the correlation alone: a new signal does not cost new ones.
    assert PhotonNoise(noise, 0.3).at(signal).factors is noise.factors


def test_simulated_noise_has_the_variance_of_counts():
    """Draws of the noise at a signal, and counted photons, against sigma^2 + s / g."""
    n, gain = 100_000, 4.0
    signal = torch.tensor([50.0, 10.0, 0.0, -5.0]).expand(n, -1)
    noise = PhotonNoise(DiagonalNoise(torch.full((n, 4), 2.0)), gain)
    expected = torch.tensor([14.5, 4.5, 2.0, 2.0])
    rng = torch.Generator().manual_seed(0)
    drawn = noise.at(signal).colour(torch.randn(n, 4, generator=rng))
    counts = torch.poisson(gain * signal.clip(min=0), generator=rng) / gain
    counted = counts + 2**0.5 * torch.randn(n, 4, generator=rng)
    # The standard error of a variance is sqrt(2 / n) of it: 0.45 %.
    torch.testing.assert_close(drawn.var(0), expected, rtol=0.02, atol=0)
    torch.testing.assert_close(counted.var(0), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("shape", [(), (N, *SHAPE)])
def test_units_of_flux(background, signal, normal, shape):
    """Noise of light ten times as bright has a hundred times the variance."""
    noise = PhotonNoise(background, normal(1, *shape)[0].abs() + 0.1)
    scaled = noise.rescaled(10.0).at(10 * signal)
    torch.testing.assert_close(scaled.variance, 100 * noise.at(signal).variance)


@pytest.mark.parametrize("shape", [(), SHAPE, (N, *SHAPE)])
@pytest.mark.parametrize("index", [[2, 0, 0, 1], slice(None, None, -1), 1])
def test_selection(background, signal, normal, shape, index):
    noise = PhotonNoise(background, normal(1, *shape)[0].abs() + 0.1)
    rows = np.atleast_1d(np.arange(N)[index]).tolist()
    found = noise[index].at(signal[rows]).variance
    assert torch.equal(found, noise.at(signal).variance[rows])


def test_masked_pixels_need_no_gain(background, signal):
    mask = torch.zeros(N, *SHAPE, dtype=torch.bool)
    mask[0, 0, 0, :2] = True
    gain = torch.ones(N, *SHAPE, dtype=torch.float64)
    gain[0, 0, 0, :2] = torch.tensor([torch.nan, -1.0])
    noise = PhotonNoise(background.masked(mask), gain).at(signal)
    assert torch.equal(noise.valid, ~mask)
    assert (noise.colour(torch.ones_like(signal))[mask] == 0).all()
    assert noise.whiten(signal).isfinite().all()
    more = PhotonNoise(background, 2.0).masked(mask)
    assert torch.equal(more.at(signal).valid, ~mask)


def test_infinitely_many_electrons_have_no_noise(background, signal):
    noise = PhotonNoise(background, torch.inf)
    torch.testing.assert_close(noise.at(signal).variance, background.variance, rtol=1e-14, atol=0)


def test_what_does_not_vary_is_stored_once(background):
    per_band = torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1).expand(N, *SHAPE)
    assert PhotonNoise(background, per_band).effective_gain.shape == (1, 2, 1, 1)


@pytest.mark.parametrize("shape", [(), (N, *SHAPE)])
def test_state(background, signal, normal, shape):
    noise = PhotonNoise(
        LowRankNoise(background, normal(1, *SHAPE)), normal(1, *shape)[0].abs() + 0.1
    )
    again = noise_from_state(noise.state())
    assert torch.equal(again.at(signal).whiten(signal), noise.at(signal).whiten(signal))
    half = noise.to(dtype=torch.float32)
    assert half.at(signal.float()).variance.dtype == torch.float32


@pytest.mark.parametrize(
    ("gain", "message"),
    [
        (-1.0, "found 72 pixels where it is not positive"),
        ([[[2.0]], [[0.0]]], "found 36 pixels"),
        (torch.nan, "found 72 pixels"),
        (torch.ones(4, 3), r"found shape \(1, 1, 4, 3\), expected one that broadcasts"),
        (torch.ones(1, N, *SHAPE), "found shape"),
    ],
)
def test_errors(background, gain, message):
    with pytest.raises(InputError, match=f"effective_gain: {message}"):
        PhotonNoise(background, gain)
