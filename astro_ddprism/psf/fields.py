r"""PSFs that change over an image, as PSFEx writes them (``.psf``).

A file holds a basis of images :math:`\psi_k`; the PSF at the pixel :math:`(x, y)` is

.. math:: \sum_k \psi_k \, X^{a_k} Y^{b_k}, \qquad X = \frac{x - x_0}{s_x}, \;
          Y = \frac{y - y_0}{s_y}, \qquad a_k + b_k \le d,

:math:`a_k` running fastest, with ``PSF_SAMP`` pixels of the image for each of its own. It includes
the response of the pixel.

References
----------
Bertin 2011, ASPC 442, 435.
"""

import numpy as np

from ..errors import InputError
from ..io.fits_in import open_fits
from .base import PSF
from .images import ImagePSF

__all__ = ["PSFExPSF"]


class PSFExPSF(PSF):
    """The PSF of an image, as PSFEx found it.

    Parameters
    ----------
    path : path
        Its file, with the table ``PSF_DATA``.
    wcs : `~astropy.wcs.WCS`, optional
        The WCS of the image in whose pixels its polynomials are.

    Raises
    ------
    InputError
        If the file is not of PSFEx, or the PSF depends on something else than the place.
    """

    includes_pixel = True

    def __init__(self, path, wcs=None):
        self.label, self.wcs = f"psf {path}", wcs
        with open_fits(path) as hdus:
            names = [hdu.name for hdu in hdus]
            if "PSF_DATA" not in names:
                raise InputError(
                    f"{self.label}: found {', '.join(names)}, expected the table PSF_DATA of PSFEx"
                )
            header = hdus["PSF_DATA"].header
            self.basis = np.array(hdus["PSF_DATA"].data["PSF_MASK"][0], dtype=float)
        self.oversampling = 1 / header["PSF_SAMP"]
        axes = range(1, header.get("POLNAXIS", 0) + 1)
        names = [header[f"POLNAME{i}"] for i in axes]
        self.degree = max((header[f"POLDEG{i}"] for i in range(1, header.get("POLNGRP", 0) + 1)),
                          default=0)  # fmt: skip
        self.zero = [header[f"POLZERO{i}"] for i in axes]
        self.unit = [header[f"POLSCAL{i}"] for i in axes]
        self.basis = self.basis.reshape(-1, *self.basis.shape[-2:])
        self.changes = self.degree > 0
        n_terms = (self.degree + 1) * (self.degree + 2) // 2
        if self.changes and (
            header["POLNGRP"] != 1
            or [name[:1] + name[-6:] for name in names] != ["X_IMAGE", "Y_IMAGE"]
            or len(self.basis) != n_terms
        ):
            raise InputError(
                f"{self.label}: found a PSF that depends on {', '.join(names)}, expected X_IMAGE "
                "and Y_IMAGE"
            )

    def at_pixel(self, x, y):
        """The PSF at zero-based pixels x and y of the image."""
        basis = self.basis[:1]
        if self.changes:
            along = [(v + 1 - z) / s for v, z, s in zip((x, y), self.zero, self.unit, strict=True)]
            powers = [
                along[0] ** a * along[1] ** b
                for b in range(self.degree + 1)
                for a in range(self.degree + 1 - b)
            ]
            basis = np.multiply(self.basis, np.reshape(powers, (-1, 1, 1)))
        image = basis.sum(axis=0)
        ny, nx = image.shape
        return ImagePSF(
            image / image.sum(),
            oversampling=self.oversampling,
            centre=(nx // 2, ny // 2),
            label=self.label,
        )

    def at(self, coordinate):
        """The PSF at a place on the sky; see `PSF.at`."""
        if self.wcs is None:
            raise InputError(
                f"{self.label}: found a PSF that changes over the image, expected the WCS of the "
                "image"
            )
        x, y = self.wcs.world_to_pixel(coordinate)
        return self.at_pixel(float(x), float(y))

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
        raise InputError(
            f"{self.label}: found a PSF that changes over the image, expected one at some place"
        )
