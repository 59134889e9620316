r"""The noise of an observation, and how it is whitened.

.. math:: \eta_i \sim \mathcal{N}(0, \Sigma_i), \qquad W_i \Sigma_i W_i^\top = I

Everything downstream sees residuals in whitened units, :math:`\tilde r = W r`, in which the noise
is independent and of unit variance. :math:`W` need not be symmetric (a Cholesky factor gives
:math:`W = L^{-1}`), so that normal equations, :math:`A^\top \Sigma^{-1} r = A^\top W^\top W r`,
take :math:`W^\top` as an operation of its own.

A pixel that is masked, or whose variance is not a positive finite number, carries no information.
:math:`\Sigma` is the covariance of the other pixels alone, and :math:`W` has neither rows nor
columns for it: such pixels are exactly 0 in every whitened residual, and what value they hold is
never read.

Noise may depend on the light that it is the noise of, as that of photons does. `Noise.at` gives the
noise of observations whose light is known; for all other noise it is the noise itself.

A new kind of noise is a subclass of `Noise` in a module of its own. Like mixing operators, kinds of
noise are found by their class name; those of other packages through the entry points
``astro_ddprism.noises``.
"""

import abc
import functools
from collections.abc import Mapping
from typing import ClassVar, Self

import torch

from ..errors import InputError
from ..registry import Registry
from .base import array_dtype, as_tensor, move, select

__all__ = ["NOISES", "DiagonalNoise", "Noise", "noise_from_state"]

NOISES = Registry("noise", entry_points="astro_ddprism.noises")
"""The kinds of noise, by the names that files give them."""


class Noise(abc.ABC):
    """Gaussian noise of known covariance, one covariance for each observation.

    Attributes
    ----------
    valid : Tensor of bool, shape (N, *observation_shape)
        True at pixels with information.
    depends_on_signal : bool
        Whether the covariance depends on the light that is observed, so that `at` is another noise.
    """

    valid: torch.Tensor
    depends_on_signal: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        NOISES.register()(cls)

    @abc.abstractmethod
    def _whiten(self, r: torch.Tensor) -> torch.Tensor:
        """W r, for r that is 0 at pixels without information."""

    @abc.abstractmethod
    def _whiten_adjoint(self, z: torch.Tensor) -> torch.Tensor:
        """W^T z, for z that is 0 at pixels without information."""

    @abc.abstractmethod
    def _colour(self, z: torch.Tensor) -> torch.Tensor:
        """W^-1 z, for z that is 0 at pixels without information."""

    @property
    @abc.abstractmethod
    def variance(self) -> torch.Tensor:
        """Variance of every pixel, the diagonal of Sigma; infinite without information."""

    @abc.abstractmethod
    def rescaled(self, factor: float) -> Self:
        """The noise of observations that are multiplied by a number.

        Parameters
        ----------
        factor : float
            A positive number, such as that between two units of flux.

        Returns
        -------
        noise : Noise
        """

    @abc.abstractmethod
    def masked(self, mask) -> Self:
        """The noise of observations that have more pixels without information.

        Parameters
        ----------
        mask : array_like of bool, shape (N, *observation_shape)
            True at pixels that carry no information, besides those that already do not.

        Returns
        -------
        noise : Noise

        Raises
        ------
        InputError
            If ``mask`` has another shape.
        """

    @abc.abstractmethod
    def added(self, variance: torch.Tensor) -> Self:
        """The noise with more variance in every pixel, of another origin.

        Parameters
        ----------
        variance : Tensor, shape (N, *observation_shape)
            What the variance of each pixel grows by; not negative, and not used at pixels without
            information.

        Returns
        -------
        noise : Noise
        """

    def at(self, signal: torch.Tensor) -> "Noise":  # noqa: ARG002
        """The noise of observations whose noiseless light is known.

        Parameters
        ----------
        signal : Tensor, shape (N, *observation_shape)
            The light without noise, :math:`A x`.

        Returns
        -------
        noise : Noise
            One that does not depend on the signal any more; this one if it never did.
        """
        return self

    @abc.abstractmethod
    def state(self) -> dict:
        """Plain arrays, numbers and lists from which `noise_from_state` rebuilds the noise.

        Returns
        -------
        state : dict
            The class name under ``"noise"``, and what `from_state` takes.
        """

    @classmethod
    @abc.abstractmethod
    def from_state(cls, state: Mapping) -> Self:
        """Build the noise from what `state` returned.

        Parameters
        ----------
        state : mapping
            Arrays keep their floating-point precision.

        Returns
        -------
        noise : Noise
        """

    @property
    def n_observations(self) -> int:
        """Number of observations, N."""
        return len(self.valid)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one observation, without the batch axis."""
        return tuple(self.valid.shape[1:])

    @property
    def n_valid(self) -> torch.Tensor:
        """Number of pixels with information in each observation, shape (N,)."""
        return self.valid.flatten(1).sum(1)

    @property
    def factors_size(self) -> int:
        """Bytes of what whitening has to know, beside the noise itself."""
        return 0

    def whiten(self, r: torch.Tensor) -> torch.Tensor:
        r"""Make noise independent and of unit variance, :math:`\tilde r = W r`.

        Parameters
        ----------
        r : Tensor, shape (N, *observation_shape)

        Returns
        -------
        whitened : Tensor, shape (N, *observation_shape)
            Exactly 0 at pixels without information, even where ``r`` is NaN there.
        """
        return self._whiten(self._informative(r))

    def whiten_adjoint(self, z: torch.Tensor) -> torch.Tensor:
        r"""Apply the transpose of `whiten`, :math:`W^\top z`.

        Parameters
        ----------
        z : Tensor, shape (N, *observation_shape)

        Returns
        -------
        r : Tensor, shape (N, *observation_shape)
            Exactly 0 at pixels without information.
        """
        return self._whiten_adjoint(self._informative(z))

    def colour(self, z: torch.Tensor) -> torch.Tensor:
        r"""Undo `whiten` at the pixels with information, :math:`W^{-1} z`.

        Parameters
        ----------
        z : Tensor, shape (N, *observation_shape)
            Unit normal deviates make noise of covariance :math:`\Sigma`.

        Returns
        -------
        coloured : Tensor, shape (N, *observation_shape)
            Exactly 0 at pixels without information.
        """
        return self._colour(self._informative(z))

    @abc.abstractmethod
    def __getitem__(self, index) -> Self:
        """The noise of some observations; ``index`` as for `MixingOperator`."""

    @abc.abstractmethod
    def to(self, device=None, dtype: torch.dtype | None = None) -> Self:
        """Copy the noise to another device or floating-point type.

        Parameters
        ----------
        device : torch.device or str, optional
        dtype : torch.dtype, optional

        Returns
        -------
        noise : Noise
        """

    def _informative(self, r: torch.Tensor) -> torch.Tensor:
        if r.shape != self.valid.shape:
            raise ValueError(
                f"{type(self).__name__}: found shape {tuple(r.shape)}, expected "
                f"{tuple(self.valid.shape)}"
            )
        # Not a product: 0 times NaN is NaN.
        return torch.where(self.valid, r, 0.0)

    def __repr__(self):
        return f"<{type(self).__name__} {self.shape}, {self.n_observations} observations>"


def noise_from_state(state: Mapping) -> Noise:
    """Build noise from its stored state.

    Parameters
    ----------
    state : mapping
        What `Noise.state` returned.

    Returns
    -------
    noise : Noise
        Of the class that ``state["noise"]`` names.

    Raises
    ------
    InputError
        If no class of that name is known, or its package cannot be imported.

    Examples
    --------
    >>> from astro_ddprism.mixing import DiagonalNoise, noise_from_state
    >>> noise_from_state(DiagonalNoise([[4.0, 1.0]]).state())
    <DiagonalNoise (2,), 1 observations>
    """
    return NOISES[state.get("noise")].from_state(state)


class DiagonalNoise(Noise):
    r"""Independent Gaussian noise with a known variance in every pixel.

    .. math:: \Sigma = \operatorname{diag}(\sigma_p^2), \qquad W = \operatorname{diag}(1 / \sigma_p)

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
        known = torch.isfinite(variance) & (variance > 0)
        self.std = torch.where(known, variance.sqrt(), torch.zeros_like(variance))
        if mask is not None:
            self.std = self.masked(mask).std

    @classmethod
    def _with_std(cls, std):
        new = cls.__new__(cls)
        new.std = std
        return new

    # What follows is found when it is asked for: of noise that lies in a file, of parts alone.

    @functools.cached_property
    def valid(self):  # noqa: D102
        return self.std > 0

    @functools.cached_property
    def weight(self):  # noqa: D102
        return torch.where(self.valid, self.std.reciprocal(), torch.zeros_like(self.std))

    @property
    def n_observations(self):  # noqa: D102
        return len(self.std)

    @property
    def shape(self):  # noqa: D102
        return tuple(self.std.shape[1:])

    @property
    def variance(self):
        """Variance of every pixel; infinite without information."""
        return torch.where(self.valid, self.std.square(), torch.inf)

    def rescaled(self, factor):
        """The noise of observations that are multiplied by ``factor``."""
        return self._with_std(self.std * factor)

    def masked(self, mask):
        """The noise of observations whose pixels in ``mask`` carry no information either."""
        mask = as_tensor(mask, torch.bool)
        if mask.device != self.std.device:
            mask = mask.to(self.std.device)
        if mask.shape != self.std.shape:
            raise InputError(
                f"mask: found shape {tuple(mask.shape)}, expected that of the variance, "
                f"{tuple(self.std.shape)}"
            )
        return self._with_std(torch.where(mask, torch.zeros_like(self.std), self.std))

    def added(self, variance):
        """The noise with more variance in every pixel."""
        return self._with_std(
            torch.where(self.valid, (self.std.square() + variance).sqrt(), self.std)
        )

    def __getitem__(self, index):
        return self._with_std(select(self.std, index))

    def to(self, device=None, dtype=None):
        """Copy the noise to another device or floating-point type."""
        return self._with_std(move(self.std, device, dtype))

    def _whiten(self, r):
        return self.weight * r

    def _whiten_adjoint(self, z):
        return self.weight * z

    def _colour(self, z):
        return self.std * z

    def state(self):
        """The standard deviations, for `noise_from_state`."""
        return {"noise": "DiagonalNoise", "std": self.std.cpu().numpy()}

    @classmethod
    def from_state(cls, state):
        """Build the noise from what `state` returned."""
        return cls._with_std(as_tensor(state["std"], array_dtype(state["std"])))
