"""PSFs that were measured or sampled: images of a star, also on a grid of places."""

import math

import numpy as np
from astropy import units as u
from astropy.nddata import NDData

from ..errors import InputError
from .base import PSF, PointPSF, pixel_wave_numbers
from .stamps import checked_stamp, on_pixels, psf_label, read_psf_file

__all__ = ["GriddedPSF", "ImagePSF"]


class ImagePSF(PSF):
    r"""An image of a star, with nothing beyond the Nyquist frequency of its pixels.

    .. math:: \tilde P(\mathbf k) = \sum_s p_s \, e^{-i \kappa \cdot s / o}, \qquad
              \kappa = M^\top \mathbf k, \qquad |\kappa_x|, |\kappa_y| < \pi o

    for pixels :math:`s` counted from the star's place, :math:`o` of which fit on a pixel of the
    image.

    Parameters
    ----------
    image : array_like, `~astropy.nddata.NDData`, or a list of these
        The PSF, ``(ky, kx)`` for all bands or ``(bands, ky, kx)``; or a list with one for each
        band. Its sum has to be 1 to within a tenth (or ``oversampling**2``), and is made 1. Its
        axes are those of the image.
    oversampling : float, optional
        Its pixels for each pixel of the image: 1 for one on the image's own pixels.
    scale : `~astropy.units.Quantity`, optional
        Angle for each of its pixels instead.
    centre : (float, float), optional
        Where the star is: zero-based pixel x and y. By default it is measured; within a twentieth
        of the image's pixel it is the middle, and over 1.5 of them off is no PSF.
    includes_pixel : bool
        Whether the response of the image's pixel is in it, as in all that is measured on stars.
    label : str, optional
        What messages call it.

    Raises
    ------
    InputError
        If the image is no PSF, or neither or both of ``oversampling`` and ``scale`` are given.

    Examples
    --------
    >>> from astro_ddprism.psf import ImagePSF
    >>> ImagePSF([[0, 0.1, 0], [0.1, 0.6, 0.1], [0, 0.1, 0]], oversampling=1)
    ImagePSF of 3 x 3 pixels, oversampling 1, includes_pixel=True
    """

    def __init__(
        self, image, *, oversampling=None, scale=None, centre=None, includes_pixel=True, label=None
    ):
        if (oversampling is None) == (scale is None):
            found = "neither" if scale is None else "both"
            raise InputError(
                f"psf: found {found} of oversampling and scale, expected one: how many of its "
                "pixels fit on a pixel of the image, or the angle of each"
            )
        self.oversampling, self.scale = oversampling, None
        if scale is None:
            _check_positive("oversampling", oversampling)
        else:
            self.scale = _angle("scale", scale)
        self.label = label or psf_label(image)
        image, self.centre = checked_stamp(_pixels(image), self.label, oversampling or 1, centre)
        self.image = image.reshape(-1, *image.shape[-2:])
        self.n_bands = len(image) if image.ndim == 3 and len(image) > 1 else None
        self.includes_pixel = includes_pixel
        ny, nx = self.image.shape[1:]
        if not (0 <= self.centre[0] <= nx - 1 and 0 <= self.centre[1] <= ny - 1):
            raise InputError(
                f"centre: found (x, y) = {self.centre}, expected a place in the PSF's {nx} x {ny} "
                "pixels"
            )

    @classmethod
    def read(cls, path, *, oversampling=None, scale=None, centre=None, includes_pixel=None):
        """Read the PSF and the scale of its pixels from a FITS file.

        Parameters
        ----------
        path : path
            Its extension ``PSF`` or ``PSFIMAGE``, the oversampled one of STPSF's, else its first
            image.
        oversampling, scale : optional
            As for the class, instead of what the header says: ``PIXELSCL`` or ``PIXSCALE`` in
            arcseconds, a celestial WCS, or else the keyword ``OVERSAMP``.
        centre : optional
            As for the class.
        includes_pixel : bool, optional
            As for the class; by default all do but STPSF's oversampled ones.

        Returns
        -------
        ImagePSF

        Raises
        ------
        InputError
            If the file holds no PSF, or nothing tells its scale.
        """
        found = read_psf_file(path, fine=True)
        if found is None:
            raise InputError(
                f"psf {path}: found PSFs of many places, expected one; open_psf reads them"
            )
        return cls.of_file(
            found, oversampling=oversampling, scale=scale, centre=centre,
            includes_pixel=includes_pixel,
        )  # fmt: skip

    @classmethod
    def of_file(cls, found, *, oversampling=None, scale=None, centre=None, includes_pixel=None):
        """The PSF of a file already read (``PSFFile``); arguments as for `read`."""
        if oversampling is None and scale is None:
            scale = found.scale
            oversampling = found.oversampling if scale is None else None
        if oversampling is None and scale is None:
            raise InputError(
                f"{found.label}: found none of the keywords OVERSAMP, PIXELSCL and PIXSCALE and no "
                "celestial WCS, expected the scale of the PSF's pixels; give oversampling (1 for a "
                "PSF on the pixels of its image) or scale"
            )
        return cls(
            found.image,
            oversampling=oversampling,
            scale=scale,
            centre=centre,
            includes_pixel=found.includes_pixel if includes_pixel is None else includes_pixel,
            label=found.label,
        )

    @classmethod
    def from_model(cls, model, size, *, oversampling=4, includes_pixel=True):
        """Sample a model of astropy or photutils.

        Parameters
        ----------
        model : `~astropy.modeling.Model`
            Of two dimensions, in pixels of the image and centred on its ``x_0`` and ``y_0`` or
            ``x_mean`` and ``y_mean``: `~astropy.modeling.functional_models.Moffat2D`,
            ``photutils.psf.CircularGaussianPRF``, ``photutils.psf.ImagePSF`` (an ePSF), ...
        size : int
            Side of what is sampled, in pixels of the image.
        oversampling : int
            Samples along a pixel of the image.
        includes_pixel : bool
            Whether the model includes the pixel's response, as ePSF and ``...PRF`` models do. The
            profiles of astropy and the ``...PSF`` profiles of photutils do not.

        Returns
        -------
        ImagePSF
            Normalized to a sum of 1.

        Raises
        ------
        InputError
            If the model has no centre.
        """
        names = next(
            (names for names in (("x_0", "y_0"), ("x_mean", "y_mean")) if hasattr(model, names[0])),
            None,
        )
        if names is None:
            raise InputError(
                f"psf: found a {type(model).__name__} without x_0 and y_0 or x_mean and y_mean, "
                "expected a model of a point source"
            )
        half = round(size * oversampling / 2)
        y, x = np.mgrid[-half : half + 1, -half : half + 1] / oversampling
        x0, y0 = (getattr(model, name).value for name in names)
        return cls(
            _normalized(model(x + x0, y + y0), model),
            oversampling=oversampling,
            centre=(half, half),
            includes_pixel=includes_pixel,
        )

    def transform(self, kx, ky, axes):
        """See `PSF.transform`.

        Two products of matrices, exact to rounding. Once a PSF, they are 35 ms for 61 x 61 pixels
        and 96 x 96 wave vectors; finufft, which would be one dependency more, takes 2 ms to 3e-13.
        """
        step = axes / self._pixels_per_pixel(axes)
        # Only wave vectors in the box around the parallelogram of the pixels' band can pass.
        limit = np.pi * np.abs(np.linalg.inv(step)).sum(axis=0)
        inside = [np.abs(k) <= edge for k, edge in zip((kx, ky), limit, strict=True)]
        qx, qy = kx[inside[0]], ky[inside[1]]
        ny, nx = self.image.shape[1:]
        y, x = np.mgrid[:ny, :nx].reshape(2, -1) - np.array(self.centre[::-1])[:, None]
        place = step @ [x, y]
        part = np.exp(-1j * np.outer(qy, place[1])) * self.image.reshape(-1, 1, nx * ny)
        part = part @ np.exp(-1j * np.outer(place[0], qx))
        along_x, along_y = pixel_wave_numbers(qx, qy, step)
        part[:, (np.abs(along_x) >= np.pi) | (np.abs(along_y) >= np.pi)] = 0
        result = np.zeros((len(part), len(ky), len(kx)), dtype=complex)
        result[:, inside[1][:, None] & inside[0]] = part.reshape(len(part), -1)
        return result

    def kernel(self, axes):
        """See `PSF.kernel`: sampled, or collected if it does not include the pixel's response."""
        ratio = self._pixels_per_pixel(axes)
        return on_pixels(
            self.image, self.centre, ratio, includes_pixel=self.includes_pixel, label=self.label
        )

    def reach(self, axes):
        """Half the size of the image, in arcseconds."""
        step = axes / self._pixels_per_pixel(axes)
        extent = np.abs(step) @ (np.array(self.image.shape[:0:-1]) / 2)
        return float(extent.max()) + (0 if self.includes_pixel else PointPSF().reach(axes))

    def _pixels_per_pixel(self, axes):
        if self.scale is None:
            return self.oversampling
        return math.sqrt(abs(np.linalg.det(axes))) / self.scale.to_value(u.arcsec)

    def __repr__(self):
        bands, ny, nx = self.image.shape
        bands = "" if self.n_bands is None else f"{bands} bands of "
        scale = f"oversampling {self.oversampling}" if self.scale is None else f"{self.scale} each"
        size = f"{bands}{ny} x {nx} pixels"
        return f"ImagePSF of {size}, {scale}, includes_pixel={self.includes_pixel}"


class GriddedPSF(PSF):
    """A PSF that changes over an image, as photutils' ``GriddedPSFModel``.

    Parameters
    ----------
    model : ``photutils.psf.GriddedPSFModel``
        Effective PSFs on a grid of places in the image.
    wcs : `~astropy.wcs.WCS`
        The WCS of the image (not of a cutout) whose pixels the model's places are in.
    includes_pixel : bool
        Whether the response of the image's pixel is in it.

    Notes
    -----
    It has to be asked for the PSF at a place (`at`), as operators do for each of their
    observations.
    """

    def __init__(self, model, wcs, *, includes_pixel=True):
        if wcs is None:
            raise InputError("psf: found a PSF that changes over the image, expected its WCS")
        self.model, self.wcs, self.includes_pixel = model, wcs.celestial, includes_pixel
        self._oversampling = np.unique(model.oversampling)
        if len(self._oversampling) > 1:
            raise InputError(
                f"psf: found an oversampling of {tuple(model.oversampling)}, expected the same "
                "along both axes"
            )

    def at(self, coordinate):
        """The PSF at a place on the sky.

        Parameters
        ----------
        coordinate : `~astropy.coordinates.SkyCoord`
            The place.

        Returns
        -------
        ImagePSF
            Normalized to a sum of 1.
        """
        oversampling = self._oversampling.item()
        x0, y0 = (float(value) for value in self.wcs.world_to_pixel(coordinate))
        half = [(n - 1) // 2 for n in self.model.data.shape[-2:]]
        y, x = np.mgrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1] / oversampling
        image = self.model.evaluate(x + x0, y + y0, 1, x0, y0)
        return ImagePSF(
            _normalized(image, self.model),
            oversampling=oversampling,
            centre=half[::-1],
            includes_pixel=self.includes_pixel,
        )

    def transform(self, kx, ky, axes):
        """Not known without a place: use `at`."""
        return self._nowhere(kx, ky, axes)

    def reach(self, axes):
        """Not known without a place: use `at`."""
        return self._nowhere(axes)

    def kernel(self, axes):
        """Not known without a place: use `at`."""
        return self._nowhere(axes)

    def _nowhere(self, *_):
        raise InputError("psf: found a PSF that changes over the image, expected one at some place")


def _pixels(image):
    """The pixels of an image, or those of a list of them, which may differ in size."""
    if isinstance(image, NDData):
        return image.data
    if not isinstance(image, list | tuple) or not all(
        isinstance(one, NDData | np.ndarray) for one in image
    ):
        return image
    bands = [np.asarray(_pixels(one), dtype=float) for one in image]
    shape = np.max([band.shape for band in bands], axis=0)
    pads = [(shape - band.shape) // 2 for band in bands]
    return np.stack(
        [
            np.pad(band, [(p, n - m - p) for p, n, m in zip(pad, shape, band.shape, strict=True)])
            for band, pad in zip(bands, pads, strict=True)
        ]
    )


def _normalized(image, model):
    if not np.isfinite(image).all() or image.sum() <= 0:
        raise InputError(
            f"psf: the {type(model).__name__} is not finite and positive, expected a point source"
        )
    return image / image.sum()


def _check_positive(name, value):
    if not np.isscalar(value) or not 0 < value < math.inf:
        raise InputError(f"{name}: found {value}, expected a positive number")


def _angle(name, value):
    value = u.Quantity(value)
    if not value.unit.is_equivalent(u.arcsec) or not value.isscalar or not 0 < value.value < np.inf:
        raise InputError(f"{name}: found {value}, expected a positive angle, such as 0.2 arcsec")
    return value
