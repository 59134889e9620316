"""Separated galaxies as images of their own, each with its WCS: what DS9 opens one by one."""

import re
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..errors import InputError
from ..io.fits import card_text, write_fits
from .catalog import sources_of_interest

__all__ = ["stamp_hdus", "write_stamps"]

ENDINGS = (".fits", ".fit", ".fts")


def stamp_hdus(samples, i, source) -> list:
    """The image of a separated source, and its error.

    Parameters
    ----------
    samples : PosteriorSamples
        What was sampled.
    i : int
        Which observation.
    source : str
        Which source.

    Returns
    -------
    hdus : list of ImageHDU
        Mean (named after the source) and standard deviation (``ERR``), of shape (bands, ny, nx) or,
        of one band, (ny, nx); their ``OBJECT`` is the observation's id, their ``EXTVER`` its
        number from 1 on.
    """
    images = [samples.nddata(source, i, band) for band in range(samples.samples[source].shape[2])]
    wcs, unit = images[0].wcs, images[0].unit
    header = fits.Header() if wcs is None else wcs.to_header(relax=True)
    header["OBJECT"] = card_text(samples.view.ids[i])
    if unit.to_string():
        header["BUNIT"] = unit.to_string("fits")
    planes = {source.upper(): [image.data for image in images],
              "ERR": [image.uncertainty.array for image in images]}  # fmt: skip
    return [
        fits.ImageHDU(np.squeeze(np.array(values), axis=0) if len(values) == 1 else
                      np.array(values), header=header.copy(), name=card_text(name), ver=i + 1)
        for name, values in planes.items()
    ]  # fmt: skip


def write_stamps(samples, path, source=None, overwrite=False) -> list[Path]:
    """Write every separated galaxy as an image of its own.

    Parameters
    ----------
    samples : PosteriorSamples
        What was sampled.
    path : path-like
        One FITS file for all, by its ending; or else a folder, made if there is none, in which each
        has a file named after its id.
    source : str, optional
        Which source; by default the last one.
    overwrite : bool
        Whether existing files are replaced.

    Returns
    -------
    paths : list of path
        The files.

    Raises
    ------
    InputError
        If a file exists and may not be replaced, the source is no image, or two ids make one name.
    """
    path, source = Path(path), source or sources_of_interest(samples.view)[0]
    if path.suffix.lower() in ENDINGS:
        hdus = [hdu for i in range(len(samples)) for hdu in stamp_hdus(samples, i, source)]
        write_fits(fits.HDUList([fits.PrimaryHDU(), *hdus]), path, overwrite)
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    names = [re.sub(r"[^\w.+-]", "_", str(name)) for name in samples.view.ids]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: found ids that make one name of a file, expected others")
    paths = [path / f"{name}.fits" for name in names]
    for i, file in enumerate(paths):
        write_fits(
            fits.HDUList([fits.PrimaryHDU(), *stamp_hdus(samples, i, source)]), file, overwrite
        )
    return paths
