import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, DistortionLookupTable, Sip

from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.frame.pixelmap import fit_pixel_maps, pixel_axes, pixel_extent

HERE = SkyCoord(150.1, 2.2, unit="deg")
FRAME = SourceFrame(0.05 * u.arcsec, (1, 64, 60))


def make_wcs(kind, *, crpix=(20.7, 18.2), scale=0.168 / 3600):
    """WCS of an image of 40 x 36 pixels around HERE, in the spellings that headers have."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], crpix
    wcs.wcs.crval = [HERE.ra.deg, HERE.dec.deg]
    c, s = np.cos(0.3), np.sin(0.3)
    if kind == "cd":
        wcs.wcs.cd = scale * np.array([[-c, s], [s, c]])
    elif kind == "pc":
        wcs.wcs.cdelt, wcs.wcs.pc = [-scale, scale], [[c, -s], [s, c]]
    elif kind == "flip":
        wcs.wcs.cdelt, wcs.wcs.pc = [scale, scale], [[c, -s], [s, c]]
    elif kind == "fk5":
        wcs.wcs.cdelt, wcs.wcs.radesys, wcs.wcs.equinox = [-scale, scale], "FK5", 1975.0
        fk5 = HERE.transform_to("fk5").transform_to(
            SkyCoord(0, 0, unit="deg", frame="fk5", equinox="J1975").frame
        )
        wcs.wcs.crval = [fk5.ra.deg, fk5.dec.deg]
    elif kind == "galactic":
        wcs.wcs.ctype, wcs.wcs.cdelt = ["GLAT-CAR", "GLON-CAR"], [scale, -scale]
        wcs.wcs.crval = [HERE.galactic.b.deg, HERE.galactic.l.deg]
    elif kind == "sip":
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        wcs.wcs.cd = scale * np.array([[-c, s], [s, c]])
        a, b = np.zeros((5, 5)), np.zeros((5, 5))
        a[2, 0], a[1, 1], a[0, 3], b[0, 2], b[4, 0] = 4e-4, -3e-4, 2e-6, 5e-4, 1e-7
        wcs.sip = Sip(a, b, None, None, crpix)
    wcs.wcs.set()
    return wcs


KINDS = ["cd", "pc", "flip", "fk5", "galactic", "sip"]


def evaluate(coefficients, x, y, shape):
    ty, tx = ((2 * i - (m - 1)) / m for i, m in zip((y, x), shape, strict=True))
    return np.polynomial.chebyshev.chebval2d(ty, tx, np.moveaxis(coefficients, 0, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_follows_both_wcs(kind):
    """Through the sky by astropy's own high-level functions, at random pixels."""
    wcs, shape = make_wcs(kind), (36, 40)
    coefficients = fit_pixel_maps(wcs, shape, FRAME, HERE)
    assert coefficients.shape[:2] == (1, 2)
    x, y = np.random.default_rng(0).uniform(0, 35, (2, 50))
    expected = FRAME.wcs(HERE).world_to_pixel(wcs.pixel_to_world(x, y))
    np.testing.assert_allclose(evaluate(coefficients[0], x, y, shape), expected, atol=1e-5)


def test_keeps_no_more_than_matters():
    assert fit_pixel_maps(make_wcs("pc"), (36, 40), FRAME, HERE).shape == (1, 2, 2, 2)
    assert fit_pixel_maps(make_wcs("sip"), (36, 40), FRAME, HERE).shape[-1] > 3


def test_every_observation_has_its_own():
    wcs = [make_wcs(kind) for kind in KINDS]
    coordinates = SkyCoord(HERE.ra + np.arange(6) * 0.1 * u.arcsec, HERE.dec)
    together = fit_pixel_maps(wcs, (36, 40), FRAME, coordinates)
    for i in range(6):
        alone = fit_pixel_maps(wcs[i], (36, 40), FRAME, coordinates[i])[0]
        n = min(alone.shape[-1], together.shape[-1])
        np.testing.assert_allclose(together[i, :, :n, :n], alone[:, :n, :n], atol=1e-5)


def test_axes_and_extent():
    wcs = [make_wcs(kind) for kind in ("sip", "flip")]
    coefficients = fit_pixel_maps(wcs, (36, 40), FRAME, HERE)
    middle, step = np.array([19.5, 17.5]), 0.5
    for one, axes in zip(coefficients, pixel_axes(coefficients, (36, 40)), strict=True):
        for axis, column in enumerate(axes.T):
            ahead, behind = (middle + sign * step * np.eye(2)[axis] for sign in (1, -1))
            slope = evaluate(one, *ahead, (36, 40)) - evaluate(one, *behind, (36, 40))
            np.testing.assert_allclose(column, slope, atol=2e-5)
    x, y = np.meshgrid(np.arange(40), np.arange(36))
    places = np.array([evaluate(one, x, y, (36, 40)) for one in coefficients])
    lowest, highest = pixel_extent(coefficients, (36, 40))
    np.testing.assert_allclose(lowest, places.min(axis=(0, 2, 3)), atol=1e-9)
    np.testing.assert_allclose(highest, places.max(axis=(0, 2, 3)), atol=1e-9)


def test_wcs_that_does_not_cover_the_object():
    away = SkyCoord(HERE.ra, HERE.dec + 4 * u.arcsec)
    with pytest.raises(
        InputError,
        match=r"observation b: its coordinate, 150.1 2.2011\d, lies outside, towards pixel "
        r"\(x, y\) = \(26, 40\), expected inside its image of 40 x 36 pixels",
    ):
        fit_pixel_maps(
            [make_wcs("pc", crpix=(20, 18))] * 2,
            (36, 40),
            FRAME,
            SkyCoord([HERE.ra, away.ra], [HERE.dec, away.dec]),
            names=["a", "b"],
        )
    with pytest.raises(InputError, match="observation 0: found pixels that its WCS puts on no"):
        fit_pixel_maps(make_wcs("pc"), (36, 40), FRAME, SkyCoord(330.1, -2.2, unit="deg"))


def test_wcs_that_is_none():
    with pytest.raises(
        InputError, match="observation 0: found a WCS of the axes CTYPE = '', '', expected a cel"
    ):
        fit_pixel_maps(WCS(naxis=2), (36, 40), FRAME, HERE)
    with pytest.raises(InputError, match=r"observation x.fits: found str for a WCS"):
        fit_pixel_maps(["header"], (36, 40), FRAME, HERE, names=["x.fits"])


def test_distortion_that_is_too_rough():
    wcs = make_wcs("pc")
    rough = np.random.default_rng(0).normal(size=(36, 40)).astype(np.float32)
    wcs.cpdis1 = DistortionLookupTable(rough, (1, 1), (1, 1), (1, 1))
    with pytest.raises(InputError, match=r"observation 0: its WCS distorts by .* beyond polynomi"):
        fit_pixel_maps(wcs, (36, 40), FRAME, HERE)


def test_numbers_that_differ():
    wcs = [make_wcs("pc")] * 3
    with pytest.raises(InputError, match=r"coordinates: found shape \(2,\), expected \(3,\)"):
        fit_pixel_maps(wcs, (36, 40), FRAME, SkyCoord([HERE, HERE]))
    with pytest.raises(InputError, match="coordinates: found tuple, expected a SkyCoord"):
        fit_pixel_maps(wcs, (36, 40), FRAME, (150.1, 2.2))
    with pytest.raises(InputError, match="names: found 1, expected 3"):
        fit_pixel_maps(wcs, (36, 40), FRAME, HERE, names=["a"])
