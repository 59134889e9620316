"""The views that cutouts of a survey image make."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from astropy.coordinates import SkyCoord

from ..errors import InputError
from ..io.reading import file_name
from ..mixing import Convolution, Identity
from ..psf.kernels import kernel_fwhm, kernel_of, kernels_at, open_psf, stack_kernels
from ..steps import step
from ..survey.conditions import SurveyConditions, image_conditions
from ..survey.correlation import autocorrelation_of
from ..survey.cutouts import check_size, cut_out
from ..survey.find import find_galaxies
from ..survey.images import image_middle, pixel_angle
from ..survey.mosaic import Mosaic, is_sparse, measure_stars, open_bands
from ..survey.positions import read_positions
from ..survey.randoms import place_randoms
from ..survey.read import read_image
from ..survey.sections import SectionedImage, find_in_sections
from ..survey.stamps import stack_stamps
from .noise import noise_of
from .view import View

__all__ = ["view_of_cutouts", "views_from_image"]

logger = logging.getLogger(__name__)


@step("cutting out")
def views_from_image(
    image,
    *,
    psf=None,
    psf_fwhm=None,
    size=32,
    positions=None,
    positions_format=None,
    id_column=None,
    n_random=None,
    random_distance=None,
    crowded_fraction=0.0,
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
    psf : path, array_like, model, `~astro_ddprism.psf.PSF` or a list of these, optional
        Point spread function (`~astro_ddprism.psf.open_psf`), by default that which the image
        brings along: the sources are then the light before it. Without one, or with False, they are
        the light as seen through it. One that changes over the image is taken at each object.
    psf_fwhm : float or `~astropy.units.Quantity`, optional
        Full width at half maximum of the point spread function, of all bands or of each, in
        arcseconds if without a unit: what the views remember of it. By default it is measured on
        ``psf``, or else on the stars.
    size : int
        Side of the cutouts in pixels.
    positions : path, `~astropy.table.Table` or `~astropy.coordinates.SkyCoord`, optional
        The galaxies (`~astro_ddprism.survey.read_positions`); detected if not given.
    positions_format, id_column : str, optional
        Name of astropy's format of the file of positions, and of the column that names them.
    n_random : int, optional
        Number of random positions; twice the number of galaxies if not given. With 0 there is no
        view "random".
    random_distance : float or `~astropy.units.Quantity`, optional
        Least distance of random positions from detections, in pixels or as an angle; by default
        they are placed without regard to them. Given ``positions``, these are avoided.
    crowded_fraction : float
        Part of the random positions that are placed beside detections
        (`~astro_ddprism.survey.place_randoms`).
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
        Options of `~astro_ddprism.survey.read_image`, for an image that has not been read yet.

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
    image = open_bands(image, image_options)
    check_size(size, image)
    if positions is not None:
        positions = read_positions(
            positions, image.wcs, format=positions_format, id_column=id_column
        )
    few = positions is not None and n_random == 0 and is_sparse(image, len(positions), size)
    if isinstance(image, Mosaic) and not few:
        image = SectionedImage(image) if n_random == 0 else image.load()
    shape = (image.n_bands, size, size)
    scale = pixel_angle(image)
    psf = _opened(psf, image)
    kernel = None
    if psf is not None:
        kernel = kernel_of(psf.at(image_middle(image)), image.n_bands, scale)
        _tell(psf, kernel)
    if isinstance(image, SectionedImage) and positions is None:
        galaxies, avoid = find_in_sections(image, psf=kernel, detection=detection)
    else:
        galaxies, avoid = find_galaxies(image, psf=kernel, positions=positions, detection=detection)
    typical, stars = image, avoid
    # A catalog's objects tell nothing of stars, and those of a large image are too many to look at.
    if positions is not None or isinstance(image, SectionedImage):
        whole = image.mosaic if isinstance(image, SectionedImage) else image
        typical, stars = measure_stars(whole, enough=psf is None and psf_fwhm is None)
    conditions = image_conditions(typical, objects=stars, psf=kernel, psf_fwhm=psf_fwhm)
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
            crowded_fraction=crowded_fraction,
            seed=seed,
        )
        cuts["random"] = cut_out(image, randoms, size=size, max_masked_fraction=max_masked_fraction)
        logger.info("%s: %d random positions", image.filename, len(cuts["random"].ids))
    autocorrelation = autocorrelation_of([typical], correlated_noise)
    views = {
        name: View(
            cuts[name].data,
            **noise_of(cuts[name].variance, autocorrelation),
            effective_gain=cuts[name].effective_gain,
            mask=cuts[name].mask,
            saturated=cuts[name].saturated,
            unit=image.unit,
            wcs=cuts[name].wcs,
            coordinates=cuts[name].coordinates,
            ids=cuts[name].ids,
            name=name,
            conditions=conditions,
            mixing=dict.fromkeys(sources, _operator(psf, cuts[name].coordinates, shape, scale)),
        )
        for name, sources in (("random", ("los",)), ("galaxy", ("los", "galaxy")))
        if name in cuts
    }
    for name, view in views.items():
        view.rejected = cuts[name].rejected
    return views


def _opened(psf, image):
    """The PSF that is given or comes with the image; None without one."""
    if psf is None and image.psf is not None:
        psf = image.psf
        logger.info("%s: its own PSF is used; psf=False leaves it out", image.filename)
    if psf is None or psf is False:
        return None
    return open_psf(psf, pixel_scale=pixel_angle(image), wcs=image.wcs)


def _tell(psf, kernel):
    logger.info(
        "%s: FWHM %s pixels of the image, %d x %d of them, from %r",
        getattr(psf, "label", "psf"),
        ", ".join(f"{width:.2f}" for width in kernel_fwhm(kernel)),
        *kernel.shape[:-3:-1],
        psf,
    )


def _operator(psf, coordinates, shape, scale):
    """What sources before a PSF, if there is one, are to the images at some places."""
    if psf is None:
        return Identity(shape)
    return Convolution(kernels_at(psf, coordinates, shape[0], scale), shape)


def view_of_cutouts(
    name, cutouts, sources, *, psf=None, psf_fwhm=None, correlated_noise=None, **image_options
):
    """Take cutouts that exist as one view.

    Parameters
    ----------
    name : str
        Name of the view.
    cutouts : sequence of path, `~astropy.nddata.CCDData` or NDData
        All of one size.
    sources : sequence of str
        The sources that they hold.
    psf, psf_fwhm, correlated_noise
        As for `views_from_image`.
    **image_options
        Options of `~astro_ddprism.survey.read_image`.

    Returns
    -------
    `~astro_ddprism.View`

    Raises
    ------
    InputError
        If a cutout or the PSF cannot be used, or shapes differ.
    """
    for argument, values in (("cutouts", cutouts), ("sources", sources)):
        if isinstance(values, str | Path) or not len(values):
            raise InputError(f"{argument}[{name!r}]: found {values!r}, expected a list of them")
    images = [read_image(cutout, **image_options) for cutout in cutouts]
    stamps = stack_stamps(images)
    n_bands, ny, nx = stamps.shape
    if psf is None and all(image.psf is not None for image in images):
        psf = [_opened(None, image) for image in images]
    else:
        psf = [_opened(psf, images[0])] * len(images)
    operator, kernels = Identity(stamps.shape), [None] * len(images)
    if psf[0] is not None:
        kernels = [
            kernel_of(one, n_bands, pixel_angle(image))
            for one, image in zip(psf, images, strict=True)
        ]
        _tell(psf[0], kernels[0])
        same = all(np.array_equal(one, kernels[0]) for one in kernels)
        kernel = kernels[0] if same else stack_kernels(kernels)
        operator = Convolution(torch.as_tensor(kernel), stamps.shape)
    conditions = [
        image_conditions(image, psf=kernel, psf_fwhm=psf_fwhm)
        for image, kernel in zip(images, kernels, strict=True)
    ]
    centres = [image.wcs.pixel_to_world(nx // 2, ny // 2).icrs for image in images]
    return View(
        stamps.data,
        **noise_of(stamps.variance, autocorrelation_of(images, correlated_noise)),
        effective_gain=stamps.effective_gain,
        mask=stamps.mask,
        saturated=stamps.saturated,
        unit=stamps.unit,
        mixing=dict.fromkeys(sources, operator),
        wcs=stamps.wcs,
        coordinates=SkyCoord([c.ra for c in centres], [c.dec for c in centres]),
        ids=[
            file_name(cutout).partition(".fit")[0] if isinstance(cutout, str | Path) else i
            for i, cutout in enumerate(cutouts)
        ],
        name=name,
        conditions=SurveyConditions.combined(conditions),
    )
