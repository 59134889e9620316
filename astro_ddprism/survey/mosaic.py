r"""Large images in files, of which no more is read than is needed.

A few cutouts of a mosaic need the pixels around them, and what an image is like (the width of its
stars, its noise) shows in a sample of it: windows of :math:`512 \times 512` pixels at random
places, side by side. Neither grows with the mosaic.
"""

import logging
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..io.fits_in import find_extension, only_window, open_fits
from .find import detect_stars
from .formats.base import read_raw
from .images import SurveyImage, stack_bands
from .psf import MIN_STARS, STAR_SNR, stellar_fwhm
from .read import provenance_of, read_bands, read_image

__all__ = [
    "Mosaic", "describe_image", "is_sparse", "measure_stars", "open_bands", "open_image",
]  # fmt: skip

logger = logging.getLogger(__name__)

LARGE = 4_000_000  # pixels, from which on an image is a mosaic
WINDOW = 512  # pixels
N_WINDOWS = (4, 8)  # first, and more where these show too few stars
MAX_TRIED = 48  # windows, some of which may hold no data
MARGIN = 128  # pixels around a section in which the sky is measured, where it has to be
PART = 0.25  # of a mosaic, above which all of it is read
PACKED = (".gz", ".bz2", ".xz", ".zip", ".z")  # of which no part can be read alone


class Mosaic:
    """Bands of a large field, in files.

    It has the shape, the WCS, the names and the unit of a `SurveyImage`, and gives parts of one.

    Parameters
    ----------
    bands : sequence of (path, dict)
        File of each band, and options of `read_image`.
    shape : tuple of int
        Rows and columns.
    """

    def __init__(self, bands, shape):
        self.bands, self.shape = bands, (len(bands), *shape)
        head = self._read(*_middle(shape))
        self.shape = (head.n_bands, *shape)
        self.wcs, self.unit, self.names, self.files = head.wcs, head.unit, head.names, head.files
        self.filename, self.psf = head.filename, head.psf
        self.provenance = (*head.provenance, "read: in parts; shares of bits are of its middle")
        self.pixel_type, self.has_gain = head.pixel_type, head.has_gain
        for line in self.provenance:
            logger.info("%s: %s", self.filename, line)

    @property
    def n_bands(self):
        """Number of bands."""
        return self.shape[0]

    def planes(self, rows, columns):
        """Parts of all planes, the sky measured around them where it has to be.

        Parameters
        ----------
        rows, columns : slice
            The part.

        Returns
        -------
        dict of str to (bands, ny, nx) `~numpy.ndarray`
            As of `SurveyImage.planes`.
        """
        y, x = (
            slice(max(0, one.start - MARGIN), min(n, one.stop + MARGIN))
            for one, n in zip((rows, columns), self.shape[1:], strict=True)
        )
        return self._read(y, x).planes(
            slice(rows.start - y.start, rows.stop - y.start),
            slice(columns.start - x.start, columns.stop - x.start),
        )

    def with_planes(self, planes) -> SurveyImage:
        """An image of some planes, such as parts of this one, as of `SurveyImage.with_planes`."""
        return SurveyImage(
            **planes,
            wcs=self.wcs,
            unit=self.unit,
            names=self.names,
            filename=self.filename,
            files=self.files,
            provenance=self.provenance,
        )

    def load(self) -> SurveyImage:
        """The whole image."""
        return stack_bands([read_image(path, **options) for path, options in self.bands])

    def _read(self, rows, columns):
        """A part of the image; its WCS is that of the whole."""
        with only_window(self.shape[1:], rows, columns):
            return stack_bands(
                [read_image(path, partial=True, **options) for path, options in self.bands]
            )


def _middle(shape):
    return tuple(slice(max(0, n // 2 - MARGIN), n // 2 + MARGIN) for n in shape)


def open_image(bands, large=None):
    """An image, or what reads parts of it where it is large.

    Parameters
    ----------
    bands : sequence of (path or NDData, dict)
        File of each band, and options of `read_image`.
    large : int, optional
        Pixels beyond which an image is not read as a whole, by default 4 million.

    Returns
    -------
    `SurveyImage` or `Mosaic`
    """
    large = LARGE if large is None else large
    shapes = {_shape(image, options) for image, options in bands}
    if len(shapes) == 1 and None not in shapes:
        (shape,) = shapes
        if shape[0] * shape[1] > large:
            return Mosaic(bands, shape)
    return stack_bands([read_image(image, **options) for image, options in bands])


def describe_image(path):
    """Tell what of a file would serve as what, without asking that all is there.

    Parameters
    ----------
    path : path
        The file; of a large one no more is read than a sample.

    Returns
    -------
    list of str
        A line for each of flux, unit, zero point, noise, mask and gain, or why it cannot be read.
    """
    try:
        return [*measure_stars(open_image([(path, {})]), enough=False)[0].provenance]
    except InputError as error:
        reason = f"cannot be used as it is: {error}"
    shape = _shape(path, {})
    large = shape is not None and shape[0] * shape[1] > LARGE
    try:
        with only_window(shape, *_middle(shape)) if large else nullcontext():
            return [*provenance_of(read_raw(path)), reason]
    except InputError:
        return [reason]


def open_bands(image, options):
    """As `~astro_ddprism.survey.read.read_bands`, but large files are not read yet."""
    several = image if isinstance(image, list | tuple) else [image]
    if isinstance(image, Mosaic) and not options:
        return image
    if several and all(isinstance(one, str | Path) for one in several):
        return open_image([(one, options) for one in several])
    return read_bands(image, options)


def _shape(image, options):
    """Rows and columns of an image in a file of which a part can be read; else None."""
    if not isinstance(image, str | Path) or Path(image).suffix.lower() in PACKED:
        return None
    if options.get("saturation") == "auto" or options.get("format") not in {None, "fits"}:
        return None
    planes = ("uncertainty", "variance", "ivar", "weight", "mask", "effective_gain")
    if any(isinstance(options.get(name), np.ndarray) for name in planes):
        return None
    try:
        with open_fits(image) as hdus:
            return find_extension(hdus, "image", str(image), options.get("hdu")).shape[-2:]
    except (InputError, OSError, AttributeError):
        return None  # of another format, or none: the reader tells


def is_sparse(image, n, size):
    """Whether cutouts are a small part of an image."""
    return n * (size + 2 * MARGIN) ** 2 < PART * image.shape[1] * image.shape[2]


def measure_stars(image, *, enough=True):
    """What an image is like, and the stars on it.

    Parameters
    ----------
    image : `SurveyImage` or `Mosaic`
        The image.
    enough : bool
        Whether stars are looked for at all.

    Returns
    -------
    typical : `SurveyImage`
        The image, or a sample of a large one: windows side by side, with the WCS of the whole.
    stars : `~astropy.table.QTable`, or None
        What is detected on it.
    """
    if image.shape[1] * image.shape[2] <= LARGE:
        return image, detect_stars(image) if enough else None
    parts = _windows(image)
    known = []
    for n_windows in N_WINDOWS:
        known += islice(parts, n_windows - len(known))
        typical = _side_by_side(image, known)
        stars = detect_stars(typical) if enough else None
        if not enough or (stars is not None and _is_enough(typical, stars)):
            break
    if isinstance(image, Mosaic):
        masked = f"masked: {typical.mask.mean():.2%} of the pixels of a sample"
        logger.info("%s: %s", image.filename, masked)
        typical = replace(typical, provenance=(*typical.provenance, masked))
    if enough:
        logger.info(
            "%s: its stars are looked for in %d windows of %d x %d pixels",
            image.filename, n_windows, WINDOW, WINDOW,
        )  # fmt: skip
    return typical, stars


def _is_enough(typical, stars):
    """Whether stars tell a width, or so few are bright that more windows would not hold enough."""
    few = MIN_STARS * N_WINDOWS[0] / N_WINDOWS[-1]
    return np.sum(stars["snr"] > STAR_SNR) < few or stellar_fwhm(typical, stars) is not None


def _windows(image):
    """Windows of an image that hold data, at random places."""
    ny, nx = (n // WINDOW for n in image.shape[1:])
    for number in np.random.default_rng(0).permutation(ny * nx)[:MAX_TRIED]:
        row, column = (int(i) * WINDOW for i in divmod(number, nx))
        part = image.planes(slice(row, row + WINDOW), slice(column, column + WINDOW))
        if part["mask"].mean() < 0.5:
            yield part


def _side_by_side(image, parts):
    if not parts:
        raise InputError(
            f"{image.filename}: found no data in up to {MAX_TRIED} windows of {WINDOW} x {WINDOW} "
            "pixels, expected an image with data in it"
        )
    planes = {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}
    return image.with_planes(planes)
