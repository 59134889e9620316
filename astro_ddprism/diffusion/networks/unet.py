"""U-Nets for images."""

import azula.nn.unet
import torch
from torch import Tensor, nn

from .embedding import _noise_embedding

__all__ = ["UNet"]


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
