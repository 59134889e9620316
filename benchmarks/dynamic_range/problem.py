r"""Galaxies and line-of-sight light from below the noise to thousands of times above it.

An image of unit noise holds a galaxy near its centre, whose brightest pixel is uniform in its
logarithm, and may hold other galaxies anywhere. Shapes are those of Sérsic galaxies behind a Moffat
PSF; any flux goes with any shape, so that a training set never ends and what is learned is limited
by the network alone.
"""

from dataclasses import dataclass

import numpy as np
import torch

from astro_ddprism import View
from astro_ddprism.diffusion.learning.symmetries import SYMMETRIES, random_transform
from astro_ddprism.mixing import Convolution, Identity
from astro_ddprism.simulate.profiles import MoffatRenderer

__all__ = ["LIGHT", "SHAPE", "SIZE", "Light", "observe"]

SIZE = 24  # pixels on a side of an image
SHAPE = (1, SIZE, SIZE)
STAMP = 56  # and of a stamp, from which an image is cut so that its galaxy lies where it should
MARGIN = 4  # pixels beyond the edges, where line-of-sight galaxies may lie too
#: The sources.
LIGHT = ("galaxy", "los")


@dataclass
class Light:
    """Random images of both sources, in units of the noise.

    Parameters
    ----------
    n_shapes : int
        Number of different galaxies.
    peaks : tuple of float
        Range of a galaxy's brightest pixel.
    n_los : float
        Mean number of line-of-sight galaxies in the image and its margin.
    los_slope : float
        Their brightest pixels are distributed as ``p**-los_slope`` in equal ranges of ``log p``.
    seed : int
        Of the shapes.
    """

    n_shapes: int
    peaks: tuple[float, float]
    n_los: float
    los_slope: float
    seed: int

    def __post_init__(self):
        rng, renderer = np.random.default_rng(self.seed), MoffatRenderer(2.4)
        stamps = []
        for _ in range(self.n_shapes):
            disc = rng.random() < 0.8
            x, y = STAMP // 2 + rng.uniform(-0.5, 0.5, 2)
            stamp, _ = renderer.stamp(
                x,
                y,
                size=STAMP,
                radius=2.0 * 10 ** (0.15 * rng.standard_normal()),
                n=1.0 if disc else 4.0,
                axis_ratio=rng.uniform(0.3, 1.0) if disc else rng.uniform(0.6, 1.0),
                theta=rng.uniform(0, np.pi),
            )
            stamps.append(stamp / stamp.max())
        self._stamps = torch.as_tensor(np.stack(stamps), dtype=torch.float32)

    def draw(self, source: str, n: int) -> torch.Tensor:
        """Images of one source, of shape (n, 1, SIZE, SIZE)."""
        x = self.galaxies(n) if source == "galaxy" else self.los(n)
        return random_transform(x, SYMMETRIES)

    def galaxies(self, n: int) -> torch.Tensor:
        """A galaxy within a pixel of the centre, once `random_transform` has turned the image."""
        corner = torch.full((n, 2), (STAMP - SIZE) // 2)
        return (
            brightest_pixels(n, self.peaks, 0.0)[:, None, None, None] * self._cut(corner)[:, None]
        )

    def los(self, n: int) -> torch.Tensor:
        """Galaxies at random places."""
        image = torch.repeat_interleave(torch.poisson(torch.full((n,), self.n_los)).long())
        low = STAMP // 2 - SIZE - MARGIN + 1
        corner = torch.randint(low, STAMP // 2 + MARGIN + 1, (len(image), 2))
        light = brightest_pixels(len(image), self.peaks, self.los_slope)[:, None, None] * self._cut(
            corner
        )
        return torch.zeros(n, SIZE, SIZE).index_add(0, image, light)[:, None]

    def _cut(self, corner):
        index = torch.randint(self.n_shapes, (len(corner), 1, 1))
        rows, columns = corner[:, :, None].add(torch.arange(SIZE)).unbind(1)
        return self._stamps[index, rows[:, :, None], columns[:, None]]


def brightest_pixels(n: int, limits, slope: float) -> torch.Tensor:
    """Random numbers with dN / d log p proportional to p^-slope."""
    low, high = limits
    quantile = torch.rand(n)
    if slope == 0:
        return low * (high / low) ** quantile
    return (low**-slope + quantile * (high**-slope - low**-slope)) ** (-1 / slope)


def observe(truth: dict[str, torch.Tensor], *, degraded: bool) -> View:
    """Observe sources with unit noise.

    Parameters
    ----------
    truth : dict of str to torch.Tensor
        Images, of shape (N, 1, SIZE, SIZE).
    degraded : bool
        Through a wider PSF, with a tenth of the pixels and two columns masked; or as they are.

    Returns
    -------
    View
    """
    operator = Convolution(_gaussian(1.3), SHAPE) if degraded else Identity(SHAPE)
    light = sum(operator(x) for x in truth.values())
    data = (light + torch.randn_like(light)).numpy()
    if degraded:
        data[torch.rand(data.shape).numpy() < 0.1] = np.nan
        first = torch.randint(SIZE - 1, (len(data),)).numpy()
        for image, column in zip(data, first, strict=True):
            image[..., column : column + 2] = np.nan
    return View(data, variance=1.0, mixing=dict.fromkeys(truth, operator))


def _gaussian(width: float, half: int = 5) -> np.ndarray:
    """A Gaussian PSF of this standard deviation."""
    x = np.exp(-0.5 * (np.arange(-half, half + 1) / width) ** 2)
    return np.outer(x, x) / x.sum() ** 2
