"""Multilayer perceptrons for sources of a few numbers, with their Jacobian in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...registry import option
from ..jacobian import linearize
from .base import NETWORKS, Network
from .embedding import noise_embedding

__all__ = ["MLP", "MLPBackbone"]


@NETWORKS.register("mlp")
@dataclass(frozen=True)
class MLP(Network):
    """A residual multilayer perceptron for sources of a few features.

    Parameters
    ----------
    width : int
        Width of the hidden layers.
    depth : int
        Number of hidden layers.
    embedding : int
        Features that encode the noise scale.
    """

    width: int = option(256, least=1)
    depth: int = option(3, least=0)
    embedding: int = option(64, least=2)

    def build(self, shape, n_features):  # noqa: D102
        return MLPBackbone(self, shape, n_features)


class MLPBackbone(nn.Module):
    """The network that an `MLP` describes.

    Parameters
    ----------
    options : MLP
        Its options.
    shape : tuple of int
        Shape of the output, which the network flattens.
    n_features : int
        Number of feature maps for each element of the output.
    """

    #: What it learns may be thinner than the rounding of a lower precision.
    precise = True

    def __init__(self, options: MLP, shape, n_features: int):
        super().__init__()
        width = options.width
        size = torch.Size(shape).numel()
        self.shape = tuple(shape)
        self.embedding = noise_embedding(options.embedding)
        self.first = nn.Linear(n_features * size + options.embedding, width)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
            for _ in range(options.depth)
        )
        self.last = nn.Linear(width, size)

    def _first(self, features: Tensor, log_sigma: Tensor) -> Tensor:
        features, weight = features.flatten(1), self.first.weight
        size = features.shape[1]
        encoding = self.embedding(log_sigma)  # one row where one noise scale is that of all
        noise = nn.functional.linear(encoding, weight[:, size:], self.first.bias)
        return torch.addmm(noise, features, weight[:, :size].T)

    def forward(self, features: Tensor, log_sigma: Tensor) -> Tensor:
        """Map features ``(B, C, *shape)`` to ``(B, *shape)``."""
        h = nn.functional.silu(self._first(features, log_sigma))
        for layer in self.hidden:
            h = h + layer(h)
        return self.last(h).unflatten(1, self.shape)


@linearize.register
@torch.no_grad()
def _(network: MLPBackbone, features, log_sigma):
    # With n = (h - mean) / rho, the normalized h of D elements, a residual layer h + silu(W n + b)
    # pulls back g to g + W^T q - n (n . W^T q) / D, where q = silu' g / rho. As W n is known,
    # n . W^T q = (W n) . q takes no product of its own.
    h, first_slope = _silu(network._first(features, log_sigma))
    layers = []
    for norm, linear, _ in network.hidden:
        # Centring, and the normalization's own factors and offsets, are a part of W and b.
        weight = linear.weight * norm.weight
        weight = weight - weight.mean(dim=1, keepdim=True)
        bias = linear.bias + linear.weight @ norm.bias
        n, _, scale = torch.native_layer_norm(h, norm.normalized_shape, None, None, norm.eps)
        image = nn.functional.linear(n, weight)
        value, slope = _silu(image + bias)
        h = h + value
        slope *= scale.to(h)
        layers.append((weight, n, slope, image * slope))

    @torch.no_grad()
    def pullback(v):
        g = v.flatten(2) @ network.last.weight
        for weight, n, slope, radial in reversed(layers):
            q = g * slope
            g.addcmul_((g * radial).mean(dim=-1, keepdim=True), n, value=-1)
            g.view(-1, weight.shape[1]).addmm_(q.view(-1, weight.shape[1]), weight)
        g *= first_slope
        # Transposed: a product of few rows is several times faster than one of few columns.
        size = features[0].numel()
        g = (network.first.weight[:, :size].T @ g.flatten(0, 1).T).T
        return g.reshape(*v.shape[:2], *features.shape[1:])

    return network.last(h).unflatten(1, network.shape), pullback


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    """The activation and its derivative."""
    gate = torch.sigmoid(a)
    value = a * gate
    return value, torch.lerp(value, value.new_ones(()), gate)
