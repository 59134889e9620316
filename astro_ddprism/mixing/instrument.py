r"""The operator of an instrument: the source's bands, then PSF, pixels and WCS.

.. math:: A = A_\mathrm{resampling} \, A_\mathrm{bands}

What of it changes no band comes last, since an instrument usually has fewer bands than the source.
"""

import dataclasses

import numpy as np

from ..errors import InputError
from .bands import Bands
from .base import as_shape
from .composition import Composition
from .resampling import Resampling

__all__ = ["instrument_operator"]


def instrument_operator(
    wcs, shape, *, frame, coordinates, psf=None, bands=None, names=None, dtype=None
):
    """The mixing operator that leads from a source's frame to an instrument's images.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS` or sequence of it
        The WCS of each observation's image: any celestial one.
    shape : tuple of int
        ``(bands, ny, nx)`` of the images.
    frame : `~astro_ddprism.frame.SourceFrame`
        Where the source lives.
    coordinates : `~astropy.coordinates.SkyCoord`
        Where the frame lies in each observation, or one coordinate for all.
    psf : `~astro_ddprism.psf.PSF` or sequence of it, optional
        The PSF of all images or of each observation's. None: no blurring but the pixel's.
    bands : array_like, shape (image's bands, source's bands), optional
        Share of each of the source's bands in each of the image's. By default they are the same.
    names : sequence of str, optional
        What messages call the observations; their numbers by default.
    dtype : torch.dtype, optional
        float32 by default.

    Returns
    -------
    operator : MixingOperator
        A `Resampling`, after `Bands` if there are ``bands``.

    Raises
    ------
    InputError
        If the bands of image, source and ``bands`` do not fit together, one of the image's bands
        shows nothing of the source, or `Resampling.from_wcs` cannot use the rest.

    Examples
    --------
    The second of a source's two bands:

    >>> from astropy import units as u
    >>> from astropy.coordinates import SkyCoord
    >>> from astro_ddprism.frame import SourceFrame
    >>> from astro_ddprism.mixing import instrument_operator
    >>> galaxy = SkyCoord(150.1, 2.2, unit="deg")
    >>> frame = SourceFrame(0.05 * u.arcsec, (2, 64, 64))
    >>> image = SourceFrame(0.2 * u.arcsec, (1, 16, 16)).wcs(galaxy)
    >>> A = instrument_operator(
    ...     image, (1, 16, 16), frame=frame, coordinates=galaxy, bands=[[0, 1]]
    ... )
    >>> A
    <Composition (2, 64, 64) -> (1, 16, 16), 1 observations>
    """
    shape = as_shape(shape)
    if bands is None:
        return Resampling.from_wcs(
            wcs, shape, frame=frame, coordinates=coordinates, psf=psf, names=names, dtype=dtype
        )
    bands = np.asarray(bands, dtype=float)
    if bands.shape != (shape[0], frame.shape[0]):
        raise InputError(
            f"bands: found shape {bands.shape}, expected ({shape[0]}, {frame.shape[0]}): a row for "
            "each of the image's bands, a column for each of the source's"
        )
    dark = np.flatnonzero(~bands.any(axis=1))
    if len(dark):
        raise InputError(
            f"bands: found nothing but zeros for band {dark[0]} of the image, which would say "
            "nothing about the source; expected none"
        )
    resampling = Resampling.from_wcs(
        wcs,
        shape,
        frame=dataclasses.replace(frame, shape=(shape[0], *frame.shape[1:])),
        coordinates=coordinates,
        psf=psf,
        names=names,
        dtype=dtype,
    )
    return Composition(resampling, Bands(bands, frame.shape, dtype=dtype))
