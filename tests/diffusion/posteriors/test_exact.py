"""Exact draws under mixtures, and under Gaussians."""

import numpy as np
import torch

from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.exact import ExactGaussian, ExactMixture
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.chains import Chains, draw_sources
from astro_ddprism.mixing import Bands
from astro_ddprism.separator.loader import ViewLoader
from astro_ddprism.views.dataset import MultiViewDataset

CPU = torch.device("cpu")


def test_draws_are_exact_whatever_networks_say(mixtures):
    """Moments of all sources, by enumeration; no denoiser is asked, no candidate compared."""
    n, observed = 8000, mixtures.observed((2, 4), n=2, masked=False)
    view = {
        "data": observed.y,
        "variance": 1.0,
        "mixing": dict(zip("ab", observed.designs, strict=True)),
    }
    loader = ViewLoader(MultiViewDataset.from_arrays({"view": view})["view"], 1.0, CPU)
    priors = Priors(
        NoiseSchedule(),
        mixtures=dict(zip("ab", observed.mixtures, strict=True)),
        denoisers={"a": None, "b": None},
    )
    draws = draw_sources(
        ExactMixture(),
        priors,
        loader,
        np.repeat([0, 1], n),
        Rows.of(1, ids=range(2 * n), device=CPU),
        chains=Chains(n_candidates=4, n_redraws=2),
        batch_size=3000,
        track=iter,
    )
    assert draws.n_redrawn == 0
    for i, x in enumerate(draws.x.unflatten(0, (2, n))):
        mixtures.assert_moments(x, *observed.moments(i))


def test_which_observations_it_draws(mixtures):
    method, small = ExactMixture(otherwise=MomentMatching()), {"a": (3,), "b": (2,)}
    priors = Priors(NoiseSchedule(), mixtures={"a": mixtures.make(1, 2, 3)})
    assert method.method_for(small) is method
    assert method.method_for(small, priors) is method.otherwise  # b has no mixture
    assert method.method_for({"a": (3,)}, priors) is method
    assert method.method_for({"a": (1, 3, 3)}) is method.otherwise


def test_colours_of_a_grey_image(mixtures):
    """The grey band is the mean of three: mean and covariance of all bands, by dense algebra.

    Scales of images have no part in it, though the prior has some.
    """
    rng, n, shape = np.random.default_rng(2), 4000, (3, 2, 2)
    mean, factor = rng.normal(size=12), rng.normal(size=(12, 12))
    prior = GaussianPrior(*(torch.tensor(x) for x in (mean, factor)), torch.tensor([0.0, 0.3]))
    priors = Priors(NoiseSchedule(), gaussians={"galaxy": prior}, denoisers={"galaxy": None})
    grey = Bands(np.full((1, 3), 1 / 3), shape)
    data = rng.normal(size=(1, 1, 2, 2)).astype(np.float32)
    view = {"data": data, "variance": 0.04, "mixing": {"galaxy": grey}}
    loader = ViewLoader(MultiViewDataset.from_arrays({"grey": view})["grey"], 1.0, CPU)
    draws = draw_sources(
        ExactGaussian(),
        priors,
        loader,
        np.zeros(n, dtype=int),
        Rows.of(1, ids=range(n), device=CPU),
        chains=Chains(),
        batch_size=n,
        track=iter,
    )
    A, covariance = np.tile(np.eye(4) / 3, 3), factor @ factor.T
    gain = covariance @ A.T @ np.linalg.inv(A @ covariance @ A.T + 0.04 * np.eye(4))
    expected = mean + gain @ (data.ravel() - A @ mean)
    mixtures.assert_moments(draws.x, expected, covariance - gain @ A @ covariance)
    grey_drawn = draws.x.view(n, 3, 4).mean(dim=1).numpy()
    assert np.abs(grey_drawn.mean(axis=0) - data.ravel()).max() < 0.1
