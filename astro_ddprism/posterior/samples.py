r"""Posterior samples of the sources of some observations, and what an astronomer does with them.

A joint posterior sample :math:`(x_s^1, \dots, x_s^S)` of an observation is one way in which its
light may be divided: its sources together, through their mixing operators, explain the observation
up to its noise. So any function of the sources, such as a flux in an aperture, has a posterior of
its own, sampled by evaluating it on each joint sample; its spread is the error, with everything
that is degenerate between the sources in it.

Sources whose observations have several images live on pixels of their own. What a sample makes of
one instrument's images is that of ``PosteriorSamples.images``.
"""

import functools
import logging
from types import MappingProxyType

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty

from ..errors import InputError
from ..steps import step
from ..units import AB_FLUX
from ..views.view import View
from .apertures import aperture_flux, radius_in_pixels
from .catalog import make_catalog
from .container import SampleContainer
from .grid import SourceGrid, SourceImages
from .light import Light
from .photometry import measure

__all__ = ["PosteriorSamples", "SourceImages"]

logger = logging.getLogger(__name__)


class PosteriorSamples(SampleContainer):
    """Joint posterior samples of all sources of a view's observations.

    Parameters
    ----------
    samples : mapping of str to ndarray or Quantity, shape (n_samples, N, *source_shape)
        Samples of each source, without a unit in the view's; the same first axis of every source is
        the same joint sample.
    view : View or MultiInstrumentView
        The observations.
    provenance : mapping, optional
        What the samples were made with: ``model`` (a file), ``sha256`` (of it), ``version``,
        ``seed`` and whatever else is worth a line in a product's header.
    device : torch.device or str
        Where the light of the samples is computed.

    Attributes
    ----------
    view : View or MultiInstrumentView
    grid : SourceGrid
        The pixels of the sources.
    provenance : dict
    device : torch.device or str
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

    def __init__(self, samples, view, *, provenance=None, device="cpu"):
        if not samples or set(samples) != set(view.sources):
            raise InputError(
                f"samples: found sources {', '.join(samples) or 'none'}, "
                f"expected {', '.join(view.sources)}"
            )
        self.view, self.grid, self._told = view, SourceGrid(view), False
        self.provenance, self.device = dict(provenance or {}), device
        n_samples = len(next(iter(samples.values())))
        images = {}
        for source, source_shape in view.source_shapes.items():
            values = samples[source]
            shape = n_samples, len(view), *source_shape
            if np.shape(values) != shape or n_samples == 0:
                raise InputError(
                    f"samples[{source!r}]: found shape {np.shape(values)}, expected {shape}"
                )
            images[source] = self._images(values, source)
        self._samples = MappingProxyType(images)

    @property
    def n_samples(self) -> int:
        """Number of samples of each observation."""
        return len(self._samples[self.sources[0]])

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the view's order."""
        return self.view.sources

    @property
    def positions(self):
        """Where each observation's coordinates lie in its sources: ndarray (N, 2) of pixels (x, y).

        The pixel ``(nx // 2, ny // 2)`` of the observation where there are no WCS or coordinates.
        """
        return self.grid.positions

    @property
    def samples(self):
        """Samples of each source: mapping of str to SourceImages (n_samples, N, *source_shape)."""
        return self._samples

    @property
    def mean(self) -> dict[str, SourceImages]:
        """Posterior mean of each source: dict of str to SourceImages (N, *source_shape)."""
        return {s: self._images(np.mean(x.value, axis=0), s) for s, x in self.samples.items()}

    @property
    def std(self) -> dict[str, SourceImages]:
        """Posterior standard deviation: dict of str to SourceImages (N, *source_shape).

        NaN where there is one sample only, from which no spread can be told; the log says so.
        """
        self._tell_of_one()
        return {s: self._images(_spread(x.value), s) for s, x in self.samples.items()}

    @property
    def images(self):
        """The same samples before the images of each instrument: dict of str to PosteriorSamples.

        Of a view with one image of each observation, these samples themselves, under ``""``.
        """
        return {"": self} if isinstance(self.view, View) else dict(self._instruments)

    def component(self, source):
        r"""What a source contributes to the observation, in each sample.

        Parameters
        ----------
        source : str
            Name of the source.

        Returns
        -------
        component : SourceImages, shape (n_samples, N, *observation_shape)
            :math:`A^\beta x^\beta`: the source as the instrument sees it, without noise.
        """
        self._check_source(source)
        return SourceImages(self._light.mixed([source]), self.view.unit, self.view.wcs, axis=1)

    def model(self):
        r"""The noise-free observation that each joint sample makes.

        Returns
        -------
        model : SourceImages, shape (n_samples, N, *observation_shape)
            :math:`\sum_\beta A^\beta x^\beta`.
        """
        return SourceImages(self._light.mixed(self.sources), self.view.unit, self.view.wcs, axis=1)

    def residual(self):
        r"""Standardized residuals.

        Returns
        -------
        residual : ndarray, shape (n_samples, N, *observation_shape)
            :math:`(y - \sum_\beta A^\beta x^\beta) / \sigma`, with the standard deviation of each
            pixel by itself, where sources have photon noise that of the sample; NaN at masked
            pixels.
        """
        return self._light.residual()

    def mean_residual(self):
        """Mean of `residual` over the samples: ndarray, shape (N, *observation_shape).

        It comes with `chi2`, and those of every sample are never in memory together.
        """
        return self._light.mean_residual.copy()

    def residual_variance(self):
        """Mean squared deviation of `residual` from its mean, of the same shape as that."""
        return self._light.residual_variance.copy()

    @property
    def chi2(self) -> np.ndarray:
        r"""Reduced :math:`\chi^2`, the mean squared *whitened* residual.

        An ndarray of shape (n_samples, N). Where the noise is independent in every pixel, whitened
        residuals are the standardized ones. Photon noise is that of each sample. Of several
        instruments, that of all images together; NaN for observations without a valid pixel.
        """
        total = sum(part._light.sum_of_squares for part in self.images.values())
        with np.errstate(invalid="ignore"):  # an instrument may not have seen an observation
            return total / self.view.n_valid()

    def flux(self, source, aperture=None) -> u.Quantity:
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
        images = self._source_images(source)
        if aperture is None:
            return u.Quantity(images.value.sum(axis=(-2, -1), dtype=float), self.view.unit)
        positions = None if images.wcs is None else self.positions
        return aperture_flux(images, self.aperture_radius(aperture, source), positions)

    def photometry(self, source, aperture=None, *, progress=False):
        """Flux, place, size and shape of a source in each sample.

        Parameters
        ----------
        source : str
            Name of a source that is an image (bands, ny, nx).
        aperture : float or Quantity, optional
            Radius of a circular aperture, as for `flux`.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        photometry : `~astro_ddprism.posterior.photometry.Photometry`
            Arrays of shape (n_samples, N, bands), on the pixels of the source.

        Raises
        ------
        InputError
            If there is no such source, it is no image, or an angle is given without a WCS.
        """
        images = self._source_images(source)
        return measure(
            u.Quantity(images.value, self.view.unit, copy=False),
            None if images.wcs is None else self.positions,
            aperture=None if aperture is None else self.aperture_radius(aperture, source),
            progress=progress,
        )

    def aperture_radius(self, aperture, source=None):
        """Radius of an aperture in pixels of the sources.

        Parameters
        ----------
        aperture : float or Quantity
            In pixels or as an angle.
        source : str, optional
            For which source, should it have pixels of its own; by default on `grid`.

        Returns
        -------
        radius : float or ndarray, shape (N,)

        Raises
        ------
        InputError
            If it is neither, too large, or an angle while the source has no WCS.
        """
        if source is None or self.samples[source].wcs is not None:
            return self.grid.aperture_radius(aperture)
        return radius_in_pixels(aperture, shape=self.samples[source].shape[-2:])

    def nddata(self, source, i, band=0) -> CCDData:
        """One separated image with its error.

        Parameters
        ----------
        source : str
            Name of a source that is an image (bands, ny, nx).
        i : int or str
            Which observation, by number or by id.
        band : int
            Which band.

        Returns
        -------
        image : CCDData, shape (ny, nx)
            Posterior mean, with posterior standard deviation, unit and WCS.
        """
        samples = self._source_images(source)
        i = self.view.rows(i)[0]
        self._tell_of_one()
        values = samples.value[:, i, band]
        return CCDData(
            values.mean(axis=0),
            uncertainty=StdDevUncertainty(_spread(values)),
            unit=self.view.unit,
            wcs=None if samples.wcs is None else samples.wcs[i],
            meta={"OBJECT": str(self.view.ids[i]), "SOURCE": source},
        )

    @step("photometry")
    def catalog(
        self,
        aperture=None,
        *,
        sources=None,
        zero_point=None,
        max_masked_fraction=0.0,
        progress=False,
    ):
        """Fluxes, magnitudes, places, sizes and shapes of every source of every observation.

        Parameters
        ----------
        aperture : float or Quantity, optional
            Radius of a circular aperture, as for `flux`. Without one there is no aperture flux.
        sources : sequence of str, optional
            Which sources to measure, in this order; by default all but ``"los"``, the last first.
        zero_point : float or Quantity, optional
            Magnitude of a flux of 1 in the view's unit, such as ``27.0`` or ``27.0 * u.ABmag``.
            Fluxes in units like Jy or maggies have AB magnitudes without it, and any others none.
        max_masked_fraction : float
            Observations with a larger part of their aperture masked are flagged.
        progress : bool
            Whether to show progress bars.

        Returns
        -------
        catalog : QTable
            One row per observation: ``id``; ``sky_coord``, where known; the measurements of each
            source that is an image, with ``_1``, ``_2``, ... appended for each of several bands;
            ``chi2`` (reduced, mean over the samples); ``n_valid`` (pixels that carry information);
            of several instruments also ``chi2_INSTRUMENT`` and ``n_valid_INSTRUMENT``;
            ``masked_fraction`` of the aperture and ``flags``
            (`~astro_ddprism.posterior.quality.Quality`). Its ``meta`` holds the sources, the sky
            frame, the aperture, the zero point and the provenance; every column has a description,
            and those of physical quantities have a UCD (``catalog[name].info.meta["ucd"]``).

            Of the flux of a source, ``SOURCE_flux`` is the posterior mean, ``SOURCE_flux_error``
            the posterior standard deviation, ``SOURCE_flux_p16``, ``_p50`` and ``_p84`` are
            quantiles. So it is for ``aperture_flux``, ``mag``, ``aperture_mag``, ``x_centroid``,
            ``y_centroid``, ``half_light_radius``, ``ellipticity`` and ``position_angle``. The
            documentation has all columns, with units and definitions.

        Raises
        ------
        InputError
            If the aperture or the zero point is none, or there is no such source.

        Examples
        --------
        >>> import numpy as np
        >>> from astro_ddprism import PosteriorSamples, View
        >>> from astro_ddprism.mixing import Identity
        >>> y, x = np.mgrid[:24, :24] - 12
        >>> galaxy = np.exp(-(x**2 / 8 + y**2 / 4) / 2)[np.newaxis, np.newaxis]
        >>> view = View(galaxy, variance=0.01, unit="uJy", mixing={"galaxy": Identity((1, 24, 24))})
        >>> scatter = np.linspace(0.9, 1.1, 9).reshape(9, 1, 1, 1, 1)
        >>> catalog = PosteriorSamples({"galaxy": scatter * galaxy}, view).catalog(aperture=3)
        >>> for name in ("flux", "flux_error", "mag", "half_light_radius", "ellipticity"):
        ...     print(name, catalog[f"galaxy_{name}"][0].round(3))
        flux 35.542 uJy
        flux_error 2.433 uJy
        mag 20.025 mag(AB)
        half_light_radius 2.85 pix
        ellipticity 0.293
        """
        self._tell_of_one()
        return make_catalog(
            self,
            aperture,
            sources=sources,
            zero_point=zero_point,
            max_masked_fraction=max_masked_fraction,
            progress=progress,
        )

    # -- parts -------------------------------------------------------------------------------

    def _images(self, values, source):
        """Values of a source in the view's unit, with WCS if those of its pixels are known."""
        values = u.Quantity(values, getattr(values, "unit", self.view.unit), copy=False)
        wcs = self.grid.wcs if self.grid.holds(source) else None
        axis = values.ndim - len(self.view.source_shapes[source]) - 1
        return SourceImages(values.to_value(self.view.unit, AB_FLUX), self.view.unit, wcs, axis)

    @functools.cached_property
    def _instruments(self):
        """Samples before the images of each of several instruments, which keep their light."""
        options, images = {"provenance": self.provenance, "device": self.device}, self.view.images
        return {name: PosteriorSamples(self.samples, i, **options) for name, i in images.items()}

    @functools.cached_property
    def _light(self):
        return Light({s: x.value for s, x in self.samples.items()}, self.view, self.device)

    def _tell_of_one(self):
        if self.n_samples == 1 and not self._told:
            self._told = True
            logger.warning(
                "1 sample of each observation: no errors and no quantiles can be told (they are "
                "NaN); draw more, n_samples=16"
            )

    def _check_source(self, source):
        if source not in self.samples:
            raise InputError(f"source: found {source!r}, expected one of {', '.join(self.sources)}")

    def _source_images(self, source):
        self._check_source(source)
        images = self.samples[source]
        if images.ndim != 5:
            raise InputError(
                f"source {source!r}: found shape {images.shape[2:]}, expected (bands, ny, nx)"
            )
        return images


def _spread(values):
    """Standard deviation over the first axis; NaN for a single sample."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan, dtype=values.dtype)
    return np.std(values, axis=0, ddof=1)
