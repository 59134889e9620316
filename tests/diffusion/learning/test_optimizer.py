"""Steps of weights, against singular values and weight by weight."""

import math

import pytest
import torch
from torch import nn

from astro_ddprism.diffusion.learning.optimizer import Optimizer, orthogonalized, weights_of
from astro_ddprism.diffusion.learning.training import _flattened, _parts


@pytest.mark.parametrize("shape", [(16, 16), (3, 24, 60), (2, 70, 20)])
def test_orthogonalized_by_singular_values(shape):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    told = s / s.square().sum(-1, keepdim=True).sqrt() > 0.01
    found = u.mT @ orthogonalized(x) @ vh.mT
    values = found.diagonal(dim1=-2, dim2=-1)
    assert (found - torch.diag_embed(values)).abs().max() < 1e-9  # the directions stay
    assert values[told].min() > 0.6
    assert values[told].max() < 1.3


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.GroupNorm(4, 32), nn.Conv2d(32, 32, 3),
        nn.Conv2d(32, 4, 1), nn.Flatten(), nn.Linear(16, 20), nn.Linear(20, 16),
    ).to(memory_format=torch.channels_last)  # fmt: skip


def test_what_is_moved_as_a_matrix(network):
    network[3].bias.requires_grad_(False)
    network.register_parameter("free", nn.Parameter(torch.zeros(20, 20)))
    matrices, others = weights_of(network)
    # Sides of 16 and more, such of a shape together; of convolutions alone.
    assert [tuple(w.shape) for w in matrices] == [
        (32, 3, 3, 3), (32, 32, 3, 3), (32, 32, 3, 3)
    ]  # fmt: skip
    assert {id(w) for w in [*matrices, *others]} == {
        id(w) for w in network.parameters() if w.requires_grad
    }
    assert any(w is network.free for w in others)


def test_steps_are_those_of_each_weight(network):
    """Matrices one by one in float64, others by AdamW of torch."""
    matrices, others = weights_of(network)
    weights = [*matrices, *others]
    flat, parts = _flattened(weights)
    gradient = torch.zeros_like(flat)
    gradients = _parts(gradient, weights)
    rate = torch.tensor(0.01)
    pairs, n = list(zip(parts, gradients, strict=True)), len(matrices)
    optimizer = Optimizer(pairs[:n], pairs[n:], rate)

    alone = [weight.detach().double().clone() for weight in weights]
    means = [torch.zeros_like(weight) for weight in alone]
    adam = torch.optim.AdamW(alone[n:], lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(2)
    for k in range(3):
        rate.fill_(0.01 / (k + 1))
        adam.param_groups[0]["lr"] = 0.01 / (k + 1)
        for own, weight in zip(gradients, alone, strict=True):
            own.copy_(torch.randn(own.shape, generator=generator))
            weight.grad = own.double()
        optimizer.step()
        adam.step()
        for weight, mean in zip(alone[:n], means, strict=False):
            mean.mul_(0.9).add_(0.1 * weight.grad)
            step = (0.9 * mean + 0.1 * weight.grad).flatten(1)
            size = 0.4 * math.sqrt(max(step.shape)) * 0.01 / (k + 1)
            weight.sub_(size * orthogonalized(step).reshape(weight.shape))
    for own, weight in zip(parts, alone, strict=True):
        torch.testing.assert_close(own.double(), weight, rtol=2e-4, atol=2e-6)
    # The momenta of matrices are there from the start, what AdamW makes comes last.
    assert len(optimizer.state()) == 2 + 3
    assert [tensor.shape[0] for tensor in optimizer.state()[:2]] == [1, 2]


@pytest.mark.parametrize("module", [nn.Linear(20, 20), nn.Conv2d(20, 20, 1, bias=False)])
def test_one_kind_alone(module):
    """None of a convolution, and of a convolution alone."""
    matrices, others = weights_of(module)
    assert (len(matrices), len(others)) in ((0, 2), (1, 0))
    before = module.weight.detach().clone()
    pairs = [(weight.data, torch.ones_like(weight)) for weight in [*matrices, *others]]
    if others:  # such that lie in one tensor
        flat, parts = _flattened(others)
        pairs = list(zip(parts, _parts(torch.ones_like(flat), others), strict=True))
        module.weight.data = parts[0]
    Optimizer(*((pairs, []) if matrices else ([], pairs)), torch.tensor(0.1)).step()
    assert (module.weight < before).all()
