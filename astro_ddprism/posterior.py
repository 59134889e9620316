r"""Posterior samples of the sources of some observations, and what an astronomer does with them.

A joint posterior sample :math:`(x_s^1, \dots, x_s^S)` of an observation is one way in which its
light may be divided: its sources together, through their mixing operators, explain the observation
up to its noise. So any function of the sources, such as a flux in an aperture, has a posterior of
its own, sampled by evaluating it on each joint sample; its spread is the error, with everything
that is degenerate between the sources in it.
"""

from types import MappingProxyType

import numpy as np
import torch
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable, hstack
from astropy.time import Time
from astropy.wcs.utils import proj_plane_pixel_scales

from .errors import InputError
from .io.fits import wcs_table, write_fits
from .metrics import aperture_flux

__all__ = ["PosteriorSamples", "SourceImages"]

# Observations that are mapped through the mixing operators at a time: bounds the memory.
BATCH_SIZE = 512


class SourceImages(u.Quantity):
    """Images of a source, with the WCS of each observation.

    A `~astropy.units.Quantity` in all else; what is computed from it is a plain image again, whose
    ``wcs`` is None.

    Attributes
    ----------
    wcs : list of `~astropy.wcs.WCS`, or None
        Celestial WCS of each observation's pixels.
    """

    def __new__(cls, value, unit=None, wcs=None):
        """Images in a unit, and their WCS."""
        new = super().__new__(cls, value, unit, copy=False, dtype=np.inexact, subok=False)
        new = new.view(cls)
        new.wcs = wcs
        return new

    def __array_finalize__(self, obj):
        super().__array_finalize__(obj)
        self.wcs = None


class PosteriorSamples:
    """Joint posterior samples of all sources of a view's observations.

    Parameters
    ----------
    samples : mapping of str to ndarray or Quantity, shape (n_samples, N, *source_shape)
        Samples of each source, without a unit in the view's; the same first axis of every source is
        the same joint sample.
    view : View
        The observations.
    provenance : mapping, optional
        What the samples were made with: ``model`` (a file), ``sha256`` (of it), ``version``,
        ``seed`` and whatever else is worth a line in a product's header.

    Attributes
    ----------
    view : View
    provenance : dict
    n_samples : int

    Raises
    ------
    InputError
        If the samples do not fit the view.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import PosteriorSamples, View
    >>> from astro_ddprism.mixing import Identity
    >>> identity = Identity((1, 8, 8))
    >>> view = View(np.ones((3, 1, 8, 8)), variance=0.01, unit="uJy",
    ...             mixing={"los": identity, "galaxy": identity})
    >>> half = np.full((4, 3, 1, 8, 8), 0.5)
    >>> samples = PosteriorSamples({"los": half, "galaxy": half}, view)
    >>> samples
    <PosteriorSamples: 4 samples of 3 observations in uJy, sources: los, galaxy>
    >>> samples.flux("galaxy")[0, 0]
    <Quantity [32.] uJy>
    >>> float(samples.chi2.max())
    0.0
    """

    def __init__(self, samples, view, *, provenance=None):
        if not samples or set(samples) != set(view.sources):
            raise InputError(
                f"samples: found sources {', '.join(samples) or 'none'}, "
                f"expected {', '.join(view.sources)}"
            )
        self.view = view
        self.provenance = dict(provenance or {})
        n_samples = len(next(iter(samples.values())))
        images = {}
        for source, operator in view.mixing.items():
            values = samples[source]
            shape = n_samples, len(view), *operator.source_shape
            if np.shape(values) != shape or n_samples == 0:
                raise InputError(
                    f"samples[{source!r}]: found shape {np.shape(values)}, expected {shape}"
                )
            images[source] = self._images(values, source)
        self._samples = MappingProxyType(images)

    def __repr__(self):
        unit = f" in {self.view.unit}" if self.view.unit != u.dimensionless_unscaled else ""
        return (
            f"<PosteriorSamples: {self.n_samples} samples of {len(self.view)} observations{unit}, "
            f"sources: {', '.join(self.sources)}>"
        )

    def __len__(self):
        return len(self.view)

    @property
    def n_samples(self):
        """Number of samples of each observation."""
        return len(self._samples[self.sources[0]])

    @property
    def sources(self):
        """Names of the sources, in the view's order."""
        return self.view.sources

    @property
    def samples(self):
        """Samples of each source: mapping of str to SourceImages (n_samples, N, *source_shape)."""
        return self._samples

    @property
    def mean(self):
        """Posterior mean of each source: dict of str to SourceImages (N, *source_shape)."""
        return {s: self._images(np.mean(x.value, axis=0), s) for s, x in self.samples.items()}

    @property
    def std(self):
        """Posterior standard deviation: dict of str to SourceImages (N, *source_shape).

        NaN where there is one sample only, from which no spread can be told.
        """
        return {s: self._images(_spread(x.value), s) for s, x in self.samples.items()}

    def model(self):
        r"""The noise-free observation that each joint sample makes.

        Returns
        -------
        model : SourceImages, shape (n_samples, N, *observation_shape)
            :math:`\sum_\beta A^\beta x^\beta`.
        """
        model = np.empty((self.n_samples, *self.view.data.shape), dtype=self.view.data.dtype)
        for first in range(0, len(self.view), BATCH_SIZE):
            rows = slice(first, first + BATCH_SIZE)
            dtype = torch.from_numpy(model[:0]).dtype
            mixing = self.view.batch(rows, dtype=dtype).mixing
            for s in range(self.n_samples):
                parts = (
                    operator(torch.tensor(self.samples[source].value[s, rows], dtype=dtype))
                    for source, operator in mixing.items()
                )
                model[s, rows] = sum(parts).numpy()
        return SourceImages(model, self.view.unit, self.view.wcs)

    def residual(self):
        r"""Standardized residuals.

        Returns
        -------
        residual : ndarray, shape (n_samples, N, *observation_shape)
            :math:`(y - \sum_\beta A^\beta x^\beta) / \sigma`, NaN at masked pixels.
        """
        residual = self.model().value
        np.subtract(self.view.data, residual, out=residual)
        residual /= np.sqrt(self.view.variance)
        residual[:, self.view.mask] = np.nan
        return residual

    @property
    def chi2(self):
        r"""Reduced :math:`\chi^2`, the mean squared residual: ndarray, shape (n_samples, N)."""
        return np.nanmean(np.square(self.residual()), axis=tuple(range(2, self.view.data.ndim + 1)))

    def flux(self, source, aperture=None):
        """Flux of a source in each sample.

        Parameters
        ----------
        source : str
            Name of a source that is an image (bands, ny, nx).
        aperture : float or Quantity, optional
            Radius of a circle about the observation's coordinates (or, without a WCS, about the
            pixel ``(nx // 2, ny // 2)``), in pixels or as an angle. By default the whole cutout.

        Returns
        -------
        flux : Quantity, shape (n_samples, N, bands)

        Raises
        ------
        InputError
            If there is no such source, it is no image, or an angle is given without a WCS.
        """
        if source not in self.samples:
            raise InputError(f"source: found {source!r}, expected one of {', '.join(self.sources)}")
        images = self.samples[source]
        if images.ndim != 5:
            raise InputError(
                f"source {source!r}: found shape {images.shape[2:]}, expected (bands, ny, nx)"
            )
        if aperture is None:
            return u.Quantity(images.value.sum(axis=(-2, -1)), self.view.unit)
        return u.Quantity(
            aperture_flux(images.value, self._radius(aperture, images), self._centres(images)),
            self.view.unit,
        )

    def nddata(self, source, i, band=0):
        """One separated image with its error.

        Parameters
        ----------
        source : str
            Name of a source that is an image (bands, ny, nx).
        i : int
            Which observation.
        band : int
            Which band.

        Returns
        -------
        image : CCDData, shape (ny, nx)
            Posterior mean, with posterior standard deviation, unit and WCS.
        """
        samples = self.samples[source]
        if samples.ndim != 5:
            raise InputError(
                f"source {source!r}: found shape {samples.shape[2:]}, expected (bands, ny, nx)"
            )
        values = samples.value[:, i, band]
        return CCDData(
            values.mean(axis=0),
            uncertainty=StdDevUncertainty(_spread(values)),
            unit=self.view.unit,
            wcs=None if samples.wcs is None else samples.wcs[i],
            meta={"OBJECT": str(self.view.ids[i]), "SOURCE": source},
        )

    def catalog(self, aperture=None):
        """Fluxes of every source of every observation.

        Parameters
        ----------
        aperture : float or Quantity, optional
            Radius of a circular aperture, as for `flux`.

        Returns
        -------
        catalog : QTable
            One row per observation: ``id``; ``sky_coord``, where known; for each source that is an
            image ``SOURCE_flux`` (posterior mean), ``SOURCE_flux_error`` (posterior standard
            deviation), ``SOURCE_flux_p16`` and ``SOURCE_flux_p84`` (quantiles), with ``_1``,
            ``_2``, ... appended for each of several bands; ``chi2`` (reduced, mean over the
            samples); ``n_valid`` (pixels that carry information). Its ``meta`` holds the aperture
            and the provenance.
        """
        # Names and positions are the view's own; the number of valid pixels goes to the end.
        table = self.view.table()
        n_valid = table["n_valid"]
        table.remove_column("n_valid")
        for source, images in self.samples.items():
            if images.ndim != 5:
                continue
            flux = self.flux(source, aperture)
            for band in range(flux.shape[-1]):
                suffix = f"_{band + 1}" if flux.shape[-1] > 1 else ""
                values = flux[..., band]
                # The quantile of the k-th of S sorted samples is k / (S + 1), as in
                # `metrics.interval_coverage`: right for few samples too.
                low, high = np.quantile(values, [0.16, 0.84], axis=0, method="weibull")
                columns = {"": values.mean(axis=0), "_error": _spread(values.value) << flux.unit,
                           "_p16": low, "_p84": high}  # fmt: skip
                for name, column in columns.items():
                    table[f"{source}_flux{name}{suffix}"] = column
        table["chi2"] = self.chi2.mean(axis=0)
        table["n_valid"] = n_valid
        table.meta["aperture"] = "cutout" if aperture is None else str(aperture)
        table.meta.update(self.provenance)
        return table

    def write(self, path, overwrite=False, samples=False, aperture=None):
        """Write a multi-extension FITS product.

        The primary header holds the provenance. ``CATALOG`` is a table with one row per
        observation: the columns of `catalog`, with ``ra`` and ``dec`` in degrees, and the WCS
        keywords of the cutout (see `~astro_ddprism.io.fits.row_wcs`). ``DATA`` (0 at masked
        pixels), ``RESIDUAL`` (standardized, mean over the samples, NaN at masked pixels) and, for
        each source, ``SOURCE_MEAN`` and ``SOURCE_STD`` are cubes of shape (N, bands, ny, nx).

        Parameters
        ----------
        path : path-like
            The file to be.
        overwrite : bool
            Whether an existing file is replaced. A write that is killed leaves the old file whole.
        samples : bool
            Whether to add the samples themselves, ``SOURCE_SAMPLES`` (n_samples, N, bands, ny, nx).
        aperture : float or Quantity, optional
            Radius of the aperture of the catalog's fluxes, as for `flux`.

        Raises
        ------
        InputError
            If the file exists and may not be replaced, or its folder does not exist.
        """
        hdus = [self._primary(), self._table_hdu(self.catalog(aperture))]
        hdus.append(_cube(self.view.data, "DATA", self.view.unit))
        # The residual of the mean model, which is the mean of the residuals.
        hdus.append(_cube(self.residual().mean(axis=0), "RESIDUAL", None))
        mean, std = self.mean, self.std
        for source in self.sources:
            hdus.append(_cube(mean[source].value, f"{source}_MEAN", self.view.unit))
            hdus.append(_cube(std[source].value, f"{source}_STD", self.view.unit))
            if samples:
                values = self.samples[source].value
                hdus.append(_cube(values, f"{source}_SAMPLES", self.view.unit))
        write_fits(fits.HDUList(hdus), path, overwrite=overwrite)

    # -- parts -------------------------------------------------------------------------------

    def _images(self, values, source):
        """Values of a source in the view's unit, with WCS if they are on the view's pixels."""
        values = u.Quantity(values, getattr(values, "unit", self.view.unit), copy=False)
        same_grid = self.view.mixing[source].source_shape[-2:] == self.view.data.shape[-2:]
        return SourceImages(
            values.to_value(self.view.unit), self.view.unit, self.view.wcs if same_grid else None
        )

    def _centres(self, images):
        if images.wcs is None or self.view.coordinates is None:
            return None
        pairs = zip(images.wcs, self.view.coordinates, strict=True)
        return np.array([wcs.world_to_pixel(position) for wcs, position in pairs], dtype=float)

    def _radius(self, aperture, images):
        if not isinstance(aperture, u.Quantity) or aperture.unit == u.pix:
            return u.Quantity(aperture, u.pix).value
        if images.wcs is None or not aperture.unit.is_equivalent(u.deg):
            raise InputError(f"aperture: found {aperture}, expected pixels, or an angle and a WCS")
        scales = [np.sqrt(np.prod(proj_plane_pixel_scales(wcs))) for wcs in images.wcs]
        return aperture.to_value(u.deg) / np.array(scales)

    def _primary(self):
        known = {
            "model": ("MODEL", "model file"),
            "sha256": ("MODELSHA", "SHA-256 of the model file"),
            "version": ("DDPRISMV", "version of astro-ddprism"),
            "seed": ("SEED", "seed of the samples"),
        }
        header = fits.Header()
        header["CREATOR"] = "astro-ddprism"
        header["DATE"] = Time.now().fits, "UTC of this file"
        header["VIEW"] = self.view.name, "name of the observed view"
        header["SOURCES"] = ",".join(self.sources), "sources, in the order of the extensions"
        header["NSAMPLES"] = self.n_samples, "posterior samples of each observation"
        for name, value in self.provenance.items():
            if name in known:
                keyword, comment = known[name]
                # Long values go on in CONTINUE cards; a comment would be one more.
                text = value if isinstance(value, int) else str(value)
                header[keyword] = (text, comment) if len(str(text)) < 30 else text
            elif name != "n_samples":
                header.add_history(f"{name} = {value}")
        return fits.PrimaryHDU(header=header)

    def _table_hdu(self, catalog):
        table = QTable(catalog, copy=False)
        table.meta = {}
        if "sky_coord" in table.colnames:
            position = table["sky_coord"].icrs
            index = table.colnames.index("sky_coord")
            table.add_columns([position.ra, position.dec], [index] * 2, names=["ra", "dec"])
            table.remove_column("sky_coord")
        if self.view.wcs is not None:
            table = hstack([table, wcs_table(self.view.wcs, self.view.data.shape[-2:])])
        hdu = fits.table_to_hdu(table)
        hdu.name = "CATALOG"
        hdu.header["APERTURE"] = catalog.meta["aperture"], "radius of the aperture of fluxes"
        return hdu


def _spread(values):
    """Standard deviation over the first axis; NaN for a single sample."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan, dtype=values.dtype)
    return np.std(values, axis=0, ddof=1)


def _cube(values, name, unit):
    """An image extension, in single precision if that holds the values."""
    hdu = fits.ImageHDU(np.ascontiguousarray(values), name=name.upper())
    if unit is not None and unit != u.dimensionless_unscaled:
        hdu.header["BUNIT"] = unit.to_string("fits")
    return hdu
