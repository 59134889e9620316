"""Fluxes of the AB system: janskys, maggies and magnitudes.

A source of AB magnitude 0 has the flux 1 AB, which is 3630.78 Jy. A maggie is the flux of magnitude
0 of any system, and `astropy.units` leaves open which; here it is the AB system, as for the surveys
that publish maggies. Everything that converts fluxes does so with `AB_FLUX`.
"""

from astropy import units as u

__all__ = ["AB_FLUX", "zero_point"]

AB_FLUX = [
    (u.mgy, u.AB),
    (u.mgy**2, u.AB**2),
    (u.electron / u.mgy, u.electron / u.AB),
]
"""The equivalency of maggies and janskys, for fluxes, their variances and gains.

>>> from astropy import units as u
>>> from astro_ddprism.units import AB_FLUX
>>> (1 * u.nmgy).to(u.uJy, AB_FLUX).round(4)
<Quantity 3.6308 uJy>
>>> (22.5 * u.ABmag).to(u.nmgy, AB_FLUX).round(4)
<Quantity 1. nmgy>
"""


def zero_point(unit) -> float | None:
    """AB magnitude of a flux of 1.

    Parameters
    ----------
    unit : Unit or str
        Its unit.

    Returns
    -------
    zero_point : float or None
        None where the unit does not tell, such as counts.

    Examples
    --------
    >>> from astro_ddprism.units import zero_point
    >>> round(zero_point("nJy"), 6), round(zero_point("nmgy"), 6), zero_point("adu")
    (31.4, 22.5, None)
    """
    try:
        return float(u.Quantity(1, unit).to_value(u.ABmag, AB_FLUX))
    except u.UnitConversionError:
        return None
