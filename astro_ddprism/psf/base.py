r"""Point spread functions, by what they do to light: their Fourier transforms.

A star of unit flux at :math:`\theta_0` makes, in the pixel at :math:`\theta`, the flux
:math:`P(\theta - \theta_0)` per unit of angle squared, with the transform

.. math:: \tilde P(\mathbf k) = \int P(\theta) \, e^{-i \mathbf k \cdot \theta} \, d^2\theta

for wave vectors :math:`\mathbf k` in radians per arcsecond. An image's pixels do not sample the
light that falls on them, they collect it. With the *axes* of an image, the matrix :math:`M` whose
columns are the steps on the sky from one pixel to the next in :math:`x` and :math:`y`, a pixel is
the parallelogram that they span and its response has the transform

.. math:: \mathrm{sinc}(\kappa_x / 2 \pi) \, \mathrm{sinc}(\kappa_y / 2 \pi),
          \qquad \kappa = M^\top \mathbf k .

**A PSF either includes this response or does not**, and the option ``includes_pixel`` says which.
What is measured on the stars of an image (an *effective* PSF; Anderson & King 2000) includes it,
and so an `ImagePSF` is taken to, unless told otherwise; a profile of the seeing or the optics
(`GaussianPSF`, `MoffatPSF`, `PointPSF`) does not. `PSF.response` is the product of whatever there
is to multiply.

References
----------
Anderson & King 2000, PASP 112, 1360.
"""

import abc
import math

import numpy as np

from ..errors import InputError

__all__ = ["PSF", "BandPSFs", "PointPSF"]


class PSF(abc.ABC):
    """A point spread function.

    Attributes
    ----------
    includes_pixel : bool
        Whether the response of the image's pixel is in it already.
    n_bands : int or None
        Number of bands; None where it is the same in any band.
    """

    includes_pixel = False
    n_bands = None

    @abc.abstractmethod
    def transform(self, kx, ky, axes):
        """Fourier transform of the PSF as it was given.

        Parameters
        ----------
        kx : (nx,) `~numpy.ndarray`
            Wave numbers along the first axis of the sky, in radians per arcsecond.
        ky : (ny,) `~numpy.ndarray`
            Wave numbers along the second.
        axes : (2, 2) `~numpy.ndarray`
            Axes of the image: its columns are the steps on the sky, in arcseconds, from one pixel
            to the next along x and along y.

        Returns
        -------
        (bands, ny, nx) `~numpy.ndarray`
            Its value at zero is the flux of a star of unit flux. ``bands`` is 1 where all bands
            have the same PSF.
        """

    @abc.abstractmethod
    def reach(self, axes):
        """Radius beyond which next to none of a star's light falls.

        Parameters
        ----------
        axes : (2, 2) `~numpy.ndarray`
            Axes of the image, in arcseconds.

        Returns
        -------
        float
            In arcseconds.
        """

    def response(self, kx, ky, axes):
        """Fourier transform of the PSF with the response of the pixel in it.

        Parameters
        ----------
        kx, ky, axes : `~numpy.ndarray`
            As for `transform`.

        Returns
        -------
        (bands, ny, nx) `~numpy.ndarray`
        """
        transform = self.transform(kx, ky, axes)
        if self.includes_pixel:
            return transform
        along_x, along_y = pixel_wave_numbers(kx, ky, axes)
        return transform * np.sinc(along_x / (2 * np.pi)) * np.sinc(along_y / (2 * np.pi))

    def kernel(self, axes):
        """The response in the pixels of the image to a point source in the middle of one.

        Parameters
        ----------
        axes : (2, 2) `~numpy.ndarray`
            Axes of the image, in arcseconds.

        Returns
        -------
        (bands, ky, kx) `~numpy.ndarray`
            Odd-sized, its centre in the middle, of sum 1; ``bands`` is 1 where all bands have the
            same PSF.
        """
        side = math.sqrt(abs(np.linalg.det(axes)))
        n = 2 * math.ceil(self.reach(axes) / side) + 1
        orders = (
            9  # beyond the fourth harmonic of the pixels' band nothing passes a PSF and a pixel
        )
        index = np.arange(n * orders) - n * orders // 2
        k = 2 * np.pi * index / (n * side)
        waves = self.response(k, k, side * np.eye(2))
        folded = np.zeros((len(waves), n, n), dtype=complex)
        np.add.at(folded, (slice(None), (index % n)[:, None], index % n), waves)
        kernel = np.fft.fftshift(np.fft.ifft2(folded).real, axes=(1, 2))
        return kernel / kernel.sum(axis=(1, 2), keepdims=True)

    def resolution(self, axes):
        """Width of the response: FWHM of the Gaussian that lets a tenth of the same waves pass.

        What limits an image is the highest wave number that it shows, not where most light falls.

        Parameters
        ----------
        axes : (2, 2) `~numpy.ndarray`
            Axes of the image, in arcseconds.

        Returns
        -------
        float
            In arcseconds, of the sharpest band.
        """
        k = np.geomspace(0.02, 20, 100) / math.sqrt(abs(np.linalg.det(axes)))
        zero = np.zeros(1)
        along = [np.abs(self.response(*where, axes)) for where in ((k, zero), (zero, k))]
        mean = (along[0][:, 0, :] + along[1][:, :, 0]) / 2
        falling = np.minimum.accumulate(mean / mean[:, :1], axis=1)
        last = max(np.interp(-0.1, -band, k) for band in falling)
        return math.sqrt(2 * math.log(10)) * math.sqrt(8 * math.log(2)) / last

    def at(self, coordinate):  # noqa: ARG002
        """The PSF at some place on the sky.

        Parameters
        ----------
        coordinate : `~astropy.coordinates.SkyCoord`
            The place.

        Returns
        -------
        PSF
            Itself, where the PSF is the same everywhere.
        """
        return self


class PointPSF(PSF):
    """No blurring but the pixel's."""

    def transform(self, kx, ky, axes):  # noqa: ARG002
        """One, for any wave vector; see `PSF.transform`."""
        return np.ones((1, len(ky), len(kx)))

    def reach(self, axes):
        """The extent of a pixel, in arcseconds."""
        return float(np.abs(axes).sum(axis=1).max())

    def __repr__(self):
        return "PointPSF()"


class BandPSFs(PSF):
    """The PSFs of several bands.

    Parameters
    ----------
    psfs : sequence of PSF
        One for each band.

    Raises
    ------
    InputError
        If one of them has several bands itself.
    """

    includes_pixel = True  # `transform` is the bands' response

    def __init__(self, psfs):
        self.psfs = tuple(psfs)
        self.n_bands = len(self.psfs)
        wrong = [psf for psf in self.psfs if not isinstance(psf, PSF) or psf.n_bands is not None]
        if wrong or not self.psfs:
            raise InputError(f"psf: found {wrong or 'none'}, expected one PSF of one band for each")

    def at(self, coordinate):
        """The PSFs at a place on the sky; see `PSF.at`."""
        psfs = [psf.at(coordinate) for psf in self.psfs]
        return self if all(a is b for a, b in zip(psfs, self.psfs, strict=True)) else BandPSFs(psfs)

    def transform(self, kx, ky, axes):
        """The response of each band; see `PSF.transform`."""
        return np.concatenate([psf.response(kx, ky, axes) for psf in self.psfs])

    def kernel(self, axes):
        """See `PSF.kernel`; bands of different sizes are padded."""
        kernels = [psf.kernel(axes)[0] for psf in self.psfs]
        ny, nx = np.max([kernel.shape for kernel in kernels], axis=0)
        return np.stack([pad_kernel(kernel, ny, nx) for kernel in kernels])

    def reach(self, axes):
        """The longest of all, in arcseconds."""
        return max(psf.reach(axes) for psf in self.psfs)

    def __repr__(self):
        return f"BandPSFs({', '.join(map(repr, self.psfs))})"


def pad_kernel(kernel, ny, nx):
    """A kernel of odd sizes in the middle of larger ones."""
    pads = [((n - m) // 2,) * 2 for n, m in zip((ny, nx), kernel.shape[-2:], strict=True)]
    return np.pad(kernel, [(0, 0)] * (kernel.ndim - 2) + pads)


def pixel_wave_numbers(kx, ky, axes):
    """Wave vectors in radians per pixel, along the image's x and y, each of shape (ny, nx)."""
    ky = ky[:, None]
    return axes[0, 0] * kx + axes[1, 0] * ky, axes[0, 1] * kx + axes[1, 1] * ky
