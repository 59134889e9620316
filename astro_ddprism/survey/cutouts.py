r"""Cutouts around positions, and the views that they make.

A cutout of ``size`` pixels is centred on the pixel nearest to its position, which becomes its pixel
``size // 2`` in both directions; nothing is resampled. Pixels that would lie off the image are
masked. Its WCS is the image's with the reference pixel moved, :math:`\mathrm{CRPIX}' =
\mathrm{CRPIX} - (\text{first pixel})`, so that every pixel keeps its place on the sky.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from astropy.wcs import Sip

from ..errors import InputError
from .correlation import autocorrelation_of, noise_of
from .detection import detect_objects, select_galaxies, split_options
from .images import SurveyImage, read_image, stack_bands
from .positions import place_randoms, read_positions
from .psf import read_psf

__all__ = ["Cutouts", "cut_out", "views_from_image"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cutouts:
    """Cutouts of an image.

    Parameters
    ----------
    data, variance, mask : (n, bands, size, size) `~numpy.ndarray`
        Flux, noise variance (infinite where masked) and mask (`True`: no information).
    wcs : list of `~astropy.wcs.WCS`
        Celestial WCS of each.
    coordinates : `~astropy.coordinates.SkyCoord`
        The positions that were asked for.
    ids : array of str
        Their names.
    rejected : `~astropy.table.QTable`
        Positions without a cutout: ``id``, ``sky_centroid`` and ``reason``, "off the image" or
        "masked".
    """

    data: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    wcs: list
    coordinates: SkyCoord
    ids: np.ndarray
    rejected: QTable


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
    _check_size(size, image)
    bands, ny, nx = image.shape
    x, y = (np.round(np.asarray(positions[axis], dtype=float)) for axis in ("x", "y"))
    with np.errstate(invalid="ignore"):
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    x0, y0 = (np.where(inside, axis, 0).astype(int) - size // 2 for axis in (x, y))

    n = len(positions)
    data = np.zeros((n, bands, size, size), dtype=image.data.dtype)
    variance = np.full(data.shape, np.inf, dtype=image.variance.dtype)
    mask = np.ones(data.shape, dtype=bool)
    for i in np.flatnonzero(inside):
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
        data[here] = image.data[:, rows, columns]
        variance[here] = image.variance[:, rows, columns]
        mask[here] = image.mask[:, rows, columns]

    keep = inside & (mask.mean(axis=(1, 2, 3)) <= max_masked_fraction) & ~mask.all(axis=(1, 2, 3))
    reason = np.where(inside, "masked", "off the image")
    if not keep.any():
        raise InputError(
            f"{image.filename}: none of the {n} positions has a cutout, {np.sum(~inside)} are "
            f"off the image and {np.sum(inside)} have over {max_masked_fraction:.0%} of their "
            f"pixels masked; the image is {nx} x {ny} pixels around {_middle(image)}"
        )
    if not keep.all():
        logger.info(
            "%d of %d positions rejected: %d off the image, %d masked",
            np.sum(~keep),
            n,
            np.sum(~inside),
            np.sum(inside & ~keep),
        )
    lost = positions[~keep]
    return Cutouts(
        data=data[keep],
        variance=variance[keep],
        mask=mask[keep],
        wcs=[_shifted(image.wcs, a, b) for a, b in zip(x0[keep], y0[keep], strict=True)],
        coordinates=positions["sky_centroid"][keep],
        ids=np.asarray(positions["id"]).astype(str)[keep],
        rejected=QTable(
            {"id": lost["id"], "sky_centroid": lost["sky_centroid"], "reason": reason[~keep]}
        ),
    )


def _check_size(size, image):
    ny, nx = image.shape[1:]
    if int(size) != size or not 1 <= size <= min(ny, nx):
        raise InputError(
            f"size: found {size}, expected a whole number of pixels from 1 to {min(ny, nx)}, the "
            f"smaller side of {image.filename}"
        )


def _middle(image):
    ny, nx = image.shape[1:]
    return image.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).to_string("decimal", precision=4)


def _shifted(wcs, x0, y0):
    wcs = wcs.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix - [x0, y0]
    if wcs.sip is not None:
        sip = wcs.sip
        wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - [x0, y0])
    wcs.array_shape = None
    return wcs


def views_from_image(
    image,
    *,
    psf=None,
    size=32,
    positions=None,
    n_random=None,
    random_distance=None,
    max_masked_fraction=0.2,
    correlated_noise=None,
    seed=0,
    detection: Mapping | None = None,
    **image_options,
):
    """Cut a survey image into the views "random" and "galaxy".

    Parameters
    ----------
    image : `SurveyImage`, path, `~astropy.nddata.NDData`, or a list of paths or NDData
        The image; a list holds bands on one pixel grid.
    psf : path, array_like or list, optional
        Point spread function (`read_psf`): the sources are then the light before it. Without one
        they are the light as seen through it.
    size : int
        Side of the cutouts in pixels.
    positions : path, `~astropy.table.Table` or `~astropy.coordinates.SkyCoord`, optional
        The galaxies (`read_positions`); detected if not given.
    n_random : int, optional
        Number of random positions; twice the number of galaxies if not given. With 0 there is no
        view "random".
    random_distance : float or `~astropy.units.Quantity`, optional
        Least distance of random positions from detections, in pixels or as an angle; by default
        they are placed without regard to them. Given ``positions``, these are avoided.
    max_masked_fraction : float
        Cutouts with a larger part of their pixels masked are rejected.
    correlated_noise : int, optional
        The largest distance, in pixels, at which the noise of two pixels is correlated, as in a
        resampled or drizzled image. The correlation is measured in the image's sky, band by band
        (`estimate_autocorrelation`). By default pixels are independent.
    seed : int
        Seed of the random positions.
    detection : dict, optional
        Options of `detect_galaxies`.
    **image_options
        Options of `read_image`, for an image that has not been read yet.

    Returns
    -------
    dict of str to `~astro_ddprism.View`
        "random" with the source "los", "galaxy" with "los" and "galaxy".

    Raises
    ------
    InputError
        If the image, the PSF or the positions cannot be used, no galaxy is found, or the
        correlation of the noise cannot be measured.
    """
    from ..dataset import View
    from ..mixing import Convolution, Identity

    image = _read(image, image_options)
    _check_size(size, image)
    detection, selection = split_options(detection or {})
    shape = (image.n_bands, size, size)
    kernel = None if psf is None else read_psf(psf, image.n_bands)
    mixing = Identity(shape) if kernel is None else Convolution(kernel, shape)
    if positions is None:
        avoid = detect_objects(image, psf=kernel, **detection)
        galaxies = select_galaxies(avoid, **selection)
    else:
        avoid = galaxies = read_positions(positions, image.wcs)
    cuts = {"galaxy": cut_out(image, galaxies, size=size, max_masked_fraction=max_masked_fraction)}
    logger.info("%s: %d galaxies", image.filename, len(cuts["galaxy"].ids))
    if n_random != 0:
        randoms = place_randoms(
            image,
            2 * len(cuts["galaxy"].ids) if n_random is None else n_random,
            size=size,
            max_masked_fraction=max_masked_fraction,
            avoid=avoid,
            min_distance=random_distance,
            seed=seed,
        )
        cuts["random"] = cut_out(image, randoms, size=size, max_masked_fraction=max_masked_fraction)
        logger.info("%s: %d random positions", image.filename, len(cuts["random"].ids))
    autocorrelation = autocorrelation_of([image], correlated_noise)
    return {
        name: View(
            cuts[name].data,
            **noise_of(cuts[name].variance, autocorrelation),
            mask=cuts[name].mask,
            unit=image.unit,
            wcs=cuts[name].wcs,
            coordinates=cuts[name].coordinates,
            ids=cuts[name].ids,
            name=name,
            mixing=dict.fromkeys(sources, mixing),
        )
        for name, sources in (("random", ("los",)), ("galaxy", ("los", "galaxy")))
        if name in cuts
    }


def _read(image, options):
    if isinstance(image, SurveyImage):
        if options:
            raise InputError(
                f"found the options {', '.join(options)}, expected none: the image "
                "has been read already"
            )
        return image
    if isinstance(image, list | tuple):
        return stack_bands(
            [one if isinstance(one, SurveyImage) else read_image(one, **options) for one in image]
        )
    if isinstance(image, str | Path) or hasattr(image, "uncertainty"):
        return read_image(image, **options)
    raise InputError(
        f"image: found {type(image).__name__}, expected a file, an NDData, a SurveyImage or a list "
        "of these"
    )
