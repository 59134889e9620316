"""What a separation leaves for other programs: posterior samples as FITS extensions.

The layout is one that DS9, TOPCAT and `astropy.io.fits` read without this package: cubes whose
first axis is the observation, and a table with one row for each of them.
"""

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, hstack
from astropy.time import Time

from .fits import wcs_table

__all__ = ["product_hdus"]

# Provenance that has a keyword of its own; all else goes to HISTORY.
_KEYWORDS = {
    "model": ("MODEL", "model file"),
    "sha256": ("MODELSHA", "SHA-256 of the model file"),
    "version": ("DDPRISMV", "version of astro-ddprism"),
    "seed": ("SEED", "seed of the samples"),
}


def product_hdus(posterior, *, samples=False, aperture=None):
    """The extensions of a product, see `~astro_ddprism.PosteriorSamples.write`.

    Parameters
    ----------
    posterior : PosteriorSamples
        What was sampled.
    samples : bool
        Whether to add the samples themselves.
    aperture : float or Quantity, optional
        Radius of the aperture of the catalog's fluxes.

    Returns
    -------
    hdus : HDUList
    """
    unit = posterior.view.unit
    hdus = [_primary(posterior), _catalog(posterior, aperture)]
    for instrument, part in posterior.images.items():
        suffix, image = f"_{instrument}" if instrument else "", part.view
        hdus.append(_cube(image.data, f"DATA{suffix}", unit))
        # The mean of the residuals, which is the residual of the mean.
        hdus.append(_cube(part.residual().mean(axis=0), f"RESIDUAL{suffix}", None))
        if image.wcs is not None and posterior.grid.wcs is not image.wcs:
            table = QTable({"id": image.ids})
            table = hstack([table, wcs_table(image.wcs, image.data.shape[-2:])])
            hdus.append(fits.BinTableHDU(table, name=f"WCS{suffix}".upper()))
    mean, std = posterior.mean, posterior.std
    for source in posterior.sources:
        hdus.append(_cube(mean[source].value, f"{source}_MEAN", unit))
        hdus.append(_cube(std[source].value, f"{source}_STD", unit))
        if samples:
            hdus.append(_cube(posterior.samples[source].value, f"{source}_SAMPLES", unit))
    return fits.HDUList(hdus)


def _primary(posterior):
    header = fits.Header()
    header["CREATOR"] = "astro-ddprism"
    header["DATE"] = Time.now().fits, "UTC of this file"
    header["VIEW"] = posterior.view.name, "name of the observed view"
    header["SOURCES"] = ",".join(posterior.sources), "sources, in the order of the extensions"
    header["NSAMPLES"] = posterior.n_samples, "posterior samples of each observation"
    for name, value in posterior.provenance.items():
        if name in _KEYWORDS:
            keyword, comment = _KEYWORDS[name]
            # Long values go on in CONTINUE cards; a comment would be one more.
            text = value if isinstance(value, int) else str(value)
            header[keyword] = (text, comment) if len(str(text)) < 30 else text
        elif name != "n_samples":
            header.add_history(f"{name} = {value}")
    return fits.PrimaryHDU(header=header)


def _catalog(posterior, aperture):
    """The catalog with positions in degrees and with the WCS of the sources' pixels."""
    catalog = posterior.catalog(aperture)
    table = QTable(catalog, copy=False)
    table.meta = {}
    if "sky_coord" in table.colnames:
        position = table["sky_coord"].icrs
        index = table.colnames.index("sky_coord")
        table.add_columns([position.ra, position.dec], [index] * 2, names=["ra", "dec"])
        table.remove_column("sky_coord")
    if posterior.grid.wcs is not None:
        table = hstack([table, wcs_table(posterior.grid.wcs, posterior.grid.shape)])
    hdu = fits.table_to_hdu(table)
    hdu.name = "CATALOG"
    hdu.header["APERTURE"] = catalog.meta["aperture"], "radius of the aperture of fluxes"
    return hdu


def _cube(values, name, unit):
    hdu = fits.ImageHDU(np.ascontiguousarray(values), name=name.upper())
    if unit is not None and unit != u.dimensionless_unscaled:
        hdu.header["BUNIT"] = unit.to_string("fits")
    return hdu
