"""Large images a section at a time: objects are detected, and cut out, without the whole in memory.

A section is a square of the image with a margin of its surroundings. An object belongs to the
section in whose square its centre lies; one that two sections claim, whose centre lies on their
border to within rounding, is that of the section in which it lies deeper.
"""

import logging

import numpy as np
from astropy.table import vstack
from scipy.spatial import KDTree

from ..errors import InputError, NothingFoundError
from .detection import measure_objects
from .find import select_galaxies, split_options
from .stars import flag_stars

__all__ = ["SectionedImage", "find_in_sections"]

logger = logging.getLogger(__name__)

# Pixels; multiples of the boxes in which the sky is measured, so that these are the image's.
SIDE, MARGIN = 1024, 256
NEAR = 1.5  # pixels within which two objects of two sections are one


class SectionedImage:
    """A large image whose parts are served from one section, kept until another is asked for.

    It has all that cutting out asks of a `SurveyImage`.

    Parameters
    ----------
    mosaic : `~astro_ddprism.survey.mosaic.Mosaic`
        Reads parts of the image.
    """

    def __init__(self, mosaic):
        self.mosaic, self._kept = mosaic, (None, None)

    def __getattr__(self, name):
        # Shape, WCS, unit, names, ... of the whole.
        return getattr(self.mosaic, name)

    def sections(self):
        """Squares that together are the image: pairs of slices of rows and columns."""
        ny, nx = self.shape[1:]
        for y in range(0, ny, SIDE):
            for x in range(0, nx, SIDE):
                yield slice(y, min(y + SIDE, ny)), slice(x, min(x + SIDE, nx))

    def section(self, rows, columns):
        """The image around a square.

        Parameters
        ----------
        rows, columns : slice
            The square.

        Returns
        -------
        section : SurveyImage
            With its margin; its WCS is that of the whole.
        first : (int, int)
            Its first pixel, (x, y).
        """
        key = rows.start, columns.start
        y, x = (
            slice(max(0, one.start - MARGIN), min(n, one.stop + MARGIN))
            for one, n in zip((rows, columns), self.shape[1:], strict=True)
        )
        if self._kept[0] != key:
            self._kept = None, None  # before the next is read
            self._kept = key, self.mosaic.with_planes(self.mosaic.planes(y, x))
        return self._kept[1], (x.start, y.start)

    def planes(self, rows, columns):
        """Parts of all planes, as of `SurveyImage.planes`."""
        middle = [(one.start + one.stop) // 2 // SIDE * SIDE for one in (rows, columns)]
        square = (slice(m, min(m + SIDE, n)) for m, n in zip(middle, self.shape[1:], strict=True))
        section, (x, y) = self.section(*square)
        inside = (
            slice(rows.start - y, rows.stop - y),
            slice(columns.start - x, columns.stop - x),
        )
        sizes = section.shape[1:]
        if any(one.start < 0 or one.stop > n for one, n in zip(inside, sizes, strict=True)):
            return self.mosaic.planes(rows, columns)  # larger than a section's margin
        return section.planes(*inside)


def find_in_sections(image, *, psf=None, detection=None):
    """Detect the galaxies of a large image, a section at a time.

    Parameters
    ----------
    image : SectionedImage
        The image.
    psf : `~numpy.ndarray`, optional
        Its PSF.
    detection : dict, optional
        Options of `~astro_ddprism.survey.detect_galaxies`.

    Returns
    -------
    galaxies, objects : `~astropy.table.QTable`
        As of `~astro_ddprism.survey.find.find_galaxies`; numbered from 1 over all sections.

    Raises
    ------
    InputError
        If there is none.
    """
    detection, selection = split_options(detection or {})
    tables = []
    for rows, columns in image.sections():
        section, (x, y) = image.section(rows, columns)
        if section.mask.all():
            continue
        try:
            found = measure_objects(section, psf=psf, **detection)
        except NothingFoundError:
            continue
        except InputError as error:
            place = f"rows {rows.start} to {rows.stop}, columns {columns.start} to {columns.stop}"
            logger.warning("%s: nothing is detected in %s: %s", image.filename, place, error)
            continue
        for axis, first in (("x", x), ("y", y)):
            found[axis] = np.asarray(found[axis]) + first
        depth = np.min(
            [found["x"] - columns.start + 0.5, columns.stop - 0.5 - found["x"],
             found["y"] - rows.start + 0.5, rows.stop - 0.5 - found["y"]], axis=0,
        )  # fmt: skip
        found["depth"] = depth
        tables.append(found[depth > -NEAR])
    objects = vstack(tables, metadata_conflicts="silent") if tables else ()
    if not len(objects):
        raise NothingFoundError(
            f"{image.filename}: found no object in any section, expected galaxies"
        )
    objects = objects[_once(objects)]
    objects.remove_column("depth")
    objects["id"] = np.arange(1, len(objects) + 1).astype(str)
    objects["sky_centroid"] = image.wcs.pixel_to_world(objects["x"], objects["y"])
    flag_stars(objects, psf)
    logger.info("%s: %d objects in %d sections", image.filename, len(objects), len(tables))
    return select_galaxies(objects, **selection), objects


def _once(objects):
    """Which objects are left where two sections claim the same: those that lie deeper in theirs."""
    keep = np.ones(len(objects), dtype=bool)
    border = np.flatnonzero(objects["depth"] < NEAR)
    places = np.column_stack([objects["x"][border], objects["y"][border]])
    for i, j in KDTree(places).query_pairs(NEAR, output_type="ndarray") if len(border) else ():
        first, second = sorted(border[[i, j]], key=lambda k: objects["depth"][k])
        keep[first] &= not keep[second]
    return keep & (objects["depth"] > -NEAR)
