"""The whitened observation against dense matrices."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, shift

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.latent import latent_posterior
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.mixing import CorrelatedNoise, DenseMatrix, DiagonalNoise, PhotonNoise
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.base import Batch


@pytest.mark.parametrize("psf", [False, True], ids=["matrices", "psf"])
@pytest.mark.parametrize("n_sources", [1, 2, 3])
def test_against_dense_matrices(linear_problem, n_sources, psf):
    problem = linear_problem(n_sources, psf)
    observation = problem.observation()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, problem.matrices.shape[2]))
    r = rng.normal(size=problem.y.shape)
    whitened = np.sqrt(problem.weights)[..., None] * problem.matrices
    expected = (whitened @ x[..., None])[..., 0]
    np.testing.assert_allclose(observation.forward(torch.tensor(x)), expected, atol=1e-12)
    expected = (whitened.swapaxes(1, 2) @ r[..., None])[..., 0]
    np.testing.assert_allclose(observation.adjoint(torch.tensor(r)), expected, atol=1e-12)


@pytest.mark.parametrize("psf", [False, True])
def test_masked_pixels_say_nothing(linear_problem, psf):
    """They hold NaN in the view, and are zero in all that is computed from it."""
    problem = linear_problem(2, psf)
    observation = problem.observation()
    expected = np.where(problem.mask, 0, problem.y / np.sqrt(problem.variance))
    np.testing.assert_allclose(observation.y, expected, rtol=1e-6)
    x = torch.ones(2, 24, dtype=torch.float64)
    assert (observation.forward(x)[torch.tensor(problem.mask)] == 0).all()
    np.testing.assert_array_equal(observation.n_valid, (~problem.mask).sum(axis=1))


@pytest.mark.parametrize("psf", [False, True])
def test_more_masked_pixels(linear_problem, psf):
    """The same as if the view had been masked there, to what is known of each pixel."""
    problem = linear_problem(2, psf)
    lost = np.random.default_rng(5).uniform(size=problem.mask.shape) < 0.3
    observation = problem.observation()
    assert (observation.information[0] >= 0).all()  # is known before, and found anew
    x = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    found = observation.masked(lambda n, shape, _: torch.tensor(lost).view(n, *shape))
    seen = ~(problem.mask | lost)
    matrix = problem.matrices * (seen / np.sqrt(problem.variance))[..., None]
    y = np.where(seen, problem.y / np.sqrt(problem.variance), 0)
    np.testing.assert_allclose(found.y, y, rtol=1e-6)
    light = (matrix @ x.numpy()[..., None])[..., 0]
    np.testing.assert_allclose(found.forward(x), light, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(found.n_valid, seen.sum(axis=1))
    np.testing.assert_allclose(
        found.chi2(x), ((y - light) ** 2).sum(axis=1) / seen.sum(axis=1), rtol=1e-6
    )
    gram = matrix.swapaxes(1, 2) @ matrix
    own = np.stack([gram[:, :12, :12].sum(axis=2), gram[:, 12:, 12:].sum(axis=2)], axis=1)
    np.testing.assert_allclose(found.information[0].flatten(2), own.clip(min=0), atol=1e-9)
    assert torch.equal(observation.n_valid, torch.tensor((~problem.mask).sum(axis=1)))


def test_chi2(linear_problem):
    problem = linear_problem(2, psf=True)
    x = np.random.default_rng(2).normal(size=(2, 24))
    residual = problem.y - (problem.matrices @ x[..., None])[..., 0]
    expected = (residual**2 * problem.weights).sum(axis=1) / (~problem.mask).sum(axis=1)
    found = problem.observation().chi2(torch.tensor(x))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_split_and_join(linear_problem):
    problem = linear_problem(3, psf=True)
    observation = problem.observation(2)
    assert len(observation) == 4
    x = torch.randn(4, 36, generator=torch.Generator().manual_seed(3))
    parts = observation.split(x)
    assert [part.shape for part in parts] == 3 * [(4, 1, 3, 4)]
    assert torch.equal(observation.join(parts), x)
    assert torch.equal(parts[1].flatten(1), x[:, 12:24])


def test_sources_that_a_view_does_not_hold(linear_problem):
    problem = linear_problem(1, psf=True)
    shapes = {"before": (5,), **problem.source_shapes, "after": (2, 3)}
    observation = JointObservation(problem.view.batch(dtype=torch.float64), shapes)
    alone = problem.observation()
    x = torch.randn(2, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert torch.equal(observation.forward(x), alone.forward(x[:, 5:17]))
    back = observation.adjoint(observation.y)
    assert torch.equal(back[:, 5:17], alone.adjoint(alone.y))
    assert (back[:, :5] == 0).all()
    assert (back[:, 17:] == 0).all()


def test_repeated_observations(linear_problem):
    """Chains of one observation see the same."""
    problem = linear_problem(2, psf=False)
    once, often = problem.observation(), problem.observation(3)
    x = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        often.forward(x.repeat_interleave(3, dim=0)), once.forward(x).repeat_interleave(3, dim=0)
    )


def test_distinct_observations(linear_problem):
    """Each once, and which of them every row is."""
    problem = linear_problem(2, psf=False)
    loader = ViewLoader(problem.view, 1.0, torch.device("cpu"))
    repeated = loader.observe(np.array([1, 0, 1, 1]))
    alone, inverse = repeated.distinct
    assert (len(repeated), len(alone)) == (4, 2)
    assert torch.equal(alone.y[inverse], repeated.y)
    x = torch.randn(2, 24, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(alone.forward(x)[inverse], repeated.forward(x[inverse]))
    assert repeated.distinct[0] is alone  # found once
    once = loader.observe(np.array([1, 0]))
    assert once.distinct[0] is once
    assert once.distinct[1].tolist() == [0, 1]


def test_correlated_noise_against_dense_matrices(linear_problem):
    """A whitening that is not symmetric: normal equations and chi2 hold the inverse covariance."""
    problem = linear_problem(2, psf=True)
    y = torch.tensor(problem.y).reshape(2, 1, 3, 4)
    mask = problem.mask.reshape(y.shape)
    patch = np.array([[0.3, 1, 0.3]])
    noise = CorrelatedNoise(problem.variance.reshape(y.shape), patch, mask, dtype=torch.float64)
    mixing = problem.view.batch(dtype=torch.float64).mixing
    observation = JointObservation(Batch(y, mixing, noise), problem.source_shapes)
    x = np.random.default_rng(6).normal(size=(2, 24))
    pixel = np.arange(12)
    same_row = pixel[:, None] // 4 == pixel // 4
    near = np.where(same_row, 0.3 * (abs(pixel[:, None] - pixel) == 1), 0) + np.eye(12)
    normal = observation.adjoint(observation.forward(torch.tensor(x)))
    chi2 = observation.chi2(torch.tensor(x))
    for i, valid in enumerate(~problem.mask):
        std = np.sqrt(problem.variance[i])
        precision = np.linalg.inv((std[:, None] * near * std)[np.ix_(valid, valid)])
        A = problem.matrices[i][valid]
        np.testing.assert_allclose(normal[i], A.T @ precision @ A @ x[i], rtol=0, atol=1e-10)
        residual = problem.y[i][valid] - A @ x[i]
        expected = residual @ precision @ residual / valid.sum()
        np.testing.assert_allclose(chi2[i], expected, rtol=1e-10)


@pytest.fixture(scope="module")
def galaxies():
    """Galaxies in resampled images: fluxes, profile, observations, masks, noise."""
    rng, n, size = np.random.default_rng(8), 2000, 12
    f = np.array([0.4, 0.35])  # of a pixel, by bilinear interpolation
    noise = shift(rng.normal(size=(n, 1, size + 2, size + 2)), (0, 0, *f), order=1)
    rows, columns = ([g * (1 - g), g**2 + (1 - g) ** 2, g * (1 - g)] for g in f)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    profile = np.exp(-(x**2 + y**2) / (2 * 2.0**2)).reshape(-1, 1)
    flux = 2 * rng.normal(size=(n, 1))
    data = flux @ profile.T + noise[..., 1:-1, 1:-1].reshape(n, -1)
    mask = (rng.random(data.shape) < 0.03) & (np.arange(n) % 20 == 0)[:, None]
    variance = np.full((n, 1, size, size), rows[1] * columns[1])
    patch = np.outer(rows, columns) / (rows[1] * columns[1])
    mask, data = mask.reshape(variance.shape), data.reshape(variance.shape)
    return flux, profile, data, mask, variance, patch


def flux_error(galaxies, noise):
    """Flux minus posterior mean, in posterior standard deviations, and chi2 at the truth."""
    flux, profile, data, *_ = galaxies
    mixing = DenseMatrix(profile, observation_shape=data.shape[1:], dtype=torch.float64)
    batch = Batch(torch.tensor(data), {"galaxy": mixing}, noise)
    observation = JointObservation(batch, {"galaxy": (1,)})
    one = torch.ones(1, dtype=torch.float64)
    posterior = latent_posterior(observation, {"galaxy": GaussianPrior(0 * one, 2 * one[None])})
    std = 2 * posterior.covariance[:, 0].sqrt()
    error = (torch.tensor(flux) - posterior.expectation()[0]) / std
    return error[:, 0].numpy(), observation.chi2(torch.tensor(flux)).numpy()


def test_calibration(galaxies):
    *_, mask, variance, patch = galaxies
    noise = CorrelatedNoise(variance, patch, mask, dtype=torch.float64)
    error, chi2 = flux_error(galaxies, noise)
    # 2000 galaxies: 1.0 % and 0.5 % of standard error of the coverage, 3 % of the variance.
    assert abs((abs(error) < 1).mean() - 0.683) < 0.03
    assert abs((abs(error) < 2).mean() - 0.954) < 0.015
    assert abs(error.var() - 1) < 0.1
    assert abs(chi2.mean() - 1) < 0.01
    assert abs(chi2.std() / np.sqrt(2 / 144) - 1) < 0.1


def test_calibration_without_the_correlation(galaxies):
    """Intervals half as wide as they should be, although every pixel's variance is right."""
    *_, mask, variance, _ = galaxies
    error, chi2 = flux_error(galaxies, DiagonalNoise(variance, mask, dtype=torch.float64))
    assert (abs(error) < 1).mean() < 0.5
    assert (abs(error) < 2).mean() < 0.8
    assert error.var() > 2.5
    assert abs(chi2.mean() - 1) < 0.02
    assert chi2.std() / np.sqrt(2 / 144) > 1.2


@pytest.fixture
def photons():
    """Two sources in images of one and vectors of another instrument, photon noise in the first."""
    rng = np.random.default_rng(5)
    image, vector = (rng.normal(size=(2, m, 6)) for m in (20, 3))
    background = DiagonalNoise(rng.uniform(1, 2, (2, 1, 4, 5)), rng.random((2, 1, 4, 5)) < 0.2,
                               dtype=torch.float64)  # fmt: skip
    y = [torch.tensor(rng.normal(size=shape)) for shape in ((2, 1, 4, 5), (2, 3))]
    noise = [PhotonNoise(background, 0.5), DiagonalNoise(torch.ones(2, 3, dtype=torch.float64))]
    batches = [
        Batch(values, {"a": DenseMatrix(A, observation_shape=values.shape[1:])}, each)
        for values, A, each in zip(y, (image, vector), noise, strict=True)
    ]
    batches = [Batch(b.y, {"a": b.mixing["a"].to(dtype=torch.float64)}, b.noise) for b in batches]
    return batches, JointObservation(batches, {"a": (6,)})


def test_noise_of_given_sources(photons):
    (image, vector), observation = photons
    x = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    at = observation.at(x)
    signal = image.mixing["a"](x)
    noise = DiagonalNoise(image.noise.variance + signal.clip(min=0) / 0.5)
    y = torch.cat([noise.whiten(image.y).flatten(1), vector.y], dim=1)
    torch.testing.assert_close(at.y, y, rtol=1e-12, atol=0)
    model = torch.cat([noise.whiten(signal).flatten(1), vector.mixing["a"](x)], dim=1)
    torch.testing.assert_close(at.forward(x), model, rtol=1e-12, atol=0)
    r = torch.ones_like(y)
    torch.testing.assert_close((at.adjoint(r) * x).sum(1), (r * model).sum(1))
    chi2 = (y - model).square().sum(1) / observation.n_valid
    torch.testing.assert_close(observation.chi2(x), chi2)
    # Wherever one comes from, the noise is that of the sources alone.
    assert torch.equal(observation.at(-x).at(x).y, at.y)


def test_first_guess_is_the_noise_of_the_smoothed_image(photons):
    (image, _), observation = photons
    valid = image.noise.valid[:, 0].numpy()
    y = np.where(valid, image.y[:, 0], 0)
    smooth = np.stack([
        convolve(y[i], np.ones((3, 3)), mode="constant")
        / convolve(valid[i].astype(float), np.ones((3, 3)), mode="constant")
        for i in range(2)
    ])  # fmt: skip
    expected = image.noise.variance[:, 0].numpy() + smooth.clip(min=0) / 0.5
    expected = np.where(valid, y / np.sqrt(expected), 0).reshape(2, -1)
    np.testing.assert_allclose(observation.y[:, :20], expected, rtol=1e-12)


def test_other_noise_is_the_same_everywhere(linear_problem):
    observation = linear_problem(2, psf=True).observation()
    assert observation.at(torch.ones(2, 24, dtype=torch.float64)) is observation
