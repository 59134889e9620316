r"""What is known of sources' pixels without a network, and the output that adds what is not.

The mean :math:`\mu` and the covariance :math:`C` of
`~astro_ddprism.diffusion.posteriors.amortized`, pixel by pixel.
"""

__all__ = ["Estimate"]

import torch
from torch import Tensor


class Estimate:
    """Mean and covariance of the sources' pixels, each by itself, given all but the network."""

    def __init__(self, mean, variance, residual, given):
        u2 = variance * given.information
        total = u2.sum(dim=1, keepdim=True)
        self._total = 1 + total
        self._scale = variance.sqrt()
        self._direction = given.sign * (u2 / total.clip(min=1e-30)).sqrt()
        self.mean = torch.addcdiv(mean, variance * residual, self._total)
        # The residual in units of its standard deviation, as far as each source can explain it.
        self.surprise = residual * given.deviation * self._total.rsqrt()

    def add(self, output: Tensor) -> Tensor:
        """The estimate: the mean plus C^(1/2) F."""
        shrink = 1 - self._total.rsqrt()
        return self.mean + self._scale * (output - shrink * self._along(output) * self._direction)

    def remove(self, x: Tensor) -> Tensor:
        """The output F that gives x."""
        whitened = (x - self.mean) / self._scale
        stretch = self._total.sqrt() - 1
        return whitened + stretch * self._along(whitened) * self._direction

    def power(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Mean square of outputs along the sum of the sources, and of the rest: (B,) each."""
        along = self._along(output)
        rest = (output - along * self._direction).square().sum(dim=1)
        return along.square().flatten(1).mean(dim=1), rest.flatten(1).mean(dim=1)

    def _along(self, output: Tensor) -> Tensor:
        return (self._direction * output).sum(dim=1, keepdim=True)
