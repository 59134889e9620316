"""What the Blending ToolKit's interpreter asks for: objects of its blends, separated by a model.

    PYTHON -m benchmarks.btk.separation INPUT.npz OUTPUT.npz

INPUT holds ``images`` (K, ny, nx) of blends in electrons, without the sky's mean; ``places``
(K, M, 2), positions (x, y) of their objects, NaN where there are fewer; ``sky``, the electrons of
the sky in a pixel; ``electrons`` of a source of AB magnitude 0; ``pixel_scale`` and ``psf_fwhm``
in arcseconds; ``model``, ``n_samples`` and ``seed``. OUTPUT holds ``images`` (K, M, ny, nx) of the
objects, the mean of the posterior samples, clipped at 0 as the toolkit's metrics ask; and the
``seconds`` of a processor core that they took.

The blends are laid out in one image, apart, with masked pixels between them, from which the
objects are cut out as those of a survey are.
"""

import sys
import time

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from astro_ddprism import DiffusionSourceSeparator
from astro_ddprism.survey.images import SurveyImage
from astro_ddprism.views.build import views_from_image

__all__ = ["lay_out", "main", "separate_blends"]

GAP = 32  # pixels between blends: no cutout sees two of them
SIZE = 32  # pixels: side of the cutouts
# Of a cutout, at a corner of a blend.
MOST_MASKED = 0.8
MAGGIES = (0 * u.ABmag).to_value(u.uJy)


def lay_out(images, *, sky, electrons, pixel_scale):
    """Blends in one survey image.

    Parameters
    ----------
    images : ndarray, shape (K, ny, nx)
        Electrons, without the sky's mean.
    sky : float
        Electrons of the sky in a pixel.
    electrons : float
        Those of a source of AB magnitude 0.
    pixel_scale : float
        In arcseconds.

    Returns
    -------
    image : `~astro_ddprism.survey.SurveyImage`
        In microjanskys.
    corners : ndarray of int, shape (K, 2)
        Of each blend (x, y).
    """
    number, ny, nx = images.shape
    columns = int(np.ceil(np.sqrt(number)))
    row, column = np.divmod(np.arange(number), columns)
    corners = np.column_stack([GAP + column * (nx + GAP), GAP + row * (ny + GAP)])
    shape = (1, corners[-1, 1] + ny + GAP, GAP + columns * (nx + GAP))
    data, mask = np.zeros(shape, dtype=np.float32), np.ones(shape, dtype=bool)
    unit = MAGGIES / electrons  # flux of an electron
    for image, (x, y) in zip(images, corners, strict=True):
        data[0, y : y + ny, x : x + nx] = image * unit
        mask[0, y : y + ny, x : x + nx] = False
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.cdelt = -pixel_scale / 3600, pixel_scale / 3600
    wcs.wcs.crpix = shape[2] / 2, shape[1] / 2
    image = SurveyImage(
        data=data,
        variance=np.where(mask, np.inf, sky * unit**2).astype(np.float32),
        mask=mask,
        wcs=wcs,
        unit=u.uJy,
        names=("r",),
        saturated=np.zeros(shape, dtype=bool),
        filename="blends",
        effective_gain=np.where(mask, np.inf, 1 / unit).astype(np.float32),
    )
    return image, corners


def separate_blends(separator, images, places, *, psf_fwhm, n_samples, seed, **settings):
    """Images of the objects of blends.

    Parameters
    ----------
    separator : `~astro_ddprism.DiffusionSourceSeparator`
        With its priors learned.
    images : ndarray, shape (K, ny, nx)
        The blends.
    places : ndarray, shape (K, M, 2)
        Positions (x, y) of their objects; NaN where there are fewer than M.
    psf_fwhm : float
        In arcseconds.
    n_samples, seed : int
        Posterior samples of each object, and their seed.
    **settings
        Of `lay_out`.

    Returns
    -------
    objects : ndarray, shape (K, M, ny, nx)
        In electrons; 0 where there is no object.
    """
    image, corners = lay_out(images, **settings)
    ny, nx = images.shape[1:]
    which = np.argwhere(np.isfinite(places).all(axis=2))
    objects = np.zeros((*places.shape[:2], ny, nx))
    if not len(which):
        return objects
    xy = np.array([corners[k] + places[k, m] for k, m in which])
    view = views_from_image(
        image,
        positions=SkyCoord(image.wcs.pixel_to_world(*xy.T)),
        n_random=0,
        size=SIZE,
        psf_fwhm=psf_fwhm,
        max_masked_fraction=MOST_MASKED,
    )["galaxy"]
    if view.ids.tolist() != [str(i) for i in range(len(xy))]:
        raise RuntimeError(f"found {len(view)} cutouts, expected all {len(xy)}")
    mean = separator.sample(view, n_samples=n_samples, seed=seed).mean["galaxy"].value[:, 0]
    mean = mean * settings["electrons"] / MAGGIES
    # Where a cutout reaches over the edge of its blend, that part is left out.
    canvas = np.zeros((ny + 2 * SIZE, nx + 2 * SIZE))
    first = np.rint(xy).astype(int) - corners[which[:, 0]] + SIZE // 2  # on the canvas
    for (k, m), (x0, y0), own in zip(which, first, mean, strict=True):
        canvas[:] = 0
        canvas[y0 : y0 + SIZE, x0 : x0 + SIZE] = own
        objects[k, m] = canvas[SIZE:-SIZE, SIZE:-SIZE].clip(min=0)
    return objects


def main(source, target):
    """Separate the blends of a file."""
    with np.load(source) as file:
        arrays = dict(file)
    started = time.process_time()
    separator = DiffusionSourceSeparator.read(str(arrays.pop("model")))
    settings = {name: arrays.pop(name).item() for name in
                ("sky", "electrons", "pixel_scale", "psf_fwhm", "n_samples", "seed")}  # fmt: skip
    objects = separate_blends(separator, arrays["images"], arrays["places"], **settings)
    np.savez(target, images=objects, seconds=time.process_time() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
