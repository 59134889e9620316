r"""Pixels that simulated observations lose, as real ones do.

Each image loses pixels in a few of these ways: single ones at random, as many as a fifth of all;
*segments*, which are cosmic rays, trails, columns and bleeding, by their length, width and angle;
*discs*, the holes of saturated cores; and an *edge* of the image, beyond which there is nothing.
Half of the segments and discs lie about the middle, where the target is. In half of the images all
bands lose the same pixels, in the others each loses its own. An image that would lose more than
`MOST` of its pixels loses none.

All shapes are of the size of the batch, and no number is asked of the device.
"""

__all__ = ["MOST", "lost_pixels"]

import math

import torch
from torch import Tensor

#: The largest part of the pixels that an image loses.
MOST = 0.4
# Segments and discs of an image, and the chance of each; those of an edge and of single pixels.
N_SHAPES, SHAPE, EDGE, SINGLE = 3, 0.4, 0.15, 0.4


def lost_pixels(n: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Draw which pixels are lost, with torch's random numbers.

    Parameters
    ----------
    n : int
        Number of images.
    shape : tuple of int
        Their shape, ``(bands, ny, nx)``.
    device : torch.device
        Where they are.

    Returns
    -------
    torch.Tensor of bool
        True where a pixel is lost, ``(n, *shape)``.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.diffusion.masks import lost_pixels
    >>> lost = lost_pixels(5, (2, 32, 32), torch.device("cpu"))
    >>> lost.shape, bool(lost.float().mean(dim=(2, 3)).max() <= 0.4)
    (torch.Size([5, 2, 32, 32]), True)
    """
    bands, ny, nx = shape
    size = max(ny, nx)
    y = torch.arange(ny, device=device).view(ny, 1) - ny // 2
    x = torch.arange(nx, device=device) - nx // 2

    def uniform(low=0.0, high=1.0, number=1):
        return low + (high - low) * torch.rand(n, bands, number, 1, 1, device=device)

    def happens(chance, number=1):
        return uniform(number=number) < chance

    # Segments and discs: where they are, half of them near the target; how long and how wide.
    spread = torch.where(happens(0.5, N_SHAPES), min(size / 2, 6.0), size / 2)
    dy, dx = (axis - spread * uniform(-1, 1, N_SHAPES) for axis in (y, x))
    quarter = math.pi / 2
    angle = uniform(0, 2 * quarter, N_SHAPES)
    angle = torch.where(happens(0.5, N_SHAPES), (angle / quarter).round() * quarter, angle)
    along = dx * angle.cos() + dy * angle.sin()
    across = dy * angle.cos() - dx * angle.sin()
    length = uniform(0, math.log(2 * size), N_SHAPES).exp() / 2
    width = uniform(0, math.log(4), N_SHAPES).exp() / 2
    radius = uniform(0, math.log(size / 5 + 1), N_SHAPES).exp()
    segments = (along.abs() <= length) & (across.abs() <= width)
    discs = dx.square() + dy.square() <= radius.square()
    shapes = torch.where(happens(0.7, N_SHAPES), segments, discs) & happens(SHAPE, N_SHAPES)
    # An edge, on one of four sides, and single pixels.
    side = uniform(0, 4).floor()
    beyond = torch.where(side < 2, y + 0 * x, x + 0 * y) * (1 - 2 * (side % 2))
    edges = (beyond > size / 2 * uniform(0.2, 1)) & happens(EDGE)
    part = uniform(math.log(1 / (ny * nx)), math.log(0.2)).exp()
    single = (torch.rand(n, bands, 1, ny, nx, device=device) < part) & happens(SINGLE)
    lost = torch.cat([shapes, edges, single], dim=2).any(dim=2)
    lost = torch.where(torch.rand(n, 1, 1, 1, device=device) < 0.5, lost[:, :1], lost)
    return lost & (lost.float().mean(dim=(2, 3), keepdim=True) <= MOST)
