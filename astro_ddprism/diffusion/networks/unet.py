"""U-Nets for images."""

from dataclasses import dataclass

import azula.nn.unet
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...registry import option
from .base import NETWORKS, Network
from .embedding import noise_embedding

__all__ = ["UNet", "UNetBackbone"]


@NETWORKS.register("unet")
@dataclass(frozen=True)
class UNet(Network):
    """A U-Net for images, azula's, on patches of pixels.

    Beside the features it is given, the network sees each pixel's distance from the image's centre:
    a galaxy sits at the centre and other light anywhere, and a network that cannot know where the
    centre is cannot tell them apart. Working on patches moves most of the arithmetic away from the
    full resolution, where a CPU is bound by memory: with patches of 2 the cost of an image falls to
    a half.

    Parameters
    ----------
    channels : tuple of int
        Channels at each depth.
    blocks : tuple of int
        Residual blocks at each depth.
    patch : int
        Side of a patch, in pixels; images are padded to whole ones.
    embedding : int
        Features that encode the noise scale.
    """

    channels: tuple[int, ...] = option((32, 64), least=1)
    blocks: tuple[int, ...] = option((1, 1), least=1)
    patch: int = option(2, least=1)
    embedding: int = option(64, least=2)

    def __post_init__(self):
        super().__post_init__()
        if len(self.channels) != len(self.blocks):
            raise InputError(
                f"UNet.blocks: found {len(self.blocks)} for {len(self.channels)} channels, "
                "expected one for each depth"
            )

    def build(self, shape, n_features):  # noqa: D102
        if len(shape) != 3:
            raise InputError(f"UNet: found a source of shape {shape}, expected an image")
        return UNetBackbone(self, shape, n_features)


class UNetBackbone(nn.Module):
    """The network that a `UNet` describes.

    Parameters
    ----------
    options : UNet
        Its options.
    shape : tuple of int
        Shape of the output, ``(bands, ny, nx)``.
    n_features : int
        Number of feature maps for each band.
    """

    def __init__(self, options: UNet, shape, n_features: int):
        super().__init__()
        bands, ny, nx = shape
        self.patch = patch = options.patch
        self.padding = (-nx % patch, -ny % patch)
        self.embedding = noise_embedding(options.embedding)
        self.unet = azula.nn.unet.UNet(
            in_channels=(bands * n_features + 1) * patch**2,
            out_channels=bands * patch**2,
            hid_channels=options.channels,
            hid_blocks=options.blocks,
            norm="rms",
            mod_features=options.embedding,
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
