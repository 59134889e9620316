"""Small joint observations whose every matrix is known."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from astro_ddprism.diffusion.observation import JointObservation
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
