"""Small joint observations whose every matrix is known, and mixtures of Gaussians."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.signal import convolve2d
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.posteriors.components import ComponentPosterior
from astro_ddprism.diffusion.priors.mixture import GaussianMixture, coloured
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.mixing import Convolution
from astro_ddprism.views.dataset import MultiViewDataset


class LinearProblem:
    """Two observations of several sources: random matrices, or one PSF; masked pixels; noise.

    Attributes
    ----------
    matrices : ndarray, shape (2, M, D)
        Mixing of the joint vector of all sources, written down by numpy and scipy.
    variance, mask, y : ndarray, shape (2, M)
    """

    def __init__(self, n_sources, psf, seed=0):
        rng = np.random.default_rng(seed)
        self.shape = (1, 3, 4)
        self.n_sources, size = n_sources, 12
        names = "abc"[:n_sources]
        if psf:
            kernel = rng.uniform(0.2, 1, size=(3, 3))
            kernel /= kernel.sum()
            columns = [
                convolve2d(e.reshape(3, 4), kernel, mode="same").ravel() for e in np.eye(size)
            ]
            self.matrices = np.tile(np.stack(columns, axis=1), (2, 1, n_sources))
            operator = Convolution(kernel, self.shape, dtype=torch.float64)
            self.mixing = dict.fromkeys(names, operator)
            observed = self.shape
        else:
            observed = (7,)
            A = rng.normal(size=(n_sources, 2, 7, size)) / 3
            self.matrices = np.concatenate(list(A), axis=-1)
            self.mixing = {name: A[k].reshape(2, 7, size) for k, name in enumerate(names)}
        m = int(np.prod(observed))
        self.source_shapes = dict.fromkeys(names, self.shape if psf else (size,))
        self.variance = rng.uniform(0.2, 0.6, size=(2, m)) ** 2
        self.mask = np.zeros((2, m), dtype=bool)
        self.mask[0, [0, 3]] = self.mask[1, 5] = True
        self.y = rng.normal(size=(2, m)) * 3
        self.y = self.y.astype(np.float32).astype(float)  # as views keep them
        self.variance = self.variance.astype(np.float32).astype(float)
        data = np.where(self.mask, np.nan, self.y)  # what masked pixels hold is never read
        self.view = MultiViewDataset.from_arrays(
            {
                "view": {
                    "data": data.reshape(2, *observed),
                    "variance": self.variance.reshape(2, *observed),
                    "mask": self.mask.reshape(2, *observed),
                    "mixing": self.mixing,
                }
            }
        )["view"]

    @property
    def weights(self):
        """Inverse variances, 0 at masked pixels, of shape (2, M)."""
        return np.where(self.mask, 0, 1 / self.variance)

    def observation(self, n_chains=1, dtype=torch.float64):
        """The observations, each repeated for as many chains."""
        index = np.repeat([0, 1], n_chains)
        return JointObservation(self.view.batch(index, dtype=dtype), self.source_shapes)

    def posterior(self, i, mean, covariance):
        """Mean and covariance of all sources given observation ``i``, by dense algebra."""
        A, w = self.matrices[i], self.weights[i]
        posterior = np.linalg.inv(np.linalg.inv(covariance) + (A.T * w) @ A)
        return mean + posterior @ A.T @ (w * (self.y[i] - A @ mean)), posterior


@pytest.fixture
def linear_problem():
    return LinearProblem


def make_mixture(seed, n_components, size, spread=3.0):
    """Components of all shapes and weights."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.3, 1, n_components)
    factors = rng.normal(size=(n_components, size, size)) * np.geomspace(2, 0.3, size)
    arrays = (
        weights / weights.sum(),
        spread * rng.normal(size=(n_components, size)),
        factors @ factors.swapaxes(1, 2),
    )
    return GaussianMixture(*map(torch.tensor, arrays))


def make_curve(seed, n_components, size=4, radius=50.0, thickness=0.2):
    """Tiles along a closed curve that winds through all dimensions, neighbours side by side."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * (np.arange(n_components) + 0.5) / n_components
    order = np.arange(size) // 2 + 1  # cos, sin, cos 2, sin 2 ...
    shift = rng.uniform(0, 2 * np.pi, size)
    Q = np.linalg.qr(rng.normal(size=(size, size)))[0]
    means = radius / order * np.cos(phase[:, None] * order + shift) @ Q
    tangents = -radius * np.sin(phase[:, None] * order + shift) @ Q
    tangents *= 2 * np.pi / n_components / math.sqrt(12)
    covariances = tangents[:, :, None] * tangents[:, None, :] + thickness**2 * np.eye(size)
    weights = np.full(n_components, 1 / n_components)
    return GaussianMixture(*map(torch.tensor, (weights, means, covariances)))


def moments_of(weights, means, covariances):
    """Moments of a mixture: the mean, and the mean of the covariances plus that of the means."""
    mean = np.einsum("k,kd->d", weights, means)
    offset = means - mean
    spread = covariances + offset[:, :, None] * offset[:, None, :]
    return mean, np.einsum("k,kij->ij", weights, spread)


def arrays_of(mixture):
    return [part.numpy() for part in (mixture.weights, mixture.means, mixture.covariances)]


def assert_moments(x, mean, covariance):
    """Of draws ``(n, D)``, within five standard deviations of their sampling error.

    That of the covariance is estimated from the draws: they are no Gaussian.
    """
    x = np.asarray(x, dtype=float)
    error = 5 * np.sqrt(covariance.diagonal() / len(x))
    assert (np.abs(x.mean(axis=0) - mean) < error).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = 5 * products.std(axis=0) / np.sqrt(len(x))
    assert (np.abs(products.mean(axis=0) - covariance) < error).all()


class Observed:
    """Observations of sums of draws from mixtures, through random matrices; some rows masked."""

    def __init__(self, mixtures, n=5, n_rows=3, seed=0, masked=True):
        rng = np.random.default_rng(seed)
        self.mixtures, self.n_rows = mixtures, n_rows
        sizes = [mixture.means.shape[1] for mixture in mixtures]
        self.designs = [rng.normal(size=(n, n_rows, size)) for size in sizes]
        with seeded(seed, device=torch.device("cpu")):
            self.x = [self.draw(mixture, n).numpy() for mixture in mixtures]
        self.y = rng.normal(size=(n, n_rows)) + sum(
            np.einsum("nij,nj->ni", A, x) for A, x in zip(self.designs, self.x, strict=True)
        )
        if masked:
            for i in range(0, n, 2):
                self.y[i, i % n_rows] = 0
                for A in self.designs:
                    A[i, i % n_rows] = 0
        self.combinations = np.array(list(itertools.product(*(range(len(m)) for m in mixtures))))

    @staticmethod
    def draw(mixture, n):
        k = torch.multinomial(mixture.weights, n, replacement=True)
        noise = torch.randn_like(mixture.means[k])
        return mixture.means[k] + coloured(mixture.covariances, k, noise)

    def posterior(self, beam=None):
        tensors = [torch.tensor(A).float() for A in self.designs]
        return ComponentPosterior(torch.tensor(self.y).float(), tensors, self.mixtures, beam)

    def joint(self, combination):
        """Weight, mean and covariance of all sources for one combination of components."""
        parts = [
            [part[k] for part in arrays_of(mixture)]
            for mixture, k in zip(self.mixtures, combination, strict=True)
        ]
        weights, means, covariances = zip(*parts, strict=True)
        return np.prod(weights), np.concatenate(means), block_diag(*covariances)

    def log_evidence(self, i):
        """Of all combinations of components, by scipy."""
        A = np.concatenate([A[i] for A in self.designs], axis=1)
        values = []
        for combination in self.combinations:
            weight, mean, covariance = self.joint(combination)
            predicted = np.eye(self.n_rows) + A @ covariance @ A.T
            value = multivariate_normal.logpdf(self.y[i], A @ mean, predicted)
            values.append(math.log(weight) + value)
        return np.array(values)

    def conditional(self, i, combination):
        """Mean and covariance of all sources given an observation, by dense algebra."""
        A = np.concatenate([A[i] for A in self.designs], axis=1)
        _, mean, covariance = self.joint(combination)
        posterior = np.linalg.inv(np.linalg.inv(covariance) + A.T @ A)
        return mean + posterior @ A.T @ (self.y[i] - A @ mean), posterior

    def moments(self, i):
        """Moments of all sources given an observation, over all components."""
        log_evidence = self.log_evidence(i)
        parts = [self.conditional(i, combination) for combination in self.combinations]
        means, covariances = map(np.stack, zip(*parts, strict=True))
        return moments_of(np.exp(log_evidence - logsumexp(log_evidence)), means, covariances)


def make_observed(numbers, **options):
    """Sources of the given numbers of components, and of 2, 3, 4 features."""
    mixtures = [make_mixture(10 + k, n, 2 + k) for k, n in enumerate(numbers)]
    return Observed(mixtures, **options)


@pytest.fixture(scope="session")
def mixtures():
    """Functions that make mixtures of Gaussians and observations of them, and dense algebra."""
    return SimpleNamespace(
        make=make_mixture,
        curve=make_curve,
        moments=moments_of,
        arrays=arrays_of,
        assert_moments=assert_moments,
        Observed=Observed,
        observed=make_observed,
    )
