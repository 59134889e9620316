r"""The light that posterior samples make of observations, and what is left of these without it.

Of each joint sample :math:`(x^1, \dots, x^S)` of an observation :math:`y`: the light
:math:`\sum_\beta A^\beta x^\beta`, the residuals
:math:`r = (y - \sum_\beta A^\beta x^\beta) / \sigma`, and the sum of the squared *whitened* ones,
:math:`\chi^2 = \| W (y - \sum_\beta A^\beta x^\beta) \|^2`. Where the light has photon noise of its
own, :math:`\sigma` and :math:`W` are those of the light of that sample.

Samples and observations are mapped together, as many images at a time as a bounded memory holds. Of
few observations each is repeated for several samples; of many, every batch serves all samples, so
that what belongs to an observation, such as the transform of its PSF, is made once. Whoever asks
for :math:`\chi^2` or for the mean residual has both from one pass, and they are kept: together they
are no larger than the observations.
"""

import functools
import math

import numpy as np
import torch

from ..errors import InputError
from ..mixing.base import as_tensor
from ..views.view import View

__all__ = ["Light"]

# Of the images (or sources, if these are larger) that are mapped at a time: bounds the memory.
N_PIXELS = 2**19


class Light:
    """The light of joint samples of the sources of one instrument's observations.

    Parameters
    ----------
    samples : mapping of str to ndarray, shape (n_samples, N, *source_shape)
        Samples of each source, in the view's unit.
    view : View
        The observations.
    device : torch.device or str
        Where it is computed, in the floating-point type of the view's data.

    Raises
    ------
    InputError
        If the view has images of several instruments.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import View
    >>> from astro_ddprism.mixing import Identity
    >>> from astro_ddprism.posterior.light import Light
    >>> view = View(np.full((1, 1, 2, 2), 5.0), variance=4.0, mixing={"a": Identity((1, 2, 2))})
    >>> light = Light({"a": np.ones((3, 1, 1, 2, 2))}, view)
    >>> light.mean_residual[0, 0]
    array([[2., 2.],
           [2., 2.]], dtype=float32)
    >>> light.sum_of_squares.tolist()
    [[16.0], [16.0], [16.0]]
    """

    def __init__(self, samples, view, device="cpu"):
        if not isinstance(view, View):
            names = ", ".join(map(repr, view.images))
            raise InputError(
                f"samples: found images of several instruments, expected one: images[...] with one "
                f"of {names}"
            )
        self.samples, self.view, self.device = samples, view, device
        self.n_samples = len(next(iter(samples.values())))

    def mixed(self, sources) -> np.ndarray:
        r"""What some sources make of the observations together, without noise.

        Parameters
        ----------
        sources : sequence of str
            Their names.

        Returns
        -------
        light : ndarray, shape (n_samples, N, *observation_shape)
            :math:`\sum_\beta A^\beta x^\beta`.
        """
        mixed = np.empty((self.n_samples, *self.view.data.shape), self.view.data.dtype)
        for pairs, _, light in self._batches(sources, np.arange(len(self.view))):
            mixed[pairs] = _as_pairs(light, pairs).cpu()
        return mixed

    def residual(self) -> np.ndarray:
        """Residuals in units of each pixel's noise.

        Returns
        -------
        residual : ndarray, shape (n_samples, N, *observation_shape)
            NaN at masked pixels.
        """
        residual = np.full((self.n_samples, *self.view.data.shape), np.nan, self.view.data.dtype)
        for pairs, noise, left in self._residuals():
            residual[pairs] = _as_pairs(left / noise.variance.sqrt(), pairs).cpu()
        residual[:, self.view.mask] = np.nan
        return residual

    @property
    def mean_residual(self) -> np.ndarray:
        """Mean of `residual` over the samples: ndarray, shape (N, *observation_shape)."""
        return self._summary[0]

    @property
    def residual_variance(self) -> np.ndarray:
        """Mean squared deviation of `residual` from its mean: ndarray, shape (N, ...)."""
        return self._summary[1]

    @property
    def sum_of_squares(self) -> np.ndarray:
        """Sum of each observation's squared whitened residuals: ndarray, shape (n_samples, N)."""
        return self._summary[2]

    @functools.cached_property
    def _summary(self):
        """Mean and variance of the residuals, and sums of squares."""
        mean, variance = np.zeros_like(self.view.data), np.zeros_like(self.view.data)
        squares = np.zeros((self.n_samples, len(self.view)))
        for pairs, noise, left in self._residuals():
            standardized = _as_pairs(left / noise.variance.sqrt(), pairs)
            mean[pairs[1][0]] += standardized.sum(0).cpu().numpy()
            variance[pairs[1][0]] += standardized.square().sum(0).cpu().numpy()
            squares[pairs] = _as_pairs(noise.whiten(left).square().flatten(1).sum(1), pairs).cpu()
        mean /= self.n_samples
        variance /= self.n_samples
        variance -= np.minimum(mean**2, variance)  # by rounding alone it may be larger
        for values in (mean, variance):
            values[self.view.mask] = np.nan
        for values in (mean, variance, squares):
            values.flags.writeable = False
        return mean, variance, squares

    def _residuals(self):
        """What is left of the observations that were seen, a batch at a time, and its noise."""
        seen = np.flatnonzero(self.view.n_valid())
        for pairs, batch, light in self._batches(self.view.sources, seen):
            yield pairs, batch.noise.at(light), batch.y - light

    def _batches(self, sources, rows):
        """Pairs of samples and observations, their batch and the light of sources in them."""
        view = self.view
        shapes = view.observation_shape, *view.source_shapes.values()
        n_images = max(1, N_PIXELS // max(math.prod(shape) for shape in shapes))
        dtype = torch.from_numpy(view.data[:0]).dtype
        for first in range(0, len(rows), n_images):
            some, batch = rows[first : first + n_images], None
            n_together = min(n_images // len(some), self.n_samples)
            n_passes = -(-self.n_samples // n_together)
            for draws in np.array_split(np.arange(self.n_samples), n_passes):
                pairs = np.ix_(draws, some)
                if batch is None or len(batch.y) != len(draws) * len(some):
                    index = np.tile(some, len(draws))  # in the order of the pairs
                    batch = view.batch(index, device=self.device, dtype=dtype)
                light = sum(
                    batch.mixing[source](self._tensor(source, pairs, dtype)) for source in sources
                )
                yield pairs, batch, light

    def _tensor(self, source, pairs, dtype):
        values = np.asarray(self.samples[source])[pairs]
        return as_tensor(values.reshape(-1, *values.shape[2:]), dtype).to(self.device)


def _as_pairs(tensor, pairs):
    """Rows of a batch by sample and observation."""
    return tensor.unflatten(0, (pairs[0].size, pairs[1].size))
