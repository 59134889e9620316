import collections

import numpy as np
import pytest
import torch

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import CorrelatedNoise, DenseMatrix, Identity
from astro_ddprism.posterior.light import Light

SHAPE, N, N_SAMPLES, GAIN = (2, 4, 3), 5, 7, 3.0
LAGS = np.array([[0.1, 0.2, 0.1], [0.2, 1.0, 0.2], [0.1, 0.2, 0.1]])

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Problem:
    """A source through one matrix and one through a matrix of each observation, some masked."""

    def __init__(self, correlated, photons, scale=1.0):
        rng = np.random.default_rng(0)
        n_pixels = int(np.prod(SHAPE))
        self.matrices = {
            "los": np.stack([rng.normal(size=(n_pixels, 8))] * N),
            "galaxy": rng.normal(size=(N, n_pixels, 6)),
        }
        self.y = scale * rng.normal(size=(N, *SHAPE))
        self.variance = scale**2 * rng.uniform(0.5, 2.0, self.y.shape)
        self.mask = rng.random(self.y.shape) < 0.2
        self.gain = GAIN / scale if photons else np.inf
        self.correlated = correlated
        noise = {"variance": self.variance}
        if correlated:
            noise = {"noise": CorrelatedNoise(self.variance, LAGS, dtype=torch.float64)}
        if photons:
            noise["effective_gain"] = self.gain
        self.view = View(
            self.y,
            **noise,
            mask=self.mask,
            mixing={
                "los": DenseMatrix(self.matrices["los"][0], (8,), SHAPE, dtype=torch.float64),
                "galaxy": DenseMatrix(
                    self.matrices["galaxy"], (1, 2, 3), SHAPE, dtype=torch.float64
                ),
            },
        )
        self.samples = {
            "los": scale * rng.normal(size=(N_SAMPLES, N, 8)),
            "galaxy": scale * rng.normal(size=(N_SAMPLES, N, 1, 2, 3)),
        }

    def light(self, s, i, sources=("los", "galaxy")):
        """Of one sample of one observation."""
        parts = (self.matrices[name][i] @ self.samples[name][s, i].ravel() for name in sources)
        return sum(parts).reshape(SHAPE)

    def variance_of(self, s, i):
        return self.variance[i] + np.maximum(self.light(s, i), 0) / self.gain

    def residual(self, s, i):
        residual = (self.y[i] - self.light(s, i)) / np.sqrt(self.variance_of(s, i))
        return np.where(self.mask[i], np.nan, residual)

    def chi2(self, s, i):
        """With the inverse of the covariance of the valid pixels."""
        bands, ny, nx = SHAPE
        band, y, x = (axis.ravel() for axis in np.mgrid[:bands, :ny, :nx])
        correlation = np.eye(band.size)
        if self.correlated:
            dy, dx = y[:, None] - y, x[:, None] - x
            near = (np.abs(dy) < 2) & (np.abs(dx) < 2) & (band[:, None] == band)
            correlation = np.where(near, LAGS[np.clip(dy, -1, 1) + 1, np.clip(dx, -1, 1) + 1], 0)
        sigma, valid = np.sqrt(self.variance_of(s, i)).ravel(), ~self.mask[i].ravel()
        covariance = (sigma[:, None] * correlation * sigma)[np.ix_(valid, valid)]
        residual = (self.y[i] - self.light(s, i)).ravel()[valid]
        return residual @ np.linalg.solve(covariance, residual)

    def every(self, function, **options):
        return np.array([[function(s, i, **options) for i in range(N)] for s in range(N_SAMPLES)])


# A single image at a time, some samples of some observations, of all of them, all at once.
@pytest.mark.parametrize("n_images", [1, 3, 12, 1000])
@pytest.mark.parametrize("photons", [False, True])
@pytest.mark.parametrize("correlated", [False, True])
def test_light_is_that_of_matrices(correlated, photons, n_images, monkeypatch):
    """Float32, so to a few of its roundings."""
    monkeypatch.setattr("astro_ddprism.posterior.light.N_PIXELS", n_images * np.prod(SHAPE))
    problem = Problem(correlated, photons)
    light = Light(problem.samples, problem.view)
    close = {"rtol": 2e-5, "atol": 2e-5}
    mixed = light.mixed(problem.view.sources)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, problem.every(problem.light), **close)
    alone = problem.every(problem.light, sources=["galaxy"])
    np.testing.assert_allclose(light.mixed(["galaxy"]), alone, **close)
    residual = problem.every(problem.residual)
    np.testing.assert_allclose(light.residual(), residual, **close)
    np.testing.assert_allclose(light.mean_residual, residual.mean(axis=0), **close)
    np.testing.assert_allclose(light.residual_variance, residual.var(axis=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(light.sum_of_squares, problem.every(problem.chi2), rtol=1e-4)


def test_faint_units_keep_their_digits():
    """Variances of fluxes in W / m2 leave the range of float32."""
    problem = Problem(correlated=False, photons=True, scale=1e-25)
    light = Light(problem.samples, problem.view)
    assert light.mixed(["los"]).dtype == np.float64
    # An atol that only means anything in these units.
    expected = problem.every(problem.light)
    np.testing.assert_allclose(light.mixed(problem.view.sources), expected, rtol=1e-9, atol=1e-36)
    np.testing.assert_allclose(light.residual(), problem.every(problem.residual), rtol=1e-9)
    np.testing.assert_allclose(light.sum_of_squares, problem.every(problem.chi2), rtol=1e-9)


def test_whatever_numpy_holds():
    """Reversed, read-only, broadcast and big-endian samples are those that they look like."""
    problem = Problem(correlated=False, photons=False)
    x = problem.samples["los"]
    expected = Light(problem.samples, problem.view).mixed(["los"])
    for same in (x[::-1].copy()[::-1], x.astype(">f8")):
        same.flags.writeable = False
        light = Light(problem.samples | {"los": same}, problem.view)
        np.testing.assert_array_equal(light.mixed(["los"]), expected)
    first = Light(problem.samples | {"los": np.broadcast_to(x[:1], x.shape)}, problem.view)
    np.testing.assert_allclose(first.mixed(["los"]), np.repeat(expected[:1], 7, 0), atol=1e-5)


CALLS = collections.Counter()


class Counting(Identity):
    """Counts its calls and the images in each."""

    def _apply(self, x):
        CALLS[len(x)] += 1
        return super()._apply(x)


def test_memory_is_bounded_by_pixels(monkeypatch):
    monkeypatch.setattr("astro_ddprism.posterior.light.N_PIXELS", 10 * 16 + 15)
    CALLS.clear()
    view = View(np.ones((4, 1, 4, 4)), variance=1.0, mixing={"a": Counting((1, 4, 4))})
    Light({"a": np.ones((7, 4, 1, 4, 4))}, view).mixed(["a"])
    # Of ten images, two samples of the four observations.
    assert CALLS == {8: 3, 4: 1}
    view = View(np.ones((23, 1, 4, 4)), variance=1.0, mixing={"a": Counting((1, 4, 4))})
    CALLS.clear()
    Light({"a": np.ones((6, 23, 1, 4, 4))}, view).mixed(["a"])
    assert CALLS == {10: 12, 9: 2}


def test_a_product_needs_one_pass(tmp_path):
    """Its catalog's chi-squared and its mean residuals; the product itself asks for no more."""
    view = View(np.ones((3, 1, 8, 8)), variance=1.0, mixing={"a": Counting((1, 8, 8))})
    samples = PosteriorSamples({"a": np.random.default_rng(0).normal(size=(5, 3, 1, 8, 8))}, view)
    CALLS.clear()
    catalog = samples.catalog()
    samples.write(tmp_path / "product.fits", catalog=catalog)
    assert CALLS == {15: 1}
    np.testing.assert_allclose(catalog["chi2"], np.square(samples.residual()).mean((0, 2, 3, 4)))


def test_kept_statistics_are_not_shared():
    view = View(np.ones((2, 3)), variance=1.0, mixing={"a": Identity((3,))})
    samples = PosteriorSamples({"a": np.zeros((2, 2, 3))}, view)
    for read in (samples.mean_residual, lambda: samples.chi2):
        found = read()
        found[:] = 7
        np.testing.assert_array_equal(read(), 1)


def test_instruments_that_have_not_seen_it(pairs):
    """By every instrument's own operator and noise, sample by sample and image by image."""
    view, truth = pairs()
    draws = truth * np.random.default_rng(3).normal(1, 0.1, (3, *truth.shape))
    samples = PosteriorSamples({"galaxy": draws}, view)
    total = np.zeros(samples.chi2.shape)
    for name, part in samples.images.items():
        image = view.images[name]
        found = part.residual()
        for s in range(3):
            for i in range(len(view)):
                batch = image.batch([i])
                x = torch.as_tensor(draws[s, [i]], dtype=torch.float32)
                residual = batch.y - batch.mixing["galaxy"](x)
                whitened = batch.noise.whiten(residual)[0].numpy()
                total[s, i] += np.sum(whitened.astype(float) ** 2)
                valid = ~image.mask[i]
                expected = residual[0].numpy()[valid] / np.sqrt(image.variance[i][valid])
                np.testing.assert_allclose(found[s, i, valid], expected, rtol=1e-4, atol=1e-4)
                assert np.isnan(found[s, i, ~valid]).all()
        np.testing.assert_allclose(part.mean_residual(), found.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(samples.chi2, total / view.n_valid(), rtol=1e-4)
    assert np.isnan(samples.images["fine"].mean_residual()[::3]).all()
    with pytest.raises(InputError, match=r"several instruments.*'fine', 'coarse'"):
        Light({"galaxy": draws}, view)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("correlated", [False, True])
def test_device(correlated, device):
    problem = Problem(correlated, photons=True)
    here, there = (Light(problem.samples, problem.view, d) for d in ("cpu", device))
    np.testing.assert_allclose(there.residual(), here.residual(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(there.sum_of_squares, here.sum_of_squares, rtol=1e-4)
