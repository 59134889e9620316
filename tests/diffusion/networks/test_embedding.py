"""What networks are told of the noise scale."""

import pytest
import torch

from astro_ddprism.diffusion.networks.embedding import noise_embedding
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.errors import InputError


def test_noise_scales_are_told_apart():
    """A per cent of the noise scale anywhere over seven decades, each by itself."""
    with seeded(1, device=torch.device("cpu")):
        embed = noise_embedding(16)
    log_sigma = torch.linspace(-5, 11, 33)
    found, near = embed(log_sigma), embed(log_sigma + 0.01)
    assert found.shape == (33, 16)
    assert ((found - near).abs().amax(dim=1) > 1e-4).all()
    assert torch.pdist(found).min() > 0.01
    torch.testing.assert_close(embed(log_sigma[5:6]), found[5:6])


def test_sines_come_in_pairs():
    with pytest.raises(InputError, match="embedding: found 3, expected an even number"):
        noise_embedding(3)
