"""Galaxies of HST's COSMOS survey as an image with its own PSF would show them.

The PSF is measured on the field's own stars.
"""

__all__ = ["GalaxyCatalog", "measure_psf"]

import warnings
from dataclasses import dataclass
from pathlib import Path

import galsim
import numpy as np
from astropy.nddata import NDData
from astropy.table import QTable
from astropy.utils.exceptions import AstropyUserWarning
from photutils.psf import EPSFBuilder, extract_stars
from scipy.spatial import cKDTree

STAMP = 128  # pixels; side of the images that galaxies are drawn in
PSF_SIZE = 25  # pixels
OVERSAMPLING = 2


def measure_psf(image, objects, *, min_snr=100, isolation=14.0):
    """The effective PSF of an image, from its bright, isolated, unsaturated stars.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    objects : `~astropy.table.QTable`
        From `~astro_ddprism.survey.detect_objects`.
    min_snr : float
        Of the stars.
    isolation : float
        Least distance, in pixels, from objects with more than a hundredth of the star's flux.

    Returns
    -------
    psf : ndarray, shape (ky, kx)
        `OVERSAMPLING` times as fine as the pixels, of sum one, with the pixel's smoothing in it.
    n_stars : int
        From how many stars.
    """
    xy = np.column_stack([objects["x"], objects["y"]])
    flux = objects["flux"].value
    bad = objects["saturated"] | objects["edge"] | objects["masked"]
    stars = np.flatnonzero(objects["star"] & ~bad & (objects["snr"] > min_snr))
    near = cKDTree(xy).query_ball_point(xy[stars], isolation)
    alone = [sum(flux[n] > 0.01 * flux[i]) == 1 for i, n in zip(stars, near, strict=True)]
    stars = stars[alone]
    scale = float(np.sqrt(np.median(image.variance[~image.mask])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # stars near the edge
        cutouts = extract_stars(
            NDData(image.data[0].astype(float) / scale),
            QTable({"x": xy[stars, 0], "y": xy[stars, 1]}),
            size=PSF_SIZE,
        )
        builder = EPSFBuilder(oversampling=OVERSAMPLING, maxiters=10, progress_bar=False)
        psf = builder(cutouts)[0].data
    return psf / psf.sum(), len(stars)


@dataclass
class DrawnGalaxy:
    """One galaxy: its image, where that begins, its cutout and its row of the catalog.

    Parameters
    ----------
    stamp : ndarray, shape (STAMP, STAMP)
        The galaxy without noise.
    x0, y0 : int
        Where the first pixel of the stamp is in the image.
    cutout : ndarray, shape (size, size)
        Its middle.
    index : int
        Row of the catalog of galaxies.
    """

    stamp: np.ndarray
    x0: int
    y0: int
    cutout: np.ndarray
    index: int


class GalaxyCatalog:
    """Parametric fits to galaxies of the COSMOS survey, drawn through a PSF.

    Parameters
    ----------
    cosmos : path
        Folder of GalSim's ``real_galaxy_catalog_23.5_example``.
    psf : ndarray, shape (ky, kx)
        `OVERSAMPLING` times as fine as the pixels, with their smoothing in it.
    pixel : float
        Side of a pixel in arcseconds.
    """

    def __init__(self, cosmos, psf, pixel):
        name = "real_galaxy_catalog_23.5_example.fits"
        self.catalog = galsim.COSMOSCatalog(
            name, dir=str(Path(cosmos)), use_real=False, exclusion_level="none"
        )
        fine = galsim.Image(psf, scale=pixel / OVERSAMPLING)
        self.psf, self.pixel = galsim.InterpolatedImage(fine, flux=1.0), pixel
        self.params = galsim.GSParams(maximum_fft_size=16384)

    def psf_at_pixels(self):
        """The PSF in the middle of a pixel, an ndarray of sum one."""
        image = self.psf.drawImage(
            nx=PSF_SIZE, ny=PSF_SIZE, scale=self.pixel, method="no_pixel", dtype=float
        ).array
        return image / image.sum()

    def choose(self, rng):
        """A random row of the catalog, and its galaxy before the PSF."""
        index = int(rng.integers(self.catalog.nobjects))
        return index, self.catalog.makeGalaxy(index, gal_type="parametric")

    def draw(self, flux, x, y, size, in_cutout, rng, attempts=100):
        """Draw a random galaxy at a random angle.

        Parameters
        ----------
        flux : float
            Its own is set to this.
        x, y : float
            Where, in pixels of an image.
        size : int
            Side of its cutout.
        in_cutout : float
            The least part of the flux that must be in its cutout. If it is not, another galaxy is
            drawn.
        rng : numpy.random.Generator
        attempts : int
            How often.

        Returns
        -------
        DrawnGalaxy
        """
        xi, yi = int(np.rint(x)), int(np.rint(y))
        first = STAMP // 2 - size // 2
        inner = slice(first, first + size)
        for _ in range(attempts):
            index, galaxy = self.choose(rng)
            galaxy = galaxy.withFlux(flux).rotate(rng.uniform(0, 360) * galsim.degrees)
            seen = galsim.Convolve(galaxy, self.psf, gsparams=self.params)
            # Of an even number of pixels, GalSim's centre lies half a pixel below STAMP // 2.
            stamp = seen.drawImage(
                nx=STAMP, ny=STAMP, scale=self.pixel, method="no_pixel", dtype=float,
                offset=(x - xi + 0.5, y - yi + 0.5),
            ).array  # fmt: skip
            cutout = stamp[inner, inner]
            if cutout.sum() >= in_cutout * flux:
                return DrawnGalaxy(stamp, xi - STAMP // 2, yi - STAMP // 2, cutout, index)
        raise RuntimeError(f"no galaxy in {attempts} fits into {size} pixels")
