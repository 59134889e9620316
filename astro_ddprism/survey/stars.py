r"""Stars among detected objects, told by their size.

All stars have one half-light radius, that of the PSF, so among the objects of high signal-to-noise
the radii pile up at its smallest common value (the stellar locus), :math:`r_\star`; the locus is
the narrow window of radii in which the objects are most crowded compared with the radii above it. A
bright object is a star if its radius is below :math:`1.15\,r_\star`. Where the signal-to-noise is
lower, measured radii scatter across this line while faint galaxies are small and far more numerous
than stars; the limit is then :math:`1.05\,r_\star`, and at the lowest :math:`0.75\,r_\star`, below
which nothing is that came through the telescope (cosmic rays, bad pixels).
"""

import logging

import numpy as np

from ..psf.kernels import half_light_radius

__all__ = ["flag_stars", "stellar_locus"]

logger = logging.getLogger(__name__)

STAR_WINDOW = 1.1  # the locus: radii within 10 %
# Above this signal-to-noise ratio stars are smaller than this, in units of the locus. On a field of
# `simulate_field`, 7 % of the galaxies kept are faint stars then, and 6 % of the galaxies with a
# ratio of 15 to 30 are lost.
STAR_LIMITS = {30: 1.15, 15: 1.05, 0: 0.75}
BRIGHT_SNR = 30
STAR_COUNT = 8  # fewer objects make no locus


def flag_stars(objects, psf):
    """Tell stars from galaxies: fills the column ``star`` and the entry ``stellar_radius``.

    Parameters
    ----------
    objects : `~astropy.table.QTable`
        What was detected, see `~astro_ddprism.survey.detect_objects`; changed in place.
    psf : (ky, kx) or (bands, ky, kx) `~numpy.ndarray`, or None
        Point spread function, which tells where the stellar locus should be.
    """
    radius = objects["half_light_radius"].value
    bright = (objects["snr"] > BRIGHT_SNR) & ~objects["saturated"] & ~objects["edge"]
    near = None if psf is None else half_light_radius(psf)
    locus = stellar_locus(radius[bright], near=near)
    if locus is None:
        locus = near
    objects.meta["stellar_radius"] = locus
    if locus is None:
        objects["star"] = np.zeros(len(objects), dtype=bool)
        logger.info("stars are not told from galaxies: no stellar locus and no PSF")
        return
    limit = np.select(
        [objects["snr"] > snr for snr in STAR_LIMITS], list(STAR_LIMITS.values()), np.inf
    )
    objects["star"] = ~(radius > limit * locus)


def stellar_locus(radii, *, near=None):
    """Half-light radius of the stars among bright objects.

    Parameters
    ----------
    radii : array_like
        Half-light radii of objects of high signal-to-noise, in pixels.
    near : float, optional
        Where it should be, within 30 %, as the PSF tells.

    Returns
    -------
    float or None
        The radius; `None` where no narrow window of radii is crowded enough.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.survey import stellar_locus
    >>> rng = np.random.default_rng(0)
    >>> stars, galaxies = rng.normal(1.7, 0.03, 40), rng.uniform(1.5, 6, 200)
    >>> bool(abs(stellar_locus([*stars, *galaxies]) - 1.7) < 0.05)
    True
    >>> stellar_locus(rng.uniform(1.5, 6, 200)) is None
    True
    """
    radii = np.sort(np.asarray(radii, dtype=float))
    radii = radii[np.isfinite(radii) & (radii > 0)]
    if near is not None:
        radii = radii[(radii > 0.7 * near) & (radii < 2 * near)]
    if len(radii) < STAR_COUNT:
        return None
    # Objects in the window that starts at each radius, against two windows above it, per window.
    end = np.searchsorted(radii, radii * STAR_WINDOW, side="right")
    count = end - np.arange(len(radii))
    above = (np.searchsorted(radii, radii * STAR_WINDOW**3, side="right") - end) / 2
    excess = (count - above) / np.sqrt(count + above / 2)
    # Stars are smaller than most galaxies, and the window holds at least as many as galaxies.
    excess[(radii > np.median(radii)) | (count < 2 * above)] = -np.inf
    if near is not None:
        excess[radii > 1.3 * near] = -np.inf
    best = int(np.argmax(excess))
    if count[best] < STAR_COUNT or excess[best] < 4:
        return None
    return float(np.median(radii[best : end[best]]))
