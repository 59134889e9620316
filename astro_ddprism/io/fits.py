"""FITS products: files written whole or not at all, and the WCS of cutouts as table columns."""

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from ..errors import InputError
from .outputs import replacing

__all__ = [
    "WCS_KEYWORDS",
    "card_text",
    "row_wcs",
    "tangent_plane",
    "wcs_table",
    "write_fits",
]

# The keywords of a cutout's WCS that a table row holds: enough for any projection that has no
# distortion and no parameters, and whose poles are where the standard puts them.
WCS_KEYWORDS = (
    "CTYPE1", "CTYPE2", "CUNIT1", "CUNIT2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2",
    "CD1_1", "CD1_2", "CD2_1", "CD2_2", "RADESYS", "EQUINOX",
)  # fmt: skip


def card_text(value) -> str:
    """Text that a FITS header can hold: what is not printable ASCII is escaped, as in Python.

    Parameters
    ----------
    value : object
        What is to be told.

    Returns
    -------
    text : str
    """
    return "".join(
        c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in str(value)
    )


def write_fits(hdus, path, overwrite=False):
    """Write a FITS file whole or not at all, with checksums.

    Parameters
    ----------
    hdus : HDUList
        What to write; verified against the standard first.
    path : path-like
        The file to be.
    overwrite : bool
        Whether an existing file is replaced.

    Raises
    ------
    InputError
        If the file exists and may not be replaced, or cannot be made.
    astropy.io.fits.VerifyError
        If the content breaks the FITS standard.
    """
    hdus.verify("exception")
    with replacing(path, overwrite) as temporary, open(temporary, "wb") as file:
        hdus.writeto(file, checksum=True, output_verify="exception")


def wcs_table(wcs, shape):
    """One table row of FITS WCS keywords for each cutout.

    Where a WCS holds distortions or other terms that the keywords of `WCS_KEYWORDS` do not, the row
    holds the tangent plane at the cutout's centre instead, in ICRS: over a cutout the two differ by
    a small fraction of a pixel.

    Parameters
    ----------
    wcs : sequence of WCS
        A celestial WCS for each cutout.
    shape : tuple of int
        ``(ny, nx)`` of the cutouts.

    Returns
    -------
    table : Table
        Columns named as the keywords.

    See Also
    --------
    row_wcs : The way back.
    """
    rows = []
    for each in wcs:
        row = _keywords(each)
        # Terms that the keywords lack hide in many places (SIP, TPV, look-up tables, poles); where
        # the corners of the cutout fall does not lie.
        y, x = np.array([[0, 0], [0, shape[1]], [shape[0], 0], list(shape)], dtype=float).T
        here = np.array(WCS(row).world_to_pixel(each.pixel_to_world(x, y)))
        if not np.allclose(here, [x, y], rtol=0, atol=1e-5):
            row = _keywords(tangent_plane(each, shape))
        rows.append(row)
    return Table(rows, names=WCS_KEYWORDS)


def row_wcs(row):
    """The WCS of a cutout, from its row in a product's catalog.

    Parameters
    ----------
    row : Row
        Of the table ``CATALOG``.

    Returns
    -------
    wcs : WCS
        Celestial WCS of the cutout's pixels.

    Raises
    ------
    InputError
        If the row lacks the columns of `WCS_KEYWORDS`.
    """
    missing = [key for key in WCS_KEYWORDS if key not in row.colnames]
    if missing:
        raise InputError(
            f"row: found no {', '.join(missing)}, expected a row of a CATALOG with WCS"
        )
    # Plain numbers and strings: a QTable's row would hold them with their units.
    return WCS({key: np.asarray(row[key]).item() for key in WCS_KEYWORDS})


def _keywords(wcs):
    """The linear part of a WCS as keywords; numbers unrounded, as no header would hold them."""
    wcs.wcs.set()
    ctype = [kind.removesuffix("-SIP") for kind in wcs.wcs.ctype]
    values = [*ctype, "deg", "deg", *wcs.wcs.crval, *wcs.wcs.crpix, *wcs.pixel_scale_matrix.flat]
    equinox = wcs.wcs.equinox if np.isfinite(wcs.wcs.equinox) else 2000.0
    values += [wcs.wcs.radesys or "ICRS", equinox]
    return dict(zip(WCS_KEYWORDS, values, strict=True))


def tangent_plane(wcs, shape, first=(0, 0)):
    """The gnomonic WCS that agrees with ``wcs`` to first order at the centre of a part.

    Parameters
    ----------
    wcs : WCS
        Any celestial one.
    shape : tuple of int
        ``(ny, nx)`` of the part.
    first : tuple of int
        Its first pixel, (x, y).

    Returns
    -------
    plane : WCS
        Of the part's pixels, in ICRS.
    """
    y, x = (np.array(shape) - 1) / 2 + np.array(first[::-1])
    centre = wcs.pixel_to_world(x, y).icrs
    frame = centre.skyoffset_frame()
    ends = wcs.pixel_to_world([x + 1, x - 1, x, x], [y, y, y + 1, y - 1]).icrs.transform_to(frame)
    lon, lat = np.tan(ends.lon.wrap_at("180d")), np.tan(ends.lat) / np.cos(ends.lon)
    plane = WCS(naxis=2)
    plane.wcs.ctype = "RA---TAN", "DEC--TAN"
    plane.wcs.cunit = "deg", "deg"
    plane.wcs.crval = centre.ra.deg, centre.dec.deg
    plane.wcs.crpix = x + 1 - first[0], y + 1 - first[1]
    plane.wcs.cd = np.rad2deg([[v[0] - v[1], v[2] - v[3]] for v in (lon.value, lat.value)]) / 2
    plane.wcs.radesys = "ICRS"
    plane.wcs.set()
    return plane
