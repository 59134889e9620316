"""What images are like: pixels, PSF, noise and band; told, or measured."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from astropy import units as u

from ..errors import InputError
from ..psf.kernels import kernel_fwhm
from ..units import AB_FLUX, zero_point
from .images import pixel_angle
from .psf import stellar_fwhm

__all__ = ["SurveyConditions", "image_conditions"]

N_NAMES = 4  # images that `lines` names


@dataclass(frozen=True)
class SurveyConditions:
    r"""What the images of one instrument are like.

    Parameters
    ----------
    pixel_scale : `~astropy.units.Quantity`
        Angle of the side of a pixel of the sources: the image's, or those of a frame of their own.
    noise : `~astropy.units.Quantity`, shape (bands,)
        Standard deviation of the noise of a pixel, its median over the image.
    psf_fwhm : `~astropy.units.Quantity`, shape (bands,), optional
        Full width at half maximum of the stars; None where it is not known.
    bands : tuple of str
        Names of the bands.
    images : tuple of str
        Names of the images.
    provenance : tuple of str
        What served as flux, noise, mask, PSF, ... of the images, or of the first of many.

    Examples
    --------
    >>> from astropy import units as u
    >>> from astro_ddprism.separator.checks import SurveyConditions
    >>> conditions = SurveyConditions(
    ...     0.339 * u.arcsec, [16.5] * u.nJy, [0.85] * u.arcsec, bands=("r",), images=("r.fits",)
    ... )
    >>> print("\n".join(conditions.lines()))
    pixels of 0.339 arcsec, r: noise 16.5 nJy a pixel (AB zero point 31.40), PSF 0.85 arcsec
    from r.fits
    """

    pixel_scale: u.Quantity
    noise: u.Quantity
    psf_fwhm: u.Quantity | None = None
    bands: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    provenance: tuple[str, ...] = ()

    @property
    def unit(self) -> u.UnitBase:
        """Unit of the flux."""
        return self.noise.unit

    @property
    def zero_point(self) -> float | None:
        """AB magnitude of a flux of 1, where the unit tells."""
        return zero_point(self.unit)

    def to(self, unit) -> "SurveyConditions":
        """The same with the noise in another unit of flux."""
        return replace(self, noise=self.noise.to(unit, AB_FLUX))

    @classmethod
    def combined(cls, several) -> "SurveyConditions | None":
        """Those of several sets of images together: medians, and all names.

        Parameters
        ----------
        several : iterable of SurveyConditions or None
            One for each set; None where nothing is known.

        Returns
        -------
        SurveyConditions or None
            None if nothing is known of any.
        """
        known = [one for one in several if one is not None]
        if not known:
            return None
        first = known[0]
        widths = [one.psf_fwhm for one in known if one.psf_fwhm is not None]
        return cls(
            np.median(u.Quantity([one.pixel_scale for one in known])),
            np.median(u.Quantity([one.to(first.unit).noise for one in known]), axis=0),
            np.median(u.Quantity(widths), axis=0) if widths else None,
            first.bands,
            tuple(dict.fromkeys(name for one in known for name in one.images)),
            first.provenance,
        )

    def state(self) -> dict:
        """Numbers, lists and names, for a file."""
        width = self.psf_fwhm
        return {
            "pixel_scale": self.pixel_scale.to_value(u.arcsec).item(),
            "psf_fwhm": None if width is None else width.to_value(u.arcsec).tolist(),
            "noise": self.noise.value.tolist(),
            "unit": self.unit.to_string(),
            "bands": list(self.bands),
            "images": list(self.images),
            "provenance": list(self.provenance),
        }

    @classmethod
    def from_state(cls, state: Mapping) -> "SurveyConditions":
        """What `state` told."""
        width = state["psf_fwhm"]
        return cls(
            state["pixel_scale"] * u.arcsec,
            u.Quantity(np.array(state["noise"], dtype=float), state["unit"]),
            None if width is None else np.array(width, dtype=float) * u.arcsec,
            tuple(state["bands"]),
            tuple(state["images"]),
            tuple(state.get("provenance", ())),
        )

    def lines(self) -> list[str]:
        """For people: pixels, noise, PSF and where the images came from."""
        unit = str(self.unit) or "(no unit)"
        zero = "" if self.zero_point is None else f" (AB zero point {self.zero_point:.2f})"
        parts = []
        for k, noise in enumerate(self.noise.value):
            name = f"{self.bands[k]}: " if k < len(self.bands) else ""
            width = "" if self.psf_fwhm is None else f", PSF {angle_text(self.psf_fwhm[k], '.2f')}"
            parts.append(f"{name}noise {noise:.4g} {unit} a pixel{zero}{width}")
        pixels = f"pixels of {angle_text(self.pixel_scale, '.3f')}, "
        names = [*self.images[:N_NAMES], *(["..."] if len(self.images) > N_NAMES else [])]
        return [pixels + "; ".join(parts), *([f"from {', '.join(names)}"] if names else [])]


def angle_text(angle, digits) -> str:
    """An angle in arcseconds, for messages."""
    return f"{angle.to_value(u.arcsec):{digits}} arcsec"


def angles_text(angles) -> str:
    """Several angles in arcseconds, for messages."""
    return ", ".join(f"{angle:.2f}" for angle in angles.to_value(u.arcsec)) + " arcsec"


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
    `~astro_ddprism.survey.conditions.SurveyConditions`

    Raises
    ------
    InputError
        If ``psf_fwhm`` is no positive angle.
    """
    scale = pixel_angle(image)
    widths, told = None, "not known"
    if psf_fwhm is not None:
        widths, told = _given_width(psf_fwhm, image.n_bands), "of the FWHM that was given"
    elif psf is not None:
        widths, told = kernel_fwhm(psf) * scale, "the one that was given, before which sources are"
    elif objects is not None:
        measured = stellar_fwhm(image, objects)
        widths = None if measured is None else measured * scale
        told = told if measured is None else "the width of the stars"
    valid = [band[~mask] for band, mask in zip(image.variance, image.mask, strict=True)]
    noise = [np.sqrt(np.median(one).astype(float)) if one.size else np.inf for one in valid]
    return SurveyConditions(
        scale,
        u.Quantity(noise, image.unit),
        None if widths is None else np.broadcast_to(widths, image.n_bands, subok=True),
        image.names,
        image.files,
        (*image.provenance, f"PSF: {told}") if image.provenance else (),
    )


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
