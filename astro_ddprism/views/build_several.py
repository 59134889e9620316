"""The views that the images of several instruments make, of cutouts that exist or cut out here."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.modeling import Model

from ..errors import InputError
from ..psf import open_psf
from ..steps import step
from ..survey.catalogs import some as some_names
from ..survey.conditions import SurveyConditions, image_conditions
from ..survey.correlation import autocorrelation_of
from ..survey.cutouts import cut_stamps, rejected_table
from ..survey.find import find_galaxies
from ..survey.images import SurveyImage, pixel_angle
from ..survey.mosaic import Mosaic, is_sparse, measure_stars, open_bands
from ..survey.positions import read_positions
from ..survey.randoms import place_randoms
from ..survey.read import read_image
from ..survey.stamps import stack_stamps
from .joint import ObservedStamps, make_views

__all__ = ["views_from_cutouts", "views_from_images"]

logger = logging.getLogger(__name__)


def views_from_cutouts(
    cutouts,
    *,
    sources,
    psf=None,
    bands=None,
    frame=None,
    coordinates=None,
    correlated_noise=None,
    **image_options,
):
    """Take cutouts that exist, of several instruments.

    Parameters
    ----------
    cutouts : mapping of str to mapping of str to sequence
        For each view and each instrument its cutouts (files, `~astropy.nddata.CCDData`, ...), in
        the order of the observations; None where there is none.
    sources : mapping of str to sequence of str
        For each view the sources that it holds.
    psf : mapping of str to `~astro_ddprism.psf.PSF`, path or sequence of these, optional
        The PSF of each instrument: of all its images, or of each, of all views in their order.
    bands : mapping of str to array_like, shape (image's bands, source's bands), optional
        Share of each of the source's bands in each band of an instrument. Instruments that are not
        in it have the source's own bands.
    frame : `~astro_ddprism.frame.SourceFrame` or mapping, optional
        Where the sources live, or options of `SourceFrame.from_images
        <astro_ddprism.frame.SourceFrame.from_images>` (``scale``, ``size``, ...), which chooses it.
    coordinates : mapping of str to SkyCoord, optional
        For each view the positions of its observations; by default those of the pixel ``(nx // 2,
        ny // 2)`` of the first cutout that there is.
    correlated_noise : int or mapping of str to int, optional
        The largest distance, in pixels, at which the noise of two pixels is correlated, of all
        instruments or of each.
    **image_options
        Options of `~astro_ddprism.survey.read_image`; any may be a mapping from instruments to
        its values.

    Returns
    -------
    dict of str to `~astro_ddprism.MultiInstrumentView`

    Raises
    ------
    InputError
        If the cutouts cannot be used or do not belong together.
    """
    observed = {}
    for name, instruments in cutouts.items():
        _check_cutouts(name, instruments)
        images = {
            instrument: [
                None if file is None else read_image(file, **_own(image_options, instrument))
                for file in files
            ]
            for instrument, files in instruments.items()
        }
        stamps = {
            instrument: _stack(name, instrument, some, _one(correlated_noise, instrument))
            for instrument, some in images.items()
        }
        places = (coordinates or {}).get(name)
        observed[name] = ObservedStamps(
            stamps,
            ids=_names(zip(*instruments.values(), strict=True)),
            coordinates=_middles(name, images) if places is None else places,
            sources=sources[name],
        )
    return make_views(observed, psf=psf, bands=bands, frame=frame)


@step("cutting out")
def views_from_images(
    images,
    *,
    psf=None,
    bands=None,
    frame=None,
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
    detection=None,
    **image_options,
):
    """Cut the images of several instruments out at the same positions.

    Galaxies are detected, and random positions placed, on the image of the first instrument. A
    position is kept if any instrument has a cutout of it; an instrument whose image does not reach
    it, or with too many masked pixels, has not seen it.

    Parameters
    ----------
    images : mapping of str to SurveyImage, path or NDData, or a list of bands
        The image of each instrument.
    psf, bands, frame
        As for `views_from_cutouts`. By default the PSFs that the images bring along, if all do;
        False for none.
    size : int or `~astropy.units.Quantity`
        Side of the cutouts, in pixels of the first instrument or as an angle. The others cover the
        same part of the sky.
    positions, positions_format, id_column, n_random, random_distance, crowded_fraction
        As for `views_from_image`.
    max_masked_fraction, seed, detection
        As for `views_from_image`.
    correlated_noise : int or mapping of str to int, optional
        The largest distance, in pixels, at which the noise of two pixels is correlated, of all
        instruments or of each.
    **image_options
        Options of `~astro_ddprism.survey.read_image`; any may be a mapping from instruments to
        its values.

    Returns
    -------
    dict of str to `~astro_ddprism.MultiInstrumentView`
        "random" with the source "los", "galaxy" with "los" and "galaxy".

    Raises
    ------
    InputError
        If an image, a PSF or the positions cannot be used, or no galaxy is found.
    """
    tiles = {
        instrument: open_bands(image, {} if _is_read(image) else _own(image_options, instrument))
        for instrument, image in images.items()
    }
    first = next(iter(tiles.values()))
    psf = _psfs(psf, tiles)
    angle = size if isinstance(size, u.Quantity) else size * pixel_angle(first)
    sides = {instrument: _side(angle, tile) for instrument, tile in tiles.items()}

    def cut(name, table, sources):
        stamps = {}
        for instrument, tile in tiles.items():
            some = cut_stamps(
                tile, table, size=sides[instrument], max_masked_fraction=max_masked_fraction
            )
            stamps[instrument] = replace(
                some, autocorrelation=patches[instrument], conditions=conditions[instrument]
            )
        return _seen(name, stamps, table, sources)

    if positions is not None:
        positions = read_positions(
            positions, first.wcs, format=positions_format, id_column=id_column
        )
    few = positions is not None and n_random == 0
    for instrument, tile in tiles.items():
        if isinstance(tile, Mosaic) and not (
            few and is_sparse(tile, len(positions), sides[instrument])
        ):
            tiles[instrument] = tile.load()
    first = next(iter(tiles.values()))
    typical = {name: measure_stars(tile, enough=False)[0] for name, tile in tiles.items()}
    patches = {
        instrument: autocorrelation_of([tile], _one(correlated_noise, instrument))
        for instrument, tile in typical.items()
    }
    conditions = {instrument: image_conditions(tile) for instrument, tile in typical.items()}
    galaxies, avoid = find_galaxies(first, positions=positions, detection=detection)
    observed = {"galaxy": cut("galaxy", galaxies, ("los", "galaxy"))}
    if n_random != 0:
        randoms = place_randoms(
            first,
            2 * len(observed["galaxy"]) if n_random is None else n_random,
            size=_side(angle, first),
            max_masked_fraction=max_masked_fraction,
            avoid=avoid,
            min_distance=random_distance,
            crowded_fraction=crowded_fraction,
            seed=seed,
        )
        observed = {"random": cut("random", randoms, ("los",)), **observed}
    views = make_views(observed, psf=psf, bands=bands, frame=frame)
    for name, some in observed.items():
        views[name].rejected = some.rejected
    return views


# -- parts ---------------------------------------------------------------------------------------


def _one(value, instrument):
    """The value for an instrument of an option that may be a mapping."""
    return value.get(instrument) if isinstance(value, Mapping) else value


def _own(options, instrument):
    values = {name: _one(value, instrument) for name, value in options.items()}
    return {name: value for name, value in values.items() if value is not None}


def _psfs(psf, tiles):
    """The PSF of each instrument, opened where files and models belong to its image."""
    if psf is None:
        own = {name: tile.psf for name, tile in tiles.items() if tile.psf is not None}
        for name in own:
            used = "is used; psf=False leaves it out" if len(own) == len(tiles) else "is not used, "
            used += "" if len(own) == len(tiles) else "as other instruments have none"
            logger.info("%s: its own PSF %s", tiles[name].filename, used)
        if len(own) < len(tiles):
            return None
        return {name: _open(one, tiles[name]) for name, one in own.items()}
    if psf is False:
        return None
    if not isinstance(psf, Mapping):
        return psf
    files = str | Path | Model
    return {
        name: _open(one, tiles[name], fine=True)
        if isinstance(one, files) and name in tiles
        else one
        for name, one in psf.items()
    }


def _open(psf, tile, **options):
    return open_psf(psf, pixel_scale=pixel_angle(tile), wcs=tile.wcs, **options)


def _is_read(image):
    return isinstance(image[0] if isinstance(image, list | tuple) else image, SurveyImage | Mosaic)


def _check_cutouts(name, instruments):
    if not isinstance(instruments, Mapping) or not instruments:
        raise InputError(
            f"cutouts[{name!r}]: found {instruments!r}, expected a list of cutouts for each "
            "instrument, as in the other views"
        )
    for instrument, files in instruments.items():
        if isinstance(files, str | Path) or not isinstance(files, Sequence) or not files:
            raise InputError(
                f"cutouts[{name!r}][{instrument!r}]: found {files!r}, expected a list of them"
            )
    if len({len(files) for files in instruments.values()}) > 1:
        found = ", ".join(f"{len(files)} of {i}" for i, files in instruments.items())
        raise InputError(
            f"cutouts[{name!r}]: found {found}, expected one for each observation, None where "
            "there is none"
        )


def _stack(name, instrument, images, max_lag):
    try:
        stamps = stack_stamps(images)
    except InputError as error:
        raise InputError(f"view {name!r}, {instrument}: {error}") from error
    known = [image for image in images if image is not None]
    return replace(
        stamps,
        autocorrelation=autocorrelation_of(known, max_lag),
        conditions=SurveyConditions.combined([image_conditions(image) for image in known]),
    )


def _names(rows):
    """Observations are called as the first of their files, or by their number."""
    names = []
    for i, files in enumerate(rows):
        path = next((file for file in files if isinstance(file, str | Path)), None)
        names.append(str(i) if path is None else Path(path).name.partition(".fit")[0])
    return names


def _middles(name, images):
    """Sky coordinates of the middle pixels of the first cutout of each observation."""
    middles = []
    for i, row in enumerate(zip(*images.values(), strict=True)):
        image = next((one for one in row if one is not None), None)
        if image is None:
            raise InputError(f"cutouts[{name!r}]: found no cutout of observation {i}, expected one")
        ny, nx = image.shape[1:]
        middles.append(image.wcs.pixel_to_world(nx // 2, ny // 2).icrs)
    return SkyCoord([middle.ra for middle in middles], [middle.dec for middle in middles])


def _side(angle, tile):
    try:
        n_pixels = (angle / pixel_angle(tile)).to_value(u.one)
    except u.UnitConversionError as error:
        raise InputError(f"size: found {angle}, expected pixels or an angle") from error
    if not 0 < n_pixels < np.inf:
        raise InputError(f"size: found {angle}, expected a positive angle")
    return math.ceil(n_pixels - 1e-6)


def _seen(name, stamps, table, sources):
    """What is left without positions that no instrument saw, and instruments that saw none."""
    seen = np.array([[one is not None for one in some.wcs] for some in stamps.values()])
    keep = np.flatnonzero(seen.any(axis=0))
    for instrument, rows in zip(stamps, seen, strict=True):
        logger.info("%s: %s has %d of %d positions", name, instrument, rows.sum(), len(table))
    if len(keep) == 0:
        raise InputError(
            f"positions: found {len(table)} for the view {name!r}, none of them on an image of "
            f"{', '.join(stamps)} with few enough masked pixels; expected some"
        )
    lost = ~seen.any(axis=0)
    if lost.any():
        logger.warning("%s: no cutout of %s", name, some_names(table["id"][lost]))
    return ObservedStamps(
        {
            instrument: some[keep]
            for (instrument, some), rows in zip(stamps.items(), seen, strict=True)
            if rows.any()
        },
        ids=np.asarray(table["id"]).astype(str)[keep],
        coordinates=table["sky_centroid"][keep],
        sources=sources,
        rejected=rejected_table(table, lost, np.full(len(table), "off all images, or masked")),
    )
