import os
import stat

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS, Sip

from astro_ddprism.errors import InputError
from astro_ddprism.io.fits import row_wcs, wcs_table, write_fits


def tan(**changes):
    """A rotated tangent-plane WCS of a cutout whose reference pixel is far outside."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 150.1, 2.2
    wcs.wcs.crpix = -812.25, 1033.5
    wcs.wcs.cd = 1e-4 * np.array([[-0.8, 0.6], [0.6, 0.8]])
    for name, value in changes.items():
        setattr(wcs.wcs, name, value)
    wcs.wcs.set()
    return wcs


def sip():
    wcs = tan(ctype=["RA---TAN-SIP", "DEC--TAN-SIP"])
    a = np.zeros((3, 3))
    a[2, 0], a[0, 2], a[1, 1] = 2e-6, 1e-6, -1e-6
    wcs.sip = Sip(a, 0.7 * a, None, None, wcs.wcs.crpix)
    return wcs


def tpv():
    header = tan().to_header()
    header.update(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", PV1_0=0.0, PV1_1=1.0, PV1_7=1e-3)
    header.update(PV2_0=0.0, PV2_1=1.0, PV2_4=0.01)
    return WCS(header)


@pytest.mark.parametrize(
    ("wcs", "tolerance"),
    [
        (tan(), 1e-9),
        (tan(ctype=["GLON-CAR", "GLAT-CAR"], crval=[30.0, 0.0]), 1e-9),
        (tan(ctype=["RA---SIN", "DEC--SIN"]), 1e-9),
        (tan(ctype=["RA---ZEA", "DEC--ZEA"], radesys="FK5", equinox=1975.0), 1e-9),
        # Distorted: the tangent plane at the cutout's centre stands in.
        (sip(), 2e-3),
        (tpv(), 2e-3),
        (tan(lonpole=150.0), 2e-3),
    ],
)
@pytest.mark.filterwarnings("ignore:Some non-standard WCS keywords were excluded")
def test_a_table_row_is_the_wcs(wcs, tolerance, tmp_path):
    table = wcs_table([wcs, tan()], (32, 30))
    write_fits(fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(table)]), tmp_path / "t.fits")
    again = row_wcs(Table.read(tmp_path / "t.fits")[0])
    y, x = np.mgrid[0:32, 0:30]
    there = wcs.pixel_to_world(x, y)
    back = np.array(again.world_to_pixel(there))
    assert np.abs(back - [x, y]).max() < tolerance  # pixels


def test_a_row_without_wcs_is_refused():
    with pytest.raises(InputError, match="CTYPE1"):
        row_wcs(Table({"id": [1]})[0])


def hdus(value=0.0):
    return fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.full((4, 4), value), name="SCI")])


def test_a_file_is_replaced_on_request_only(tmp_path):
    path = tmp_path / "a.fits"
    write_fits(hdus(1.0), path)
    with pytest.raises(InputError, match=r"a\.fits: found an existing file"):
        write_fits(hdus(2.0), path)
    assert fits.getdata(path).max() == 1
    write_fits(hdus(2.0), path, overwrite=True)
    with fits.open(path, checksum=True) as written:
        written.verify("exception")
        assert written["SCI"].data.max() == 2
    assert os.listdir(tmp_path) == ["a.fits"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "data").mkdir()
    link = tmp_path / "link.fits"
    link.symlink_to(tmp_path / "data" / "a.fits")
    write_fits(hdus(1.0), link)
    write_fits(hdus(2.0), link, overwrite=True)
    assert link.is_symlink()
    assert fits.getdata(tmp_path / "data" / "a.fits").max() == 2


def test_places_that_hold_no_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="found no folder"):
        write_fits(hdus(), tmp_path / "none" / "a.fits")
    with pytest.raises(InputError, match="found a folder"):
        write_fits(hdus(), tmp_path, overwrite=True)
    with pytest.raises(InputError, match="cannot be written"):
        write_fits(hdus(), tmp_path / ("a" * 250 + ".fits"))
