import pytest
from astropy import units as u

from astro_ddprism.errors import InputError
from astro_ddprism.io.pixel_units import parse_unit, per_solid_angle


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("DN/S", u.DN / u.s),
        ("count/S", u.ct / u.s),  # astropy reads siemens
        ("ELECTRONS/S", u.electron / u.s),
        ("electrons S-1", u.electron / u.s),
        ("e-/s", u.electron / u.s),
        ("counts/s", u.ct / u.s),
        ("COUNTS PER SECOND", u.ct / u.s),
        ("Jy/pixel", u.Jy),
        ("adu/s/pix", u.adu / u.s),
        ("nanomaggies", u.nmgy),
        ("10**-9 maggy", u.nmgy),
        ("10.0*nanoJansky", 10 * u.nJy),
        ("NJY", u.nJy),
        ("mJy", u.mJy),
        ("MJy/sr", u.MJy / u.sr),
        ("MJY/SR", u.MJy / u.sr),
        ("MJY/STER", u.MJy / u.sr),
        ("Mjy/sr", u.MJy / u.sr),
        ("cps", u.ct / u.s),
        ("nJy/arcsec**2", u.nJy / u.arcsec**2),
        ("erg/s/cm2/A", u.erg / u.s / u.cm**2 / u.AA),  # astropy reads ampere
        ("10^-20 erg/s/cm^2/Angstrom", 1e-20 * u.erg / u.s / u.cm**2 / u.AA),
        (None, u.one),
        (" ", u.one),
    ],
)
def test_spellings(text, unit):
    found = parse_unit(text, "a.fits")
    assert found.decompose().bases == (1 * u.Unit(unit)).unit.decompose().bases
    assert (1 * found).to_value(u.Unit(unit)) == pytest.approx(1, rel=1e-12)
    assert per_solid_angle(found) == (u.rad in u.Unit(unit).decompose().bases)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Jy/beam", "Jy/beam.*holds the flux of a whole beam"),
        ("JY/BEAM", "JY/BEAM.*beam"),
        ("mag", "'mag', .*no magnitudes"),
        ("mag/arcsec2", "mag/arcsec2.*no magnitudes"),
        ("mag(AB)", "no magnitudes"),
        ("luptitudes", "found the unit 'luptitudes'"),
        ("MJY", "found the unit 'MJY'"),  # mega or milli
        ("K", "'K', expected a unit of light"),
        ("S", "'S', expected a unit of light"),
        ("nJy2", "expected a unit of light"),
        ("furlongs per fortnight", "a.fits: found the unit 'furlongs per fortnight'"),
    ],
)
def test_units_in_which_pixels_do_not_add(text, message):
    with pytest.raises(InputError, match=message):
        parse_unit(text, "a.fits")
