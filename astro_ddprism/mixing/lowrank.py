r"""Noise with a few patterns of its own on top of another.

What is left of a background, of fringes, of the wings of a bright star or of a template that was
subtracted has a known pattern :math:`u_k` in the image and an unknown amplitude, a Gaussian of unit
variance. With the noise :math:`\Sigma_0` of the pixels, and :math:`U = (u_1, \dots, u_R)`,

.. math:: \Sigma = \Sigma_0 + U U^\top .

With the whitening :math:`W_0` of :math:`\Sigma_0`, with :math:`V = W_0 U` and the eigenvectors and
eigenvalues of the small matrix :math:`V^\top V = Q \Lambda Q^\top`,

.. math:: (I + V V^\top)^s = I + V Q \, \frac{(1 + \Lambda)^s - 1}{\Lambda} \, Q^\top V^\top,
          \qquad W = (I + V V^\top)^{-1/2} \, W_0 .

For :math:`s = -1` this is Woodbury's identity. No step divides by a small eigenvalue: the patterns
may be parallel, or vanish under the mask.
"""

import copy

import torch

from ..errors import InputError
from .base import array_dtype, as_tensor, move, select
from .noise import Noise, noise_from_state

__all__ = ["LowRankNoise"]


class LowRankNoise(Noise):
    """Gaussian noise of a few known patterns, added to noise of another kind.

    Parameters
    ----------
    noise : Noise
        Noise of the pixels; its pixels without information are those of the sum.
    patterns : array_like, shape (R, *observation_shape) or (N, R, *observation_shape)
        One standard deviation of each pattern, for all observations or for each. Values at pixels
        without information are not used.

    Raises
    ------
    InputError
        If the patterns have another shape, or values that are not finite at pixels with
        information.

    Examples
    --------
    An unknown constant background of standard deviation 3, on noise of standard deviation 1:

    >>> import torch
    >>> from astro_ddprism.mixing import DiagonalNoise, LowRankNoise
    >>> noise = LowRankNoise(DiagonalNoise(torch.ones(1, 1, 2)), torch.full((1, 1, 2), 3.0))
    >>> noise.whiten(torch.tensor([[[1.0, -1.0]]]))
    tensor([[[ 1., -1.]]])
    >>> noise.whiten(torch.tensor([[[1.0, 1.0]]])).round(decimals=3)
    tensor([[[0.2290, 0.2290]]])
    """

    def __init__(self, noise, patterns):
        self.noise, self._modes = noise, None
        own, shape, n = noise.variance, noise.shape, noise.n_observations
        patterns = as_tensor(patterns, own.dtype).to(own.device)
        found = tuple(patterns.shape)
        self.patterns = patterns[None] if len(found) == len(shape) + 1 else patterns
        if self.patterns.shape[2:] != shape or len(self.patterns) not in (1, n) or 0 in found:
            sizes = ", ".join(map(str, shape))
            raise InputError(
                f"patterns: found shape {found}, expected (R, {sizes}) or ({n}, R, {sizes})"
            )
        if not (torch.isfinite(self.patterns) | ~self.valid[:, None]).all():
            raise InputError("patterns: found values that are not finite")

    @property
    def valid(self):
        """True at pixels with information, shape (N, *observation_shape)."""
        return self.noise.valid

    @property
    def variance(self):
        """Variance of every pixel, that of the patterns included; infinite without information."""
        patterns = torch.where(self.valid, self.patterns.square().sum(1), torch.inf)
        return self.noise.variance + patterns

    @property
    def factors_size(self):
        """Bytes of what whitening has to know, beside the noise itself."""
        n = self.n_observations * self.patterns[0].nbytes
        return n + self.noise.factors_size

    @property
    def modes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Whitened patterns V (N, R, n), eigenvalues (N, R) and eigenvectors (N, R, R) of V^T V."""
        if self._modes is None:
            with torch.no_grad():
                patterns = self.patterns.expand(self.n_observations, *self.patterns.shape[1:])
                V = torch.stack([self.noise.whiten(u).flatten(1) for u in patterns.unbind(1)], 1)
                eigenvalues, Q = torch.linalg.eigh((V @ V.mT).double())
                self._modes = V, eigenvalues.clip(min=0).to(V), Q.to(V)
        return self._modes

    def _power(self, t, exponent):
        """(I + V V^T)^exponent t."""
        V, eigenvalues, Q = self.modes
        tiny = torch.finfo(V.dtype).tiny
        # The limit at 0 is the exponent; in the quotient, expm1(s log1p(x)) / x has it.
        gain = torch.expm1(exponent * torch.log1p(eigenvalues)) / eigenvalues.clip(min=tiny)
        gain = torch.where(eigenvalues > tiny, gain, exponent)
        amplitudes = V @ t.flatten(1)[..., None]
        amplitudes = Q @ (gain[..., None] * (Q.mT @ amplitudes))
        return t + (V.mT @ amplitudes).view_as(t)

    def _whiten(self, r):
        return self._power(self.noise._whiten(r), -0.5)

    def _whiten_adjoint(self, z):
        return self.noise._whiten_adjoint(self._power(z, -0.5))

    def _colour(self, z):
        return self.noise._colour(self._power(z, 0.5))

    def rescaled(self, factor):
        """The noise of observations that are multiplied by ``factor``."""
        # The whitened patterns stay what they are.
        return self._with(self.noise.rescaled(factor), self.patterns * factor, self._modes)

    def masked(self, mask):
        """The noise of observations whose pixels in ``mask`` carry no information either."""
        return self._with(self.noise.masked(mask), self.patterns, None)

    def added(self, variance):
        """The noise with more variance in every pixel, and the same patterns."""
        return self._with(self.noise.added(variance), self.patterns, None)

    def __getitem__(self, index):
        shared = len(self.patterns) == 1
        patterns = self.patterns if shared else select(self.patterns, index)
        modes = self._modes and tuple(select(part, index) for part in self._modes)
        return self._with(self.noise[index], patterns, modes)

    def to(self, device=None, dtype=None):
        """Copy the noise to another device or floating-point type."""
        return self._with(self.noise.to(device, dtype), move(self.patterns, device, dtype), None)

    def _with(self, noise, patterns, modes):
        new = copy.copy(self)
        new.noise, new.patterns, new._modes = noise, patterns, modes
        return new

    def state(self):
        """The noise of the pixels and the patterns, for `noise_from_state`."""
        return {
            "noise": "LowRankNoise",
            "pixels": self.noise.state(),
            "patterns": self.patterns.cpu().numpy(),
        }

    @classmethod
    def from_state(cls, state):
        """Build the noise from what `state` returned."""
        patterns = as_tensor(state["patterns"], array_dtype(state["patterns"]))
        return cls(noise_from_state(state["pixels"]), patterns)
