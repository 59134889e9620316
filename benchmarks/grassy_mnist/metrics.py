r"""How good drawn digits are: one by one, and as a distribution.

*PSNR* of a draw, clipped to [0, 1], as published: ``-20 log10(rmse + 1e-6)``.

*Fréchet distance* of two sets in the 64 features of a small convolutional network that tells the
ten digits,

.. math:: |\mu_u - \mu_v|^2 + \mathrm{tr}\left(C_u + C_v - 2 (C_u C_v)^{1/2}\right) .

The published figures are of the means alone, :math:`|\mu_u - \mu_v|^2`, as their code takes both
covariances of the same set, and in the features of another network: ours stand beside them in kind,
not in value. Both are given here.

*PQMass* as published: the mean p-value of tessellations of the first 512 draws and as many true
digits of other observations.
"""

__all__ = ["Features", "frechet", "psnr", "summary"]

import numpy as np
import torch
from torch import nn

from ..manifolds.metrics import pqmass
from .problem import labelled_digits


def psnr(draws, digits) -> np.ndarray:
    """Of each observation, in dB, clipped as published."""
    error = np.clip(np.asarray(draws), 0, 1) - digits
    return -20 * np.log10(np.sqrt(np.mean(error**2, axis=(-3, -2, -1))) + 1e-6)


class Features:
    """The last layer but one of a network that tells digits, trained here, always alike.

    Parameters
    ----------
    n_images : int
        Images that it is trained on, repeats included.
    device : torch.device
        Where.

    Attributes
    ----------
    accuracy : float
        Of labels, on 2,000 digits that it was not trained on.
    """

    def __init__(self, n_images: int, device):
        digits, labels = labelled_digits()
        x = torch.tensor(digits[:, None], dtype=torch.float32, device=device)
        labels = torch.tensor(labels, dtype=torch.long, device=device)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._body = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(),
            ).to(device)  # fmt: skip
            head = nn.Linear(64, 10).to(device)
            weights = [*self._body.parameters(), *head.parameters()]
            optimizer, size = torch.optim.Adam(weights, 1e-3), 128
            for _ in range(n_images // size):
                some = torch.randint(2000, len(x), (size,)).to(device)
                loss = nn.functional.cross_entropy(head(self._body(x[some])), labels[some])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            right = head(self._body(x[:2000])).argmax(dim=1) == labels[:2000]
        self.accuracy, self._device = float(right.float().mean()), device

    @torch.no_grad()
    def __call__(self, images) -> np.ndarray:
        """Of images ``(N, 1, 28, 28)`` in [0, 1], in float64, of shape ``(N, 64)``."""
        x = torch.as_tensor(np.clip(np.asarray(images), 0, 1), dtype=torch.float32)
        return (
            torch.cat([self._body(p.to(self._device)).cpu() for p in x.split(1024)])
            .numpy()
            .astype(float)
        )


def frechet(u, v) -> tuple[float, float]:
    """Fréchet distance of two sets of vectors ``(N, D)``: of their means alone, and whole."""
    u, v = np.asarray(u, float), np.asarray(v, float)
    means = float(np.sum((u.mean(axis=0) - v.mean(axis=0)) ** 2))
    c_u, c_v = np.cov(u.T), np.cov(v.T)
    # Eigenvalues of a product of covariances are those of a symmetric matrix.
    values, vectors = np.linalg.eigh(c_u)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ c_v @ root).clip(min=0)).sum()
    return means, float(means + np.trace(c_u) + np.trace(c_v) - 2 * shared)


def summary(draws, digits, features: Features, n_tessellations: int) -> dict:
    """All figures of draws of observations, beside their true digits.

    Parameters
    ----------
    draws, digits : ndarray, shape (N, 1, 28, 28)
        At amplitude 1.
    features : Features
        The network.
    n_tessellations : int
        Of PQMass.
    """
    values = psnr(draws, digits)
    means, whole = frechet(features(draws), features(digits))
    n = min(512, len(digits) // 2)
    clipped = np.clip(np.asarray(draws, float), 0, 1).reshape(len(draws), -1)
    return {
        "psnr_mean": float(values.mean()),
        "psnr_median": float(np.median(values)),
        "frechet_means": means,
        "frechet": whole,
        "pqmass": pqmass(
            clipped[:n], digits.reshape(len(digits), -1)[-n:],
            n_samples=n, n_groups=1, n_tessellations=n_tessellations,
        ),
    }  # fmt: skip
