"""Exact draws under mixtures."""

import numpy as np
import torch

from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.exact import ExactMixture
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows
from astro_ddprism.diffusion.sampling.chains import Chains, draw_sources
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
