r"""Noise as other exposures would have it: that of real observations, times a factor for each."""

__all__ = ["ScaledNoise"]

from torch import Tensor


class ScaledNoise:
    r"""Noise of the covariance :math:`f_n^2 \, \Sigma_n`, as the core asks for it.

    Of photons, it is that of an exposure :math:`f_n^2` times as short.

    Parameters
    ----------
    noise : `~astro_ddprism.mixing.noise.Noise`
        The noise of ``B`` observations.
    factor : torch.Tensor
        Factors of its standard deviation, of shape ``(B,)``.
    """

    def __init__(self, noise, factor: Tensor):
        self._noise, self._factor = noise, factor

    @property
    def depends_on_signal(self) -> bool:
        """Whether the noise depends on the light."""
        return self._noise.depends_on_signal

    @property
    def valid(self) -> Tensor:
        """Which pixels carry information."""
        return self._noise.valid

    @property
    def n_valid(self) -> Tensor:
        """How many of each observation do."""
        return self._noise.n_valid

    def whiten(self, r: Tensor) -> Tensor:
        """W r."""
        return self._noise.whiten(r) / self._like(r)

    def whiten_adjoint(self, z: Tensor) -> Tensor:
        """W^T z."""
        return self._noise.whiten_adjoint(z) / self._like(z)

    def colour(self, z: Tensor) -> Tensor:
        """W^-1 z."""
        return self._noise.colour(z) * self._like(z)

    def at(self, signal: Tensor) -> "ScaledNoise":
        """The noise that some light has."""
        return ScaledNoise(self._noise.at(signal), self._factor)

    def masked(self, mask) -> "ScaledNoise":
        """The noise of observations that lose pixels."""
        return ScaledNoise(self._noise.masked(mask), self._factor)

    def __getitem__(self, rows) -> "ScaledNoise":
        return ScaledNoise(self._noise[rows], self._factor[rows])

    def _like(self, values: Tensor) -> Tensor:
        return self._factor.view(-1, *(1,) * (values.ndim - 1))
