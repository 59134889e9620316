"""Priors on the schedules of joint chains, and what all posterior methods have in common."""

import math

import numpy as np
import pytest
import torch
from azula.denoise import DiracPosterior
from azula.noise import VESchedule

from astro_ddprism.diffusion.jacobian import linearize
from astro_ddprism.diffusion.networks.mlp import MLP
from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.base import POSTERIORS, PosteriorMethod, Priors
from astro_ddprism.diffusion.posteriors.exact import ExactMixture
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.priors.build import build_denoiser
from astro_ddprism.diffusion.priors.gaussian import GaussianPrior, ScaleMixtureDenoiser
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.diffusion.random import Rows, seeded
from astro_ddprism.diffusion.sampling.chains import Chains
from astro_ddprism.errors import InputError

CPU = torch.device("cpu")
SIZE = 3


@pytest.fixture
def priors():
    """Of a source with a network up to 100, one up to 4000, one without a network up to 500."""
    with seeded(1, device=CPU):
        gaussians = {s: GaussianPrior(torch.randn(SIZE), torch.randn(SIZE, SIZE)) for s in "abc"}
        priors = Priors(
            NoiseSchedule(0.1, 100.0), gaussians=gaussians, sigma_max={"b": 4000.0, "c": 500.0}
        )
        for source in "ab":
            network = MLP(width=8, depth=1, embedding=4)
            priors.denoisers[source] = build_denoiser(
                network, (SIZE,), priors.schedule(source), 2.0
            ).requires_grad_(False)
    return priors


def test_joint_chains_have_the_largest_schedule(priors):
    for sources, top in (("a", 100), ("c", 500), ("ac", 500), ("abc", 4000), ("ca", 500)):
        schedule = priors.schedule(*sources)
        assert (schedule.sigma_min, schedule.sigma_max) == (0.1, top)


@pytest.mark.parametrize("noise", [0.1, 3.0, 99.0, 101.0, 3000.0])
def test_denoisers_on_one_schedule(priors, noise):
    """At each noise scale that of the source's own network, or of its Gaussian with its scales."""
    with seeded(2, device=CPU):
        x = noise * torch.randn(5, SIZE)
        scales = torch.rand(3, 5) + 0.5
    a, b, c = denoisers = priors.on_one_schedule("abc", scales)
    assert b is priors.denoisers["b"]  # which has that schedule anyhow
    assert [d.schedule.sigma_max for d in denoisers] == [4000.0] * 3
    own, joint = (math.log(noise / 0.1) / math.log(top / 0.1) for top in (100, 4000))
    gaussians = [
        ScaleMixtureDenoiser(priors.gaussians[s], scale, VESchedule(0.1, 4000.0))
        for s, scale in zip("abc", scales, strict=True)
    ]
    own, t = torch.tensor(own), torch.tensor(joint)
    expected = priors.denoisers["a"](x, own) if noise < 100 else gaussians[0](x, t)
    torch.testing.assert_close(a(x, t).mean, expected.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linearize(a, x, t)[0], expected.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(c(x, t).mean, gaussians[2](x, t).mean)
    assert not torch.equal(c(x, t).mean, ScaleMixtureDenoiser(
        priors.gaussians["c"], torch.ones(5), VESchedule(0.1, 4000.0)
    )(x, t).mean)  # fmt: skip


def test_own_denoisers_where_schedules_agree(priors):
    (alone,) = priors.on_one_schedule("a", torch.ones(1, 2))
    assert alone is priors.denoisers["a"]


class Doubling(PosteriorMethod):
    """A method with nothing but a denoiser."""

    def denoiser(self, _priors, observation):
        class Denoiser(torch.nn.Module):
            schedule = VESchedule(0.1, 100.0)

            def forward(self, x_t, _t):
                return DiracPosterior(mean=observation.y.expand_as(x_t))

        return Denoiser()


def test_a_denoiser_is_a_method(linear_problem):
    """Its chains begin at the top of the schedule and end in its mean, by any sampler."""
    observation = linear_problem(1, psf=True).observation(dtype=torch.float32)
    rows, method = Rows.of(1, ids=range(2), device=CPU), Doubling()
    begun = method.begin(None, observation, rows, start=0.3)
    assert begun.start == 1
    torch.testing.assert_close(begun.x, 100 * Rows.of(1, ids=range(2), device=CPU).normal(12))
    for sampler in ("ancestral", "heun", "predictor-corrector"):
        chains = Chains(sampler=sampler, n_steps=3)
        x = method.run(None, observation, rows, chains=chains, start=0.3)
        assert torch.equal(x, observation.y)
    assert not method.learns
    assert method.is_ready(None, ("a",))
    assert method.method_for({"a": (3,)}) is method
    assert method.approximates(None, ("a",))
    assert not method.continues(None, ("a",))
    assert method.serves(None, None, np.arange(3)).tolist() == [True] * 3


def test_methods_are_found_by_their_names():
    assert {"amortized", "mixture", "moment-matching"} <= set(POSTERIORS.names())
    assert POSTERIORS["mixture"] is ExactMixture
    assert PosteriorMethod.from_tree("moment-matching") == MomentMatching()
    solver = {"name": "cg", "iterations": 4}
    method = PosteriorMethod.from_tree({"name": "moment-matching", "solver": solver})
    assert method.to_tree() == {"name": "moment-matching", "solver": solver}
    with pytest.raises(InputError, match="posterior method: found 'gibs', expected one of amorti"):
        PosteriorMethod.from_tree("gibs")


def test_moment_matching_knows_when_chains_are_needed(priors):
    """Where a source has a network; of mixtures, which are exact together, where all have."""
    method, mixture = MomentMatching(), object()
    assert method.approximates(priors, ("a", "c"))
    assert not method.approximates(priors, ("c",))
    assert method.continues(priors, ("a", "c"))
    priors.mixtures = {"a": mixture, "c": mixture}
    assert not method.approximates(priors, ("a", "c"))
    assert method.approximates(priors, ("a",))
    assert not method.continues(priors, ("a", "c"))
    assert method.continues(priors, ("a", "b"))


SHAPES = {"a": (1, 4, 4), "b": (1, 4, 4)}


def test_another_method_draws_until_a_network_is_trained():
    method, priors = Amortized(otherwise=MomentMatching(solver="cg")), Priors(NoiseSchedule())
    assert method.method_for(SHAPES) is method  # is the one to be trained
    assert method.method_for(SHAPES, priors) is method.otherwise
    priors.learned["a", "b"] = torch.nn.Identity()
    assert method.method_for(SHAPES, priors) is method
    assert method.method_for({"b": (1, 4, 4)}, priors) is method.otherwise
    other_order = dict(reversed(SHAPES.items()))  # than that of the network's sources
    assert method.method_for(other_order, priors) is method.otherwise
    assert method.otherwise.method_for(SHAPES, priors) is method.otherwise
