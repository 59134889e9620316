"""Denoisers from their descriptions."""

import torch
from azula.noise import VESchedule

from astro_ddprism.diffusion.networks import MLP, UNet
from astro_ddprism.diffusion.priors.build import build_denoiser, default_network
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.priors.mixture import MixtureDenoiser, MixtureResidualDenoiser

SCHEDULE = VESchedule(0.1, 100.0)


def test_images_have_a_unet_and_vectors_a_perceptron():
    assert default_network((1, 8, 8)) == UNet()
    assert default_network((5,)) == MLP()
    assert default_network((2, 3)) == MLP()


def test_what_is_built(mixtures):
    """With a mixture, the network begins where its denoiser ends: the difference is small."""
    network, mixture = MLP(width=8, depth=1, embedding=4), mixtures.make(1, 4, 3)
    plain, beside = (build_denoiser(network, (3,), SCHEDULE, 2.0, m) for m in (None, mixture))
    assert type(plain) is SourceDenoiser
    assert type(beside) is MixtureResidualDenoiser
    for denoiser in (plain, beside):
        assert denoiser.schedule is SCHEDULE
        assert denoiser.data_scale == 2
        assert denoiser.backbone.shape == (3,)
    x, t = mixture.means.float(), torch.tensor(0.0)
    expected = MixtureDenoiser(mixture, SCHEDULE)(x, t).mean
    assert (beside(x, t).mean - expected).abs().max() < 0.1  # the smallest noise scale
