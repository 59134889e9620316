r"""Large images in files, of which no more is read than is needed.

A few cutouts of a mosaic need the pixels around them, and what an image is like (the width of its
stars, its noise) shows in a sample of it: windows of :math:`512 \times 512` pixels at random
places, side by side. Neither grows with the mosaic.
"""

import logging
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..io.fits_in import find_extension, only_window, open_fits
from .find import detect_stars
from .images import SurveyImage, stack_bands
from .psf import stellar_fwhm
from .read import read_bands, read_image

__all__ = ["Mosaic", "is_sparse", "measure_stars", "open_bands", "open_image"]

logger = logging.getLogger(__name__)

LARGE = 4_000_000  # pixels, from which on an image is a mosaic
WINDOW = 512  # pixels
N_WINDOWS = (4, 12)  # first, and more where these show too few stars
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
        head = self._read(*(slice(max(0, n // 2 - MARGIN), n // 2 + MARGIN) for n in shape))
        self.shape = (head.n_bands, *shape)
        self.wcs, self.unit, self.names, self.files = head.wcs, head.unit, head.names, head.files
        self.filename, self.psf, self.provenance = head.filename, head.psf, head.provenance
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

    def load(self) -> SurveyImage:
        """The whole image."""
        return stack_bands([read_image(path, **options) for path, options in self.bands])

    def _read(self, rows, columns):
        """A part of the image; its WCS is that of the whole."""
        with only_window(self.shape[1:], rows, columns):
            return stack_bands(
                [read_image(path, partial=True, **options) for path, options in self.bands]
            )


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
    for n_windows in N_WINDOWS:
        typical = _sample(image, n_windows)
        stars = detect_stars(typical) if enough else None
        if not enough or (stars is not None and stellar_fwhm(typical, stars) is not None):
            break
    if enough:
        logger.info(
            "%s: its stars are looked for in %d windows of %d x %d pixels",
            image.filename, n_windows, WINDOW, WINDOW,
        )  # fmt: skip
    return typical, stars


def _sample(image, n_windows):
    """Windows of an image that hold data, side by side."""
    ny, nx = (n // WINDOW for n in image.shape[1:])
    order = np.random.default_rng(0).permutation(ny * nx)
    parts = []
    for number in order[: 4 * n_windows]:
        row, column = (int(i) * WINDOW for i in divmod(number, nx))
        part = image.planes(slice(row, row + WINDOW), slice(column, column + WINDOW))
        if part["mask"].mean() < 0.5:
            parts.append(part)
        if len(parts) == n_windows:
            break
    if not parts:
        raise InputError(
            f"{image.filename}: found no data in {len(order[: 4 * n_windows])} windows of "
            f"{WINDOW} x {WINDOW} pixels, expected an image with data in it"
        )
    planes = {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}
    return SurveyImage(
        **planes,
        wcs=image.wcs,
        unit=image.unit,
        names=image.names,
        filename=image.filename,
        files=image.files,
        provenance=image.provenance,
    )
