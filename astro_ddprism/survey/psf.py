"""The width of the point spread function, as the stars of an image show it."""

import numpy as np

from ..psf.kernels import star_widths

__all__ = ["stellar_fwhm"]

STAR_SNR = 50  # of the stars whose width is measured
MIN_STARS, MAX_STARS = 5, 100


def stellar_fwhm(image, objects):
    """Full width at half maximum of the stars of an image, band by band.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image, its sky subtracted.
    objects : `~astropy.table.QTable`
        What was detected on it (`~astro_ddprism.survey.detect_objects`).

    Returns
    -------
    (bands,) `~numpy.ndarray`, or None
        The median over up to 100 of the brightest stars, in pixels; None where stars are not told
        from galaxies, or fewer than five of them are bright in some band.
    """
    radius = objects.meta["stellar_radius"]
    bad = objects["saturated"] | objects["edge"] | objects["masked"]
    stars = objects[objects["star"] & (objects["snr"] > STAR_SNR) & ~bad]
    if radius is None or len(stars) < MIN_STARS:
        return None
    # Detections below the stellar locus are no stars, but bad pixels and cosmic rays.
    stars = stars[stars["half_light_radius"].value > radius / 1.15]
    stars = stars[np.argsort(-stars["snr"])[:MAX_STARS]]
    positions = np.column_stack([stars["x"], stars["y"]])
    widths = []
    for data, variance, mask in zip(image.data, image.variance, image.mask, strict=True):
        if mask.all():
            return None
        scale = float(np.sqrt(np.median(variance[~mask])))  # photutils squares what may be tiny
        found = star_widths(np.where(mask, 0, data) / scale, positions, 2 * radius, mask)
        found = found[np.isfinite(found) & (found > radius) & (found < 4 * radius)]
        if len(found) < MIN_STARS:
            return None
        widths.append(np.median(found))
    return np.array(widths)
