"""What an image is like: measured, or told where it cannot be measured."""

import numpy as np
from astropy import units as u

from ..conditions import SurveyConditions
from ..errors import InputError
from .cutouts import pixel_angle
from .detection import detect_objects
from .psf import kernel_fwhm, stellar_fwhm

__all__ = ["detect_stars", "image_conditions"]


def image_conditions(image, *, objects=None, psf=None, psf_fwhm=None) -> SurveyConditions:
    """Find out what an image is like.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    objects : `~astropy.table.QTable`, optional
        What was detected on it (`~astro_ddprism.survey.detect_objects`), stars among it.
    psf : (ky, kx) or (bands, ky, kx) `~numpy.ndarray`, optional
        Its PSF.
    psf_fwhm : float or `~astropy.units.Quantity`, scalar or (bands,), optional
        Full width at half maximum of the PSF, in arcseconds if without a unit. By default that of
        the PSF, or else of the stars.

    Returns
    -------
    `~astro_ddprism.conditions.SurveyConditions`

    Raises
    ------
    InputError
        If ``psf_fwhm`` is no positive angle.
    """
    scale = pixel_angle(image)
    widths = None
    if psf_fwhm is not None:
        widths = _given_width(psf_fwhm, image.n_bands)
    elif psf is not None:
        widths = kernel_fwhm(psf) * scale
    elif objects is not None:
        measured = stellar_fwhm(image, objects)
        widths = None if measured is None else measured * scale
    valid = [band[~mask] for band, mask in zip(image.variance, image.mask, strict=True)]
    noise = [np.sqrt(np.median(one).astype(float)) if one.size else np.inf for one in valid]
    return SurveyConditions(
        scale,
        u.Quantity(noise, image.unit),
        None if widths is None else np.broadcast_to(widths, image.n_bands, subok=True),
        image.names,
        image.files,
    )


def detect_stars(image):
    """Detect objects for the sake of the stars among them: blends stay blends.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.

    Returns
    -------
    `~astropy.table.QTable`, or None
        As of `~astro_ddprism.survey.detect_objects`; None where nothing is detected.
    """
    try:
        return detect_objects(image, deblend_contrast=1.0)
    except InputError:
        return None


def _given_width(psf_fwhm, n_bands):
    unit = None if hasattr(psf_fwhm, "unit") else u.arcsec
    try:
        width = np.atleast_1d(u.Quantity(psf_fwhm, unit).to(u.arcsec))
    except (TypeError, u.UnitConversionError) as error:
        raise InputError(f"psf_fwhm: found {psf_fwhm!r}, expected an angle") from error
    if width.shape not in {(1,), (n_bands,)} or not (width > 0).all() or np.isinf(width).any():
        raise InputError(
            f"psf_fwhm: found {psf_fwhm}, expected a positive angle, or one for each of {n_bands} "
            "bands"
        )
    return width
