r"""Backbones: the trainable part of a denoiser.

A backbone maps features of the noisy source, ``(B, C, *shape)``, and the logarithm of the noise
scale, ``(B,)`` or one for all ``(1,)``, to one output of the source's shape. What the features are,
and how the output becomes an estimate of the clean source, is the denoiser's business
(`~astro_ddprism.diffusion.denoiser`). A backbone may know in closed form what its Jacobian does to
vectors, as `MLP` does; the others are differentiated automatically.
"""

__all__ = ["BACKBONES", "MLP", "UNet"]

import azula.nn.unet
import torch
from azula.nn.layers import SineEncoding
from torch import Tensor, nn

from .jacobian import linearize


def _noise_embedding(features: int) -> nn.Module:
    return nn.Sequential(
        SineEncoding(features, omega=1e2), nn.Linear(features, features), nn.SiLU()
    )


class UNet(nn.Module):
    """A U-Net for images, azula's, on patches of pixels.

    Beside the features it is given, the network sees each pixel's distance from the image's centre:
    a galaxy sits at the centre and other light anywhere, and a network that cannot know where the
    centre is cannot tell them apart. Working on patches moves most of the arithmetic away from the
    full resolution, where a CPU is bound by memory: with patches of 2 the cost of an image falls to
    a half.

    Parameters
    ----------
    shape : tuple of int
        Shape of the source, ``(bands, ny, nx)``; ``ny`` and ``nx`` are padded to whole patches.
    n_features : int
        Number of feature maps for each band.
    channels : sequence of int
        Channels at each depth.
    blocks : sequence of int
        Residual blocks at each depth.
    patch : int
        Side of a patch, in pixels.
    embedding : int
        Features that encode the noise scale.
    """

    def __init__(
        self, shape, n_features, *, channels=(32, 64), blocks=(1, 1), patch=2, embedding=64
    ):
        super().__init__()
        bands, ny, nx = shape
        self.patch = patch
        self.padding = (-nx % patch, -ny % patch)
        self.embedding = _noise_embedding(embedding)
        self.unet = azula.nn.unet.UNet(
            in_channels=(bands * n_features + 1) * patch**2,
            out_channels=bands * patch**2,
            hid_channels=channels,
            hid_blocks=blocks,
            norm="rms",
            mod_features=embedding,
        ).to(memory_format=torch.channels_last)
        y, x = torch.meshgrid(
            torch.arange(ny) - (ny - 1) / 2, torch.arange(nx) - (nx - 1) / 2, indexing="ij"
        )
        self.register_buffer("radius", torch.hypot(y, x) / 8, persistent=False)

    def forward(self, features: Tensor, log_sigma: Tensor) -> Tensor:
        """Map features ``(B, C, bands, ny, nx)`` to ``(B, bands, ny, nx)``."""
        ny, nx = features.shape[-2:]
        radius = self.radius.to(features).expand(len(features), 1, ny, nx)
        h = torch.cat([features.flatten(1, 2), radius], dim=1)
        h = nn.functional.pad(h, (0, self.padding[0], 0, self.padding[1]))
        h = nn.functional.pixel_unshuffle(h, self.patch)
        h = h.contiguous(memory_format=torch.channels_last)
        h = self.unet(h, self.embedding(log_sigma))
        return nn.functional.pixel_shuffle(h, self.patch)[..., :ny, :nx]


class MLP(nn.Module):
    """A residual multilayer perceptron for sources of a few features.

    Parameters
    ----------
    shape : tuple of int
        Shape of the source, flattened by the network.
    n_features : int
        Number of feature maps for each element of the source.
    width : int
        Width of the hidden layers.
    depth : int
        Number of hidden layers.
    embedding : int
        Features that encode the noise scale.
    """

    def __init__(self, shape, n_features, *, width=256, depth=3, embedding=64):
        super().__init__()
        size = torch.Size(shape).numel()
        self.shape = tuple(shape)
        self.embedding = _noise_embedding(embedding)
        self.first = nn.Linear(n_features * size + embedding, width)
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
            for _ in range(depth)
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
def _(network: MLP, features, log_sigma):
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


#: Backbones by name.
BACKBONES = {"unet": UNet, "mlp": MLP}
