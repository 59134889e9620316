r"""Autocorrelations of short range that stationary noise can have.

Stationary noise of unit variance has the covariance :math:`C_{pq} = c_{p-q}` between pixels
:math:`p` and :math:`q`. An image of :math:`n` pixels a side and a range of :math:`r` pixels is part
of a periodic one of at least :math:`n + r`, whose covariance has the power spectrum

.. math:: S_k = \sum_d c_d \, e^{-2 \pi i \, k \cdot d / n_\mathrm{period}}

for eigenvalues. :math:`C` is a principal submatrix of it, so that its own are at least
:math:`\min_k S_k`. A *measured* autocorrelation, cut off at some range, has powers around and below
zero wherever the noise has little. Here it is replaced by the nearest one, in least squares, of the
same range and of powers that are nowhere below a floor: the projection onto the intersection of two
convex sets, by Dykstra's algorithm (Boyle & Dykstra 1986).
"""

import numpy as np
import scipy.fft

__all__ = ["nearest_autocorrelation"]


def nearest_autocorrelation(autocorrelation, shape, floor):
    """Replace autocorrelations by the nearest ones whose power spectrum is positive.

    Parameters
    ----------
    autocorrelation : ndarray, shape (..., ky, kx)
        Of odd sizes, 1 in the centre and equal at opposite lags.
    shape : tuple of int, (ny, nx)
        Pixels of the image whose noise it describes.
    floor : float
        The least power, between 0 and 1. White noise has power 1, the mean of any other.

    Returns
    -------
    ndarray, shape (..., ky, kx)
        Those whose power is high enough are unchanged, to the bit.

    Examples
    --------
    No noise has a correlation of -0.6 with both neighbours and none beyond:

    >>> import numpy as np
    >>> from astro_ddprism.mixing.stationary import nearest_autocorrelation
    >>> nearest_autocorrelation(np.array([[-0.6, 1.0, -0.6]]), (1, 30), 0.01).round(3)
    array([[-0.495,  1.   , -0.495]])
    """
    patches = autocorrelation.reshape(-1, *autocorrelation.shape[-2:])
    spectrum = _Spectrum(patches.shape[-2:], shape)
    # What storage in float32 rounds off must not set the projection going again.
    low = spectrum.power(patches).min(axis=(-2, -1)) < floor - 1e-6
    if not low.any():
        return autocorrelation
    result = patches.astype(float)
    result[low] = _project(result[low], spectrum, floor)
    return result.reshape(autocorrelation.shape)


def _project(patches, spectrum, floor):
    """Dykstra's algorithm, and a last bit of white noise for what it leaves below the floor."""
    centre = tuple(n // 2 for n in patches.shape[-2:])
    removed = 0.0
    for _ in range(1000):
        power = spectrum.power(patches) + removed
        clipped = np.maximum(power, floor)
        removed = power - clipped
        previous, patches = patches, spectrum.patch(clipped)
        patches[:, *centre] = 1
        if np.abs(patches - previous).max() < 1e-6:
            break
    lowest = spectrum.power(patches).min(axis=(-2, -1), keepdims=True)
    share = np.clip((floor - lowest) / (1 - lowest), 0, 1)
    patches = (1 - share) * patches
    patches[:, *centre] = 1
    return patches


class _Spectrum:
    """Power spectra of autocorrelations on the periodic grid of an image, and back."""

    def __init__(self, size, shape):
        self.size = size
        self.grid = tuple(
            scipy.fft.next_fast_len(max(n + k // 2, k), real=True)
            for n, k in zip(shape, size, strict=True)
        )
        self._origin = tuple(-(k // 2) for k in size)

    def power(self, patches):
        """Power of patches (M, ky, kx)."""
        padding = [(0, n - k) for n, k in zip(self.grid, self.size, strict=True)]
        periodic = np.roll(np.pad(patches, [(0, 0), *padding]), self._origin, axis=(-2, -1))
        return scipy.fft.rfft2(periodic).real

    def patch(self, power):
        """The central (ky, kx) lags of power spectra."""
        periodic = scipy.fft.irfft2(power, s=self.grid)
        ky, kx = self.size
        return np.roll(periodic, (ky // 2, kx // 2), axis=(-2, -1))[..., :ky, :kx]
