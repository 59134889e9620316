"""What a separation leaves for other programs: posterior samples as FITS extensions.

The layout is one that DS9, TOPCAT and `astropy.io.fits` read without this package: cubes whose
first axis is the observation, and a table with one row for each of them.
"""

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable, Table, hstack
from astropy.time import Time

from ..io.fits import card_text, wcs_table
from .columns import describe
from .reading import extension_name, view_hdu

__all__ = ["catalog_header", "plain_catalog", "product_hdus", "storable", "table_hdu"]

MAX_COLUMNS = 999  # of a FITS table

# Provenance that has a keyword of its own; all else goes to HISTORY.
_KEYWORDS = {
    "model": ("MODEL", "model file"),
    "sha256": ("MODELSHA", "SHA-256 of the model file"),
    "version": ("DDPRISMV", "version of astro-ddprism"),
    "seed": ("SEED", "seed of the samples"),
}


def product_hdus(posterior, catalog, *, samples=False):
    """The extensions of a product.

    The primary header holds the provenance, and what served as flux, noise, mask, ... of the
    images. ``CATALOG`` is a table with one row per observation: the columns of the catalog, with
    ``ra`` and ``dec`` in degrees, and the WCS keywords of the sources' pixels (see
    `~astro_ddprism.io.fits.row_wcs`). ``DATA`` (0 at masked pixels), ``RESIDUAL`` (standardized,
    mean over the samples, NaN at masked pixels) and, for each source, ``SOURCE_MEAN`` and
    ``SOURCE_STD`` are cubes of shape (N, bands, ny, nx). Of several instruments, there are
    ``DATA_INSTRUMENT`` and ``RESIDUAL_INSTRUMENT`` of each. Where images have other pixels than
    the sources, their WCS keywords are in the table ``WCS_INSTRUMENT`` (``WCS``, of a single one).

    Parameters
    ----------
    posterior : PosteriorSamples
        What was sampled.
    catalog : QTable
        Its catalog.
    samples : bool
        Whether to add the samples themselves, and the view (``VIEW``).

    Returns
    -------
    hdus : HDUList
    """
    unit = posterior.view.unit
    hdus = [_primary(posterior), *_catalogs(posterior, catalog)]
    for instrument, part in posterior.images.items():
        suffix, image = f"_{instrument}" if instrument else "", part.view
        hdus.append(_cube(image.data, f"DATA{suffix}", unit))
        hdus.append(_cube(part.mean_residual(), f"RESIDUAL{suffix}", None))
        if image.wcs is not None and posterior.grid.wcs is not image.wcs:
            table = QTable({"id": image.ids})
            table = hstack([table, wcs_table(image.wcs, image.data.shape[-2:])])
            hdus.append(table_hdu(table, f"WCS{suffix}".upper()))
    mean, std = posterior.mean, posterior.std
    for source in posterior.sources:
        hdus.append(_cube(mean[source].value, f"{source}_MEAN", unit))
        hdus.append(_cube(std[source].value, f"{source}_STD", unit))
        if samples:
            hdus.append(_cube(posterior.samples[source].value, f"{source}_SAMPLES", unit))
    if samples:
        hdus.append(view_hdu(posterior.view, posterior.provenance))
    return fits.HDUList(hdus)


def _primary(posterior):
    header = fits.Header()
    header["CREATOR"] = "astro-ddprism"
    header["DATE"] = Time.now().fits, "UTC of this file"
    header["VIEW"] = card_text(posterior.view.name), "name of the observed view"
    sources = card_text(",".join(posterior.sources))
    header["SOURCES"] = sources, "sources, in the order of the extensions"
    header["NSAMPLES"] = posterior.n_samples, "posterior samples of each observation"
    for name, value in posterior.provenance.items():
        if name in _KEYWORDS:
            keyword, comment = _KEYWORDS[name]
            # Long values go on in CONTINUE cards; a comment would be one more.
            text = value if isinstance(value, int) else card_text(value)
            header[keyword] = (text, comment) if len(str(text)) < 30 else text
        elif name != "n_samples":
            header.add_history(f"{name} = {card_text(value)}")
    for name, part in posterior.images.items():
        conditions = getattr(part.view, "conditions", None)
        for line in conditions.provenance if conditions is not None else ():
            header.add_history(card_text(f"{name}, {line}" if name else line))
    return fits.PrimaryHDU(header=header)


def storable(table):
    """A table as FITS can hold it: text of other scripts is UTF-8, names of columns are ASCII.

    Parameters
    ----------
    table : `~astropy.table.Table`
        The table.

    Returns
    -------
    `~astropy.table.Table`
        A copy.
    """
    table = table.copy()
    for name in table.colnames:
        column = table[name]
        table.rename_column(name, card_text(name))
        name = card_text(name)
        if getattr(column, "dtype", np.dtype(bool)).kind == "U" and not all(
            str(value).isascii() for value in column
        ):
            table[name] = np.array([str(value).encode("utf-8") for value in column])
    return table


def plain_catalog(catalog):
    """A catalog of columns that every table format holds.

    Parameters
    ----------
    catalog : QTable
        As of `~astro_ddprism.PosteriorSamples.catalog`.

    Returns
    -------
    catalog : QTable
        Sky coordinates become right ascension and declination (ICRS) in degrees, and magnitudes of
        any system plain ones. It has no ``meta``.
    """
    plain = QTable()
    for name, column in catalog.items():
        if isinstance(column, SkyCoord):
            for axis in ("ra", "dec"):
                # sky_coord, galaxy_sky_centroid_2: ra, galaxy_ra_2
                own = name.replace("sky_coord", axis).replace("sky_centroid", axis)
                plain[own] = getattr(column.icrs, axis).deg * u.deg
        elif isinstance(column, u.Magnitude):
            plain[name] = column.value * u.mag
        else:
            plain[name] = column
    describe(plain, catalog.meta.get("sources", ()))
    return plain


def _catalogs(posterior, catalog):
    """The catalog with the WCS of the sources' pixels, in as many tables as it takes."""
    table = plain_catalog(catalog)
    if posterior.grid.wcs is not None:
        table = hstack([table, wcs_table(posterior.grid.wcs, posterior.grid.shape)])
        describe(table, posterior.sources)
    # Of very many bands, the last columns go to tables of their own.
    prefixes = tuple(f"{source}_" for source in posterior.sources)
    of_sources = [name for name in table.colnames if name.startswith(prefixes)]
    n_moved = max(0, len(table.colnames) - MAX_COLUMNS)
    moved = of_sources[len(of_sources) - n_moved :]
    hdus = [
        table_hdu(table[[name for name in table.colnames if name not in set(moved)]], "CATALOG")
    ]
    for first in range(0, n_moved, MAX_COLUMNS - 1):
        names = ["id", *moved[first : first + MAX_COLUMNS - 1]]
        hdus.append(table_hdu(table[names], f"CATALOG_{len(hdus) + 1}"))
    for hdu in hdus:
        catalog_header(hdu.header, catalog)
    return hdus


def catalog_header(header, catalog) -> None:
    """Tell in a table's header what holds for all of a catalog: aperture, zero point, sky frame.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        The header.
    catalog : QTable
        As of `~astro_ddprism.PosteriorSamples.catalog`.
    """
    if "aperture" in catalog.meta:
        header["APERTURE"] = catalog.meta["aperture"], "radius of the aperture of fluxes"
    if "zero_point" in catalog.meta:
        header["ZEROPNT"] = catalog.meta["zero_point"], "magnitude of a flux of 1"
    if "frame" in catalog.meta and "RADESYS" not in header.values():  # no column has that name
        header["RADESYS"] = catalog.meta["frame"], "of right ascensions and declinations"


def table_hdu(table, name) -> fits.BinTableHDU:
    """A table as an extension, with units, descriptions (TCOMM) and UCDs (TUCD) of its columns.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Of columns that FITS holds, such as a `plain_catalog`.
    name : str
        Name of the extension.

    Returns
    -------
    hdu : BinTableHDU
    """
    told = [
        (table[n].info.description, (table[n].info.meta or {}).get("ucd")) for n in table.colnames
    ]
    table = storable(table)
    units = {column: values.unit for column, values in table.items() if hasattr(values, "unit")}
    plain = Table(table)
    for column in plain.columns.values():
        column.unit = None
    hdu = fits.BinTableHDU(plain, name=card_text(name))
    for column, unit in units.items():
        if unit not in (None, u.one):
            hdu.columns[column].unit = _unit(unit)
    for i, (description, ucd) in enumerate(told, 1):
        if description:
            hdu.header[f"TCOMM{i}"] = card_text(description)
        if ucd:
            hdu.header[f"TUCD{i}"] = ucd
    return hdu


def _unit(unit):
    """A unit in the words of the FITS standard, or its own where that has none (maggies)."""
    try:
        return unit.to_string("fits")
    except ValueError:
        return unit.to_string()


def _cube(values, name, unit):
    hdu = fits.ImageHDU(np.ascontiguousarray(values), name=extension_name(name))
    if unit is not None and unit != u.dimensionless_unscaled:
        hdu.header["BUNIT"] = _unit(unit)
    return hdu
