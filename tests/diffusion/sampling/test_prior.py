"""Draws from a prior alone."""

import numpy as np
import torch
from azula.denoise import GaussianDenoiser
from azula.linalg.covariance import FullCovariance
from azula.noise import VESchedule

from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.chains import Chains
from astro_ddprism.diffusion.sampling.prior import draw_prior

CPU = torch.device("cpu")
CHAINS = Chains(sampler="adams-bashforth", n_steps=32)  # priors have four times as many


class Source:
    """A Gaussian source of three features."""

    def __init__(self):
        rng = np.random.default_rng(1)
        Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        L = np.array([0.5, 1.0, 3.0]) ** 2
        self.mean, self.covariance = rng.normal(size=3), (Q * L) @ Q.T
        mean, Q, L = (torch.tensor(a, dtype=torch.float32) for a in (self.mean, Q, L))
        self.prior = GaussianPrior(mean, Q * L.sqrt())
        self.denoiser = GaussianDenoiser(mean, FullCovariance(Q, L), VESchedule(0.01, 100.0))

    def draw(self, rows, batch_size=1500, track=iter):
        return draw_prior(
            self.denoiser, self.prior, (3,), rows, chains=CHAINS, batch_size=batch_size, track=track
        )


def make_rows(seed, n):
    """Random numbers of n rows."""
    return Rows.of(seed, ids=range(n), device=CPU)


def test_draws_have_the_moments_of_the_prior():
    """Tolerance: five standard deviations of the sampling error of n draws, and 4 % for steps."""
    n, bias, source = 4000, 0.04, Source()
    x = source.draw(make_rows(5, n))
    assert x.shape == (n, 3)
    z = np.linalg.solve(np.linalg.cholesky(source.covariance), (x.double().numpy() - source.mean).T)
    assert np.abs(z.mean(axis=1)).max() < 5 / np.sqrt(n) + bias
    assert (np.abs(np.cov(z) - np.eye(3)) < 5 * np.sqrt((1 + np.eye(3)) / n) + bias).all()


def test_a_draw_is_its_row_alone():
    """However many go at a time."""
    source, batches = Source(), []
    whole = source.draw(make_rows(6, 5))
    parts = source.draw(make_rows(6, 5), 2, lambda steps: batches.extend(steps) or steps)
    torch.testing.assert_close(parts, whole)
    assert batches == [0, 2, 4]
    assert len(whole.unique(dim=0)) == 5
