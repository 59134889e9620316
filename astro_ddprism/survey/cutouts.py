r"""Cutouts around positions.

A cutout of ``size`` pixels is centred on the pixel nearest to its position, which becomes its pixel
``size // 2`` in both directions; nothing is resampled. Pixels that would lie off the image are
masked. Its WCS is the image's with the reference pixel moved, :math:`\mathrm{CRPIX}' =
\mathrm{CRPIX} - (\text{first pixel})`, so that every pixel keeps its place on the sky.
"""

import logging
from dataclasses import dataclass

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from astropy.wcs import Sip

from ..errors import InputError, NothingFoundError
from ..io.fits import tangent_plane
from ..io.wcs import has_tables
from .catalogs import some
from .images import image_middle
from .positions import positions_table
from .stamps import Stamps

__all__ = ["Cutouts", "cut_out", "cut_stamps"]

logger = logging.getLogger(__name__)

SIDE = 1024  # pixels


@dataclass(frozen=True)
class Cutouts:
    """Cutouts of an image.

    Parameters
    ----------
    data, variance, mask : (n, bands, size, size) `~numpy.ndarray`
        Flux, noise variance (infinite where masked) and mask (`True`: no information).
    saturated : (n, bands, size, size) bool `~numpy.ndarray`
        `True` at masked pixels of saturated stars.
    wcs : list of `~astropy.wcs.WCS`
        Celestial WCS of each.
    coordinates : `~astropy.coordinates.SkyCoord`
        The positions that were asked for.
    ids : array of str
        Their names.
    rejected : `~astropy.table.QTable`
        Positions without a cutout: ``id``, ``sky_centroid`` and ``reason``, "off the image",
        "masked" or "no position".
    effective_gain : (n, bands, size, size) `~numpy.ndarray`, optional
        Electrons for each unit of flux.
    """

    data: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    saturated: np.ndarray
    wcs: list
    coordinates: SkyCoord
    ids: np.ndarray
    rejected: QTable
    effective_gain: np.ndarray | None = None


def masked_fraction_map(mask, size):
    """Masked part of the cutout around every pixel.

    Parameters
    ----------
    mask : (bands, ny, nx) bool `~numpy.ndarray`
        The image's mask.
    size : int
        Side of the cutouts.

    Returns
    -------
    (ny, nx) `~numpy.ndarray`
        From 0 to 1; NaN where the cutout does not lie wholly on the image.
    """
    bands, ny, nx = mask.shape
    fraction = np.full((ny, nx), np.nan)
    if ny < size or nx < size:
        return fraction
    # Sums over squares from differences of a cumulative sum.
    total = np.zeros((ny + 1, nx + 1), dtype=np.int64)
    total[1:, 1:] = mask.sum(axis=0).cumsum(axis=0).cumsum(axis=1)
    sums = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    first = size // 2
    fraction[first : first + sums.shape[0], first : first + sums.shape[1]] = sums
    return fraction / (bands * size**2)


def cut_out(image, positions, *, size=32, max_masked_fraction=0.2):
    """Cut an image out around positions.

    Parameters
    ----------
    image : `SurveyImage`
        The image.
    positions : `~astropy.table.QTable`
        With the columns ``id``, ``x``, ``y``, ``sky_centroid``, as of `read_positions`,
        `place_randoms` or `detect_galaxies`.
    size : int
        Side of the cutouts in pixels.
    max_masked_fraction : float
        Cutouts with more masked pixels than this, those off the image among them, are rejected.

    Returns
    -------
    `Cutouts`
        In the order of the positions.

    Raises
    ------
    InputError
        If no position has a cutout.
    """
    check_size(size, image)
    ny, nx = image.shape[1:]
    n = len(positions)
    data, variance, mask, saturated, gain, corners, inside = _cut_all(image, positions, size)
    keep = inside & (mask.mean(axis=(1, 2, 3)) <= max_masked_fraction) & ~mask.all(axis=(1, 2, 3))
    sky = positions["sky_centroid"].spherical
    known = np.isfinite(sky.lon) & np.isfinite(sky.lat)
    reason = np.select([~known, inside], ["no position", "masked"], "off the image")
    if not keep.any():
        raise NothingFoundError(
            f"{image.filename}: none of the {n} positions has a cutout, {np.sum(~inside)} are "
            f"off the image and {np.sum(inside)} have over {max_masked_fraction:.0%} of their "
            f"pixels masked; the image is {nx} x {ny} pixels around {_middle(image)}"
            + "".join(f"; {line}" for line in image.provenance if line.startswith("mask"))
        )
    if not keep.all():
        logger.warning(
            "%d of %d positions rejected: %d off the image, %d masked: %s",
            np.sum(~keep),
            n,
            np.sum(~inside),
            np.sum(inside & ~keep),
            some(positions["id"][~keep]),
        )
    return Cutouts(
        data=data[keep],
        variance=variance[keep],
        mask=mask[keep],
        saturated=saturated[keep],
        wcs=[shifted(image.wcs, *corner, (size, size)) for corner in corners[keep]],
        coordinates=positions["sky_centroid"][keep],
        ids=np.asarray(positions["id"]).astype(str)[keep],
        rejected=rejected_table(positions, ~keep, reason),
        effective_gain=None if gain is None else gain[keep],
    )


def rejected_table(positions, lost, reason):
    """Those of some positions that are lost, and why."""
    names = np.asarray(positions["id"])[lost]
    place = positions["sky_centroid"][lost]
    return QTable({"id": names, "sky_centroid": place, "reason": np.asarray(reason)[lost]})


def cut_stamps(image, positions, *, size, max_masked_fraction=0.2):
    """Cut an image out around positions that it need not show.

    Parameters
    ----------
    image : `SurveyImage`
        The image.
    positions : `~astropy.table.QTable`
        With the column ``sky_centroid``.
    size : int
        Side of the cutouts in pixels.
    max_masked_fraction : float
        A cutout with more masked pixels than this is no cutout.

    Returns
    -------
    `~astro_ddprism.survey.stamps.Stamps`
        One for each position.
    """
    here = positions_table(positions["id"], positions["sky_centroid"], image.wcs)
    data, variance, mask, saturated, gain, corners, inside = _cut_all(image, here, size)
    fraction = mask.mean(axis=(1, 2, 3))
    seen = inside & (fraction <= max_masked_fraction) & (fraction < 1)
    mask[~seen] = True
    return Stamps(
        data=data,
        variance=variance,
        mask=mask,
        saturated=saturated,
        wcs=[
            shifted(image.wcs, *corner, (size, size)) if there else None
            for corner, there in zip(corners, seen, strict=True)
        ],
        unit=image.unit,
        labels=[f"{name} of {image.filename}" for name in np.asarray(positions["id"]).astype(str)],
        effective_gain=gain,
    )


def _cut_all(image, positions, size):
    """Cutouts of all planes, first pixels (x, y), and which positions are on the image."""
    bands, ny, nx = image.shape
    x, y = (np.round(np.asarray(positions[axis], dtype=float)) for axis in ("x", "y"))
    with np.errstate(invalid="ignore"):
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    x0, y0 = (np.where(inside, axis, 0).astype(int) - size // 2 for axis in (x, y))

    n = len(positions)
    data = np.zeros((n, bands, size, size), dtype=image.pixel_type)
    variance = np.full(data.shape, np.inf)
    mask, saturated = np.ones(data.shape, dtype=bool), np.zeros(data.shape, dtype=bool)
    gain = np.full(data.shape, np.inf) if image.has_gain else None
    # Neighbours after each other: a large image is read a part at a time.
    for i in sorted(np.flatnonzero(inside), key=lambda i: (y0[i] // SIDE, x0[i] // SIDE)):
        rows, columns = (
            slice(max(start, 0), min(start + size, end))
            for start, end in ((y0[i], ny), (x0[i], nx))
        )
        here = (
            i,
            slice(None),
            slice(rows.start - y0[i], rows.stop - y0[i]),
            slice(columns.start - x0[i], columns.stop - x0[i]),
        )
        planes = image.planes(rows, columns)
        data[here], variance[here] = planes["data"], planes["variance"]
        mask[here], saturated[here] = planes["mask"], planes["saturated"]
        if gain is not None:
            gain[here] = planes["effective_gain"]
    return data, variance, mask, saturated, gain, np.column_stack([x0, y0]), inside


def check_size(size, image):
    """Refuse a size of cutouts, in pixels, that does not fit on an image."""
    ny, nx = image.shape[1:]
    if int(size) != size or not 1 <= size <= min(ny, nx):
        raise InputError(
            f"size: found {size}, expected a whole number of pixels from 1 to {min(ny, nx)}, the "
            f"smaller side of {image.filename}"
        )


def _middle(image):
    return image_middle(image).to_string("decimal", precision=4)


def shifted(wcs, x0, y0, shape):
    """The WCS of a part of an image.

    Where distortions are in look-up tables, it is the tangent plane that agrees in the middle.
    """
    if has_tables(wcs):
        return tangent_plane(wcs, shape, (x0, y0))
    wcs = wcs.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix - [x0, y0]
    if wcs.sip is not None:
        sip = wcs.sip
        wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - [x0, y0])
    wcs.array_shape = None
    return wcs
