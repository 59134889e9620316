r"""Photon noise of the sources themselves, on top of that of the background.

A bright galaxy is noisier than the sky beside it: its own photons are counted, too. With the
*effective gain* :math:`g`, the number of electrons that a unit of flux stands for, light
:math:`s = A x` makes :math:`g s` electrons, whose number has a Poisson distribution. For many of
them that is a Gaussian, and

.. math:: \Sigma(s) = \Sigma_0 + \operatorname{diag}\left( \frac{\max(s, 0)}{g} \right) ,

with :math:`\Sigma_0` the noise of the background alone: that of the sky's photons and of reading
out. Whoever weights pixels by :math:`\Sigma` needs :math:`s`, which nobody knows. The observed
:math:`y` in its place would be wrong: a pixel that noise made faint would get the higher weight,
and all fluxes would come out too low.
"""

import copy

import numpy as np
import torch

from ..errors import InputError
from ..io.mapped import is_mapped, row_slices
from .base import array_dtype, as_tensor, move, select
from .noise import Noise, noise_from_state

__all__ = ["PhotonNoise"]


class PhotonNoise(Noise):
    r"""Noise of a background, and the photon noise of whatever light there is on it.

    By itself it is the noise where there is no light, :math:`\Sigma_0`; `at` tells the noise of
    light that is known.

    Parameters
    ----------
    background : Noise
        The noise :math:`\Sigma_0` without the sources. Where its neighbouring pixels are correlated
        (`~astro_ddprism.mixing.CorrelatedNoise`), photon noise is correlated in the same way:
        resampling does not ask where noise came from.
    effective_gain : array_like
        Electrons for each unit of flux, of a shape that broadcasts to (N, *observation_shape).
        Infinite where there is no photon noise.
    dtype : torch.dtype, optional
        That of the background by default.

    Attributes
    ----------
    background : Noise
    effective_gain : Tensor
        Of length 1 along axes on which it does not depend.

    Raises
    ------
    InputError
        If the effective gain has another shape, or is not positive at a pixel with information.

    Examples
    --------
    Four electrons for each unit of flux, so that a flux of 12 has a variance of 3:

    >>> import torch
    >>> from astro_ddprism.mixing import DiagonalNoise, PhotonNoise
    >>> noise = PhotonNoise(DiagonalNoise(torch.ones(1, 3)), 4.0)
    >>> noise.variance
    tensor([[1., 1., 1.]])
    >>> noise.at(torch.tensor([[12.0, 0.0, -1.0]])).variance
    tensor([[4., 1., 1.]])
    """

    depends_on_signal = True

    def __init__(self, background, effective_gain, *, dtype=None):
        self.background = background
        own = background[:1].variance
        full = background.n_observations, *background.shape
        gain = as_tensor(effective_gain, own.dtype if dtype is None else dtype).to(own.device)
        gain = gain.reshape(*(1,) * (own.ndim - gain.ndim), *gain.shape)
        if gain.ndim != own.ndim or any(
            size not in (1, n) for size, n in zip(gain.shape, full, strict=True)
        ):
            raise InputError(
                f"effective_gain: found shape {tuple(gain.shape)}, expected one that broadcasts to "
                f"that of the noise, {full}"
            )
        bad, positive, same = 0, True, [True] * gain.ndim
        for rows in row_slices(full[0], own.nbytes):  # which may lie in a file
            part = gain if len(gain) == 1 else gain[rows]
            valid = background[np.arange(rows.start, rows.stop)].valid
            bad += int((~(part > 0) & valid).sum())
            positive &= bool((part > 0).all())
            same[0] &= bool((part == gain[:1]).all())
            for axis in range(1, gain.ndim):
                same[axis] &= bool((part == part.narrow(axis, 0, 1)).all())
        if bad:
            raise InputError(
                f"effective_gain: found {bad} pixels where it is not positive, expected electrons "
                "per unit of flux, or infinity where there is no photon noise"
            )
        for axis, is_same in enumerate(same):
            gain = gain.narrow(axis, 0, 1) if is_same and gain.shape[axis] else gain
        # What is behind the mask must not matter, nor reach a pixel's neighbours as NaN.
        if not (positive and gain.device.type == "cpu" and is_mapped(gain.numpy())):
            gain = torch.where(gain > 0, gain, torch.inf)
        self.effective_gain = gain

    @property
    def valid(self):
        """True at pixels with information, shape (N, *observation_shape)."""
        return self.background.valid

    @property
    def variance(self):
        """Variance of every pixel without any light; infinite without information."""
        return self.background.variance

    @property
    def factors_size(self):
        """Bytes of what whitening has to know, beside the noise itself."""
        return self.background.factors_size

    def at(self, signal):
        """The noise of observations whose noiseless light is known.

        Parameters
        ----------
        signal : Tensor, shape (N, *observation_shape)
            The light without noise, :math:`A x`. Where it is negative, there are no photons.

        Returns
        -------
        noise : Noise
            Of the kind of the background.
        """
        return self.background.added(signal.clip(min=0) / self.effective_gain)

    def added(self, variance):
        """The noise with more variance in every pixel, whether there is light or not."""
        return self._with(self.background.added(variance), self.effective_gain)

    def rescaled(self, factor):
        """The noise of observations that are multiplied by ``factor``."""
        return self._with(self.background.rescaled(factor), self.effective_gain / factor)

    def masked(self, mask):
        """The noise of observations whose pixels in ``mask`` carry no information either."""
        return self._with(self.background.masked(mask), self.effective_gain)

    def __getitem__(self, index):
        shared = len(self.effective_gain) == 1
        gain = self.effective_gain if shared else select(self.effective_gain, index)
        return self._with(self.background[index], gain)

    def to(self, device=None, dtype=None):
        """Copy the noise to another device or floating-point type."""
        gain = move(self.effective_gain, device, dtype)
        return self._with(self.background.to(device, dtype), gain)

    def _with(self, background, effective_gain):
        new = copy.copy(self)
        new.background, new.effective_gain = background, effective_gain
        return new

    def _whiten(self, r):
        return self.background._whiten(r)

    def _whiten_adjoint(self, z):
        return self.background._whiten_adjoint(z)

    def _colour(self, z):
        return self.background._colour(z)

    def state(self):
        """The noise of the background and the effective gain, for `noise_from_state`."""
        return {
            "noise": "PhotonNoise",
            "background": self.background.state(),
            "effective_gain": self.effective_gain.cpu().numpy(),
        }

    @classmethod
    def from_state(cls, state):
        """Build the noise from what `state` returned."""
        gain = as_tensor(state["effective_gain"], array_dtype(state["effective_gain"]))
        return cls(noise_from_state(state["background"]), gain, dtype=gain.dtype)
