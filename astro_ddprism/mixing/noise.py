r"""The noise of an observation: independent Gaussians, one per pixel.

.. math:: \eta_i \sim \mathcal{N}(0, \Sigma_i), \qquad \Sigma_i = \operatorname{diag}(\sigma_{ip}^2)

A pixel that is masked, or whose variance is not a positive finite number, carries no information:
:math:`\sigma_{ip}^{-1} = 0`. In whitened units, :math:`\tilde r = \Sigma^{-1/2} r`, such pixels
vanish from every residual and every solve, and what value they hold is never read.
"""

import copy

import torch

from ..errors import InputError
from .base import as_tensor, move, select

__all__ = ["DiagonalNoise"]


class DiagonalNoise:
    """Independent Gaussian noise with a known variance in every pixel.

    Parameters
    ----------
    variance : array_like, shape (N, *observation_shape)
        Pixels without a positive, finite variance carry no information.
    mask : array_like of bool, optional
        True at pixels without information, of the shape of ``variance``.
    dtype : torch.dtype, optional
        float32 by default; a tensor keeps its own.

    Attributes
    ----------
    valid : Tensor of bool, shape (N, *observation_shape)
        True at pixels with information.
    std : Tensor, shape (N, *observation_shape)
        Standard deviation; 0 at pixels without information.
    weight : Tensor, shape (N, *observation_shape)
        Inverse standard deviation; 0 at pixels without information.

    Raises
    ------
    InputError
        If ``variance`` and ``mask`` have different shapes.

    Examples
    --------
    >>> import torch
    >>> from astro_ddprism.mixing import DiagonalNoise
    >>> noise = DiagonalNoise([[4.0, 1.0, torch.inf]])
    >>> noise.whiten(torch.tensor([[1.0, 1.0, torch.nan]]))
    tensor([[0.5000, 1.0000, 0.0000]])
    >>> noise.n_valid
    tensor([2])
    """

    def __init__(self, variance, mask=None, *, dtype=None):
        variance = as_tensor(variance, dtype)
        self.valid = torch.isfinite(variance) & (variance > 0)
        if mask is not None:
            mask = as_tensor(mask, torch.bool).to(variance.device)
            if mask.shape != variance.shape:
                raise InputError(
                    f"mask: found shape {tuple(mask.shape)}, expected that of the variance, "
                    f"{tuple(variance.shape)}"
                )
            self.valid = self.valid & ~mask
        zero = torch.zeros_like(variance)
        self.std = torch.where(self.valid, variance.sqrt(), zero)
        self.weight = torch.where(self.valid, variance.rsqrt(), zero)

    @property
    def n_observations(self) -> int:
        """Number of observations, N."""
        return len(self.std)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation, without the batch axis."""
        return tuple(self.std.shape[1:])

    @property
    def n_valid(self) -> torch.Tensor:
        """Number of pixels with information in each observation, shape (N,)."""
        return self.valid.flatten(1).sum(1)

    def whiten(self, r: torch.Tensor) -> torch.Tensor:
        r"""Divide by the standard deviation, :math:`\Sigma^{-1/2} r`.

        Parameters
        ----------
        r : Tensor, shape (N, *observation_shape)

        Returns
        -------
        whitened : Tensor, shape (N, *observation_shape)
            Exactly 0 at pixels without information, even where ``r`` is NaN there.
        """
        return torch.where(self.valid, self.weight * r, torch.zeros_like(r))

    def colour(self, z: torch.Tensor) -> torch.Tensor:
        r"""Multiply by the standard deviation, :math:`\Sigma^{1/2} z`.

        Parameters
        ----------
        z : Tensor, shape (N, *observation_shape)
            Unit normal deviates make noise.

        Returns
        -------
        coloured : Tensor, shape (N, *observation_shape)
            Exactly 0 at pixels without information.
        """
        return torch.where(self.valid, self.std * z, torch.zeros_like(z))

    def __getitem__(self, index) -> "DiagonalNoise":
        """The noise of some observations; ``index`` as for `MixingOperator`."""
        return self._map(lambda tensor: select(tensor, index))

    def to(self, device=None, dtype: torch.dtype | None = None) -> "DiagonalNoise":
        """Copy the noise to another device or floating-point type.

        Parameters
        ----------
        device : torch.device or str, optional
        dtype : torch.dtype, optional

        Returns
        -------
        noise : DiagonalNoise
        """
        return self._map(lambda tensor: move(tensor, device, dtype))

    def _map(self, function):
        new = copy.copy(self)
        new.valid, new.std, new.weight = map(function, (self.valid, self.std, self.weight))
        return new

    def __repr__(self):
        return f"<DiagonalNoise {self.shape}, {self.n_observations} observations>"
