"""Which posterior method draws."""

import torch

from astro_ddprism.diffusion.posteriors.amortized import Amortized
from astro_ddprism.diffusion.posteriors.base import Priors
from astro_ddprism.diffusion.posteriors.moment_matching import MomentMatching
from astro_ddprism.diffusion.priors.schedule import NoiseSchedule

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
