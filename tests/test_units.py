"""Against astropy's own magnitudes, which know no maggies, and the definition of the AB system."""

import numpy as np
import pytest
from astropy import constants
from astropy import units as u

from astro_ddprism.units import AB_FLUX, zero_point

# m_AB = -2.5 log10(f / (erg / s / cm2 / Hz)) - 48.6 (Oke & Gunn 1983).
OF_MAGNITUDE_0 = u.Quantity(10 ** (-48.6 / 2.5), "erg / (s cm2 Hz)")


def test_a_maggie_is_the_flux_of_magnitude_0():
    assert (1 * u.mgy).to_value(u.Jy, AB_FLUX) == pytest.approx(3630.780548, rel=1e-9)
    assert (1 * u.mgy).to_value(u.Jy, AB_FLUX) == pytest.approx(OF_MAGNITUDE_0.to_value(u.Jy))
    fluxes = [0.01, 1, 3e4] * u.uJy
    expected = 10 ** (-0.4 * (fluxes.to_value(u.ABmag) - 22.5))
    np.testing.assert_allclose(fluxes.to_value(u.nmgy, AB_FLUX), expected, rtol=1e-12)
    np.testing.assert_allclose((expected * u.nmgy).to(u.uJy, AB_FLUX), fluxes, rtol=1e-12)
    assert (20 * u.ABmag).to_value(u.nmgy, AB_FLUX) == pytest.approx(10)


def test_variances_and_gains():
    factor = (1 * u.nmgy).to_value(u.nJy, AB_FLUX)
    for unit, power in ((u.nmgy**2, 2), (u.electron / u.nmgy, -1)):
        other = unit * u.nmgy**-power * u.nJy**power
        assert unit.to(other, equivalencies=AB_FLUX) == pytest.approx(factor**power, rel=1e-12)
        assert other.to(unit, equivalencies=AB_FLUX) == pytest.approx(factor**-power, rel=1e-12)


@pytest.mark.parametrize("unit", ["Jy", "uJy", "3 nJy", "erg / (s cm2 Hz)", "AB"])
def test_zero_points(unit):
    assert zero_point(unit) == pytest.approx((1 * u.Unit(unit)).to_value(u.ABmag), abs=1e-12)
    assert zero_point("nmgy") == pytest.approx(22.5, abs=1e-12)


@pytest.mark.parametrize("unit", ["", "adu", "electron / s", u.W / u.m**2, u.ST])
def test_units_without_a_zero_point(unit):
    assert zero_point(unit) is None


def test_the_equivalency_is_of_fluxes_alone():
    assert not u.mgy.is_equivalent(u.m, AB_FLUX)
    assert not u.mgy.is_equivalent(u.Jy**2, AB_FLUX)
    with pytest.raises(u.UnitConversionError):
        (1 * constants.c).to(u.Jy, AB_FLUX)
