r"""How many electrons make a unit of flux, as the noise of an image tells.

Where the noise of blank sky is that of the sky's photons, a pixel that collects the sky's
flux :math:`s` with the noise :math:`\sigma` has an effective gain of

.. math:: g = s / \sigma^2

electrons per unit of flux, since the variance in electrons, :math:`g^2 \sigma^2`, equals their
number, :math:`g s`. It depends neither on the exposure nor on the telescope. The dark sky's r-band
brightness of 21.0 AB magnitudes per square arcsecond (Patat 2003, A&A 400, 1183, for Paranal: 20.9
in R, Vega) gives 4.6e-10 maggies in KiDS's pixels of 0.339 arcsec, and their noise of 4.3e-12
maggies, g = 2.4e13 electrons per maggie. In 1800 s this is a zero point of 25.3 magnitudes for one
electron a second, as it should be for the 2.6 m of the VST.
"""

__all__ = ["effective_gain", "likely_gain"]

import numpy as np

from astro_ddprism.survey.images import pixel_angle

SKY_MAGNITUDE = 21.0  # AB, per square arcsecond


def effective_gain(noise, pixel, sky_magnitude=SKY_MAGNITUDE):
    """Electrons per maggie of an image whose noise is that of the sky's photons.

    Parameters
    ----------
    noise : float
        Standard deviation of a pixel of blank sky, in maggies.
    pixel : float
        Side of a pixel in arcseconds.
    sky_magnitude : float
        Brightness of the sky, AB magnitudes per square arcsecond.

    Returns
    -------
    gain : float

    Examples
    --------
    >>> from benchmarks.injection.gain import effective_gain
    >>> print(f"{effective_gain(4.5e-12, 0.339):.2g}")
    2.3e+13
    """
    return 10 ** (-0.4 * sky_magnitude) * pixel**2 / noise**2


def likely_gain(image, zero_point=0.0):
    """Electrons per unit of an image, if its noise is that of the sky's photons.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
    zero_point : float
        AB magnitude of the image's unit: 0 for maggies.

    Returns
    -------
    gain : float
    """
    noise = float(np.sqrt(np.median(image.variance[~image.mask])))
    maggies = 10 ** (-0.4 * zero_point)
    gain = effective_gain(noise * maggies, pixel_angle(image).to_value("arcsec"))
    return gain * maggies
