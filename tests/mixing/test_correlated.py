"""Correlated noise against resampled white noise, made by scipy."""

import numpy as np
import pytest
import torch
from astropy.utils.exceptions import AstropyUserWarning
from scipy.ndimage import shift

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import CorrelatedNoise
from astro_ddprism.survey import estimate_autocorrelation

N, SIZE = 256, 32


def bilinear(rng, *size):
    """White noise, shifted by part of a pixel."""
    noise = rng.normal(size=(*size[:-2], size[-2] + 2, size[-1] + 2))
    offset = (*(0,) * (len(size) - 2), 0.3, 0.2)
    return shift(noise, offset, order=1)[..., 1:-1, 1:-1]


def drizzled(rng, *size, scale=0.6, drop=0.8):
    """White noise of 16 dithered exposures, dropped onto smaller pixels by the shared area."""

    def overlap(n, offset):
        edges = scale * np.arange(n + 1)[:, None]
        centres = np.arange(-3, scale * n + 3) + offset
        begin = np.maximum(edges[:-1], centres - drop / 2)
        return np.clip(np.minimum(edges[1:], centres + drop / 2) - begin, 0, None)

    total = weight = 0
    for offset in np.ndindex(4, 4):
        rows, columns = (overlap(n, k / 4) for n, k in zip(size[-2:], offset, strict=True))
        noise = rng.normal(size=(*size[:-2], rows.shape[1], columns.shape[1]))
        total = total + rows @ noise @ columns.T
        weight = weight + np.outer(rows.sum(1), columns.sum(1))
    return total / weight


RESAMPLED = {"bilinear": (bilinear, 2), "drizzled": (drizzled, 3)}


def autocorrelation(images, valid, max_lag):
    """Mean product over pairs of valid pixels, and its standard error over images."""
    n, result = max_lag, []
    images = np.where(valid, images, 0)
    for dy, dx in np.ndindex(2 * n + 1, 2 * n + 1):
        moved = np.pad(images, [(0, 0), (n, n), (n, n)])[
            :, 2 * n - dy : 2 * n - dy + SIZE, 2 * n - dx : 2 * n - dx + SIZE
        ]
        both = np.pad(valid, [(0, 0), (n, n), (n, n)])[
            :, 2 * n - dy : 2 * n - dy + SIZE, 2 * n - dx : 2 * n - dx + SIZE
        ]
        result.append((images * moved).sum((1, 2)) / (valid & both).sum((1, 2)))
    result = np.reshape(result, (2 * n + 1, 2 * n + 1, len(images)))
    return result.mean(-1), result.std(-1) / np.sqrt(len(images))


@pytest.fixture(params=RESAMPLED, scope="module")
def case(request):
    """Cutouts of resampled white noise, a mask, and the noise that is measured on a large image."""
    resample, max_lag = RESAMPLED[request.param]
    rng = np.random.default_rng(6)
    field = resample(rng, 768, 768)
    measured = estimate_autocorrelation(field, max_lag=max_lag, box_size=256)
    images = resample(rng, N, SIZE, SIZE)
    sigma = rng.uniform(0.5, 2, (N, 1, 1)) * np.linspace(np.ones(SIZE), 1.5, SIZE)
    mask = (rng.random(images.shape) < 0.03) & (np.arange(N) < N // 8)[:, None, None]
    variance = images.var() * sigma**2
    noise = CorrelatedNoise(variance, measured, mask, dtype=torch.float64)
    return torch.as_tensor(images * sigma), noise, measured, max_lag


def test_draws_have_the_measured_autocorrelation(case):
    images, noise, _, max_lag = case
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    valid, std = noise.valid.numpy(), noise.pixels.std
    drawn, error = autocorrelation((noise.colour(z) * noise.pixels.weight).numpy(), valid, max_lag)
    seen, error_seen = autocorrelation((images / std).numpy(), valid, max_lag)
    # Within four standard errors, and what is left of those of the measurement on the field.
    assert (np.abs(drawn - seen) < 4 * np.hypot(error, error_seen) + 0.01).all()


def test_whitened_noise_is_white(case):
    images, noise, _, _ = case
    white = noise.whiten(images)
    assert (white[~noise.valid] == 0).all()
    found, error = autocorrelation(white.numpy(), noise.valid.numpy(), 4)
    expected = np.zeros((9, 9))
    expected[4, 4] = 1
    assert error.max() < 0.004
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.015)


def test_images_share_factors(case):
    """All without a mask have one, whatever their variance; so have those with equal masks."""
    _, noise, _, _ = case
    n_masked = int((~noise.valid).flatten(1).any(1).sum())
    assert len(noise.factors.factors) == n_masked + 1
    assert len(noise[n_masked + 1 :].factors.factors) == 1
    assert noise[[0, 0, -1]]._factors is not None
    assert len(noise[[0, 0, -1]].factors.factors) == 2
    fresh = noise.masked(torch.zeros_like(noise.valid))
    assert fresh._factors is None
    assert len(fresh[[0, 0, 1, -1, -2]].factors.factors) == 3


@pytest.mark.parametrize("observations", [(3, 2, 6, 5), (3, 6, 5)])
def test_shapes_of_the_autocorrelation(observations, normal):
    n, *bands = observations[:-2]
    patch = np.outer([0.2, 1, 0.2], [0.3, 1, 0.3])
    r = normal(*observations)
    expected = CorrelatedNoise(np.ones(observations), patch, dtype=torch.float64).whiten(r)
    for leading in ([*bands], [1] * len(bands), [n, *bands], [1, *bands], [n] + [1] * len(bands)):
        patches = np.broadcast_to(patch, (*leading, 3, 3))
        noise = CorrelatedNoise(np.ones(observations), patches, dtype=torch.float64)
        torch.testing.assert_close(noise.whiten(r), expected, rtol=0, atol=1e-13)
        assert noise.shape == observations[1:]
        assert len(noise.factors.factors) == 1


def test_each_observation_its_own(normal):
    patches = np.array([[[0.3, 1, 0.3]], [[0, 1, 0]], [[-0.2, 1, -0.2]]])[:, None]
    r = normal(3, 2, 4, 4)
    noise = CorrelatedNoise(np.ones(r.shape), patches, dtype=torch.float64)
    alone = [
        CorrelatedNoise(np.ones((1, 2, 4, 4)), patch, dtype=torch.float64).whiten(r[[i]])
        for i, patch in enumerate(patches)
    ]
    torch.testing.assert_close(noise.whiten(r), torch.cat(alone), rtol=0, atol=1e-13)
    for some in (noise[[2, 0]], CorrelatedNoise(np.ones(r.shape), patches)[[2, 0]]):
        assert len(some.autocorrelation) == 2
        torch.testing.assert_close(
            some.to(dtype=torch.float64).whiten(r[[2, 0]]),
            torch.cat([alone[2], alone[0]]),
            rtol=0,
            atol=1e-5,
        )


def test_powers_that_no_noise_has():
    """The nearest autocorrelation is taken, and said where it is not near."""
    nearly = np.array([[0.52, 1, 0.52]])
    noise = CorrelatedNoise(np.ones((1, 4, 30)), nearly, dtype=torch.float64)
    np.testing.assert_allclose(noise.autocorrelation[0], [[0.495, 1, 0.495]], rtol=0, atol=1e-3)
    with pytest.warns(AstropyUserWarning, match="power is at least 0.01 differs by up to 0.2"):
        CorrelatedNoise(np.ones((1, 4, 30)), [[0.7, 1, 0.7]])


PATCH = np.array([[0.3, 1, 0.3]])


@pytest.mark.parametrize(
    ("shape", "patch", "options", "message"),
    [
        ((2, 5), PATCH, {}, r"variance: found observations of shape \(5,\), expected \(bands"),
        ((2, 1, 4, 4), np.ones(3), {}, r"autocorrelation: found shape \(3,\), expected \(ky, kx\)"),
        ((2, 1, 4, 4), np.ones((3, 1, 1, 1)), {}, "found shape .* for 2 observations of shape"),
        ((2, 3, 4, 4), np.ones((2, 1, 1)), {}, "autocorrelation: found shape"),
        ((2, 1, 4, 4), np.ones((2, 1)), {}, "found 2 x 1 lags, expected odd sizes"),
        ((2, 1, 4, 4), 4 * PATCH, {}, "found 4.0 in the centre, expected 1 .the variance"),
        ((2, 1, 4, 4), [[np.nan]], {}, "found nan in the centre"),
        ((2, 1, 4, 4), [[np.nan, 1, np.nan]], {}, "found values not between -1 and 1"),
        ((2, 1, 4, 4), [[1.5, 1, 1.5]], {}, "found values not between -1 and 1"),
        ((2, 1, 4, 4), [[0.1, 1, 0.3]], {}, "found opposite lags that differ"),
        ((2, 1, 4, 4), PATCH, {"floor": 0}, "floor: found 0, expected a power between"),
        ((2, 1, 4, 4), PATCH, {"mask": np.zeros((4, 4), bool)}, "mask: found shape"),
    ],
)
def test_bad_input(shape, patch, options, message):
    with pytest.raises(InputError, match=message):
        CorrelatedNoise(np.ones(shape), patch, **options)
