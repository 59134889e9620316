"""Simulated survey fields whose light is known object by object.

A field is a sum of galaxies and stars seen through one point-spread function, plus noise. Its truth
is kept as a catalog from which any object can be drawn again, alone, on any pixels: what a galaxy's
cutout holds of the galaxy and what it holds of all else is known exactly.
"""

import dataclasses
import functools

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable
from astropy.wcs import WCS
from scipy.spatial import cKDTree

from .errors import InputError
from .io.fits import write_fits
from .profiles import MoffatRenderer
from .units import AB_FLUX

__all__ = ["SimulatedField", "TruthCutouts", "simulate_field"]


@dataclasses.dataclass(frozen=True)
class TruthCutouts:
    """Noise-free cutouts of what a simulated field holds at some positions.

    Parameters
    ----------
    galaxy : Quantity of shape (N, 1, ny, nx)
        The galaxy at each position, alone; NaN where no galaxy was matched.
    los : Quantity of shape (N, 1, ny, nx)
        All other objects; NaN where no galaxy was matched, and beyond the edges of the field.
    matched : ndarray of bool, shape (N,)
        Whether the position is a true galaxy's.
    row : ndarray of int, shape (N,)
        The galaxy's row in the field's catalog; -1 where none was matched.
    """

    galaxy: u.Quantity
    los: u.Quantity
    matched: np.ndarray
    row: np.ndarray


@dataclasses.dataclass(frozen=True)
class SimulatedField:
    """A simulated image, the objects in it and the means to draw them again.

    Parameters
    ----------
    image : CCDData
        Data, standard deviation, mask (True is bad) and TAN WCS, in microjansky per pixel.
    catalog : QTable
        The truth, one row per object: ``id``, ``kind`` (``"galaxy"`` or ``"star"``), ``x``, ``y``
        (pixels, the first pixel's centre is 0; objects beyond the edges whose light reaches in are
        there too), ``sky_coord``, ``flux``, ``magnitude``, ``half_light_radius`` (along the major
        axis), ``sersic_index``, ``axis_ratio`` and ``position_angle`` (from north through east).
    psf : ndarray
        The PSF with the pixel's smoothing in it, sampled at the pixels, odd-sized, of sum one.
    model : ndarray
        The noise-free image.
    renderer : MoffatRenderer
        Draws the objects.
    pixel_scale : Quantity
        Angle per pixel.
    effective_gain : Quantity, optional
        Electrons for each unit of flux, where the objects have photon noise of their own. The
        image's standard deviation is that of the background alone.
    """

    image: CCDData
    catalog: QTable
    psf: np.ndarray
    model: np.ndarray
    renderer: MoffatRenderer
    pixel_scale: u.Quantity
    effective_gain: u.Quantity | None = None

    def render(self, rows, x0=0, y0=0, shape=None):
        """Noise-free image of some objects.

        Parameters
        ----------
        rows : array_like of int
            Rows of the catalog.
        x0, y0 : int
            The field's pixel at the image's first pixel.
        shape : tuple of int, optional
            ``(ny, nx)``; by default the field's.

        Returns
        -------
        Quantity of shape (ny, nx)
            Flux per pixel.
        """
        shape = self.model.shape if shape is None else tuple(shape)
        image = _render(
            self.renderer,
            self.catalog,
            np.atleast_1d(rows),
            self.pixel_scale,
            self._sigma,
            (x0, y0),
            shape,
        )
        return image << self.image.unit

    def match(self, positions, *, radius=2.0):
        """The true object behind each detected position.

        Of all objects within ``radius`` the brightest is taken, since that is the one that a
        detection saw; in a field this deep the nearest is often one far below the noise.

        Parameters
        ----------
        positions : SkyCoord or array_like of shape (N, 2)
            Sky coordinates, or ``(x, y)`` in pixels.
        radius : float
            Largest separation, in pixels.

        Returns
        -------
        ndarray of int, shape (N,)
            Rows of the catalog; -1 where nothing lies within the radius.
        """
        xy = self._pixels(positions)
        tree = cKDTree(np.column_stack([self.catalog["x"], self.catalog["y"]]))
        flux = self.catalog["flux"].value
        found = tree.query_ball_point(xy, radius)
        return np.array([max(near, key=flux.__getitem__, default=-1) for near in found], dtype=int)

    def truth(self, positions, size, *, radius=2.0):
        """What lies at detected galaxies: each galaxy alone, and everything else.

        Parameters
        ----------
        positions : SkyCoord or array_like of shape (N, 2)
            Sky coordinates, or ``(x, y)`` in pixels. A cutout's pixel ``size // 2`` is the pixel
            that holds the position, as in a dataset made of the field.
        size : int
            Pixels on a side.
        radius : float
            Largest separation of a true galaxy from its position, in pixels.

        Returns
        -------
        TruthCutouts
        """
        xy = self._pixels(positions)
        corners = np.rint(xy).astype(int) - size // 2
        return self._truth(xy, corners, (size, size), radius)

    def truth_of(self, view, *, radius=2.0):
        """The truth on the very pixels of a view's cutouts, placed by each cutout's own WCS.

        Parameters
        ----------
        view : View
            Observations cut from this field, with their WCS and coordinates.
        radius : float
            Largest separation of a true galaxy from its position, in pixels.

        Returns
        -------
        TruthCutouts

        Raises
        ------
        InputError
            If the view has no WCS or coordinates.
        """
        if view.wcs is None or view.coordinates is None:
            raise InputError(
                f"view {view.name!r}: no WCS or coordinates, expected a view of this field"
            )
        # Plain angles, since a cutout of this field shares its frame.
        first = np.array([wcs.pixel_to_world_values(0, 0) for wcs in view.wcs])
        corners = np.column_stack(self.image.wcs.world_to_pixel_values(*first.T))
        corners = np.rint(corners).astype(int)
        shape = view.data.shape[-2:]
        return self._truth(self._pixels(view.coordinates), corners, shape, radius)

    def write(self, path, overwrite=False):
        """Write the field: SCI, ERR, MASK (1 is bad), PSF, and the table TRUTH.

        The keyword EFFGAIN of SCI holds the effective gain, where there is one.

        Parameters
        ----------
        path : path-like
            A FITS file.
        overwrite : bool
            Whether an existing file is replaced.

        Raises
        ------
        InputError
            If the file exists and may not be replaced, or its folder does not exist.
        """
        header = self.image.wcs.to_header()
        header["BUNIT"] = self.image.unit.to_string("fits")
        if self.effective_gain is not None:
            header["EFFGAIN"] = self.effective_gain.value, "electrons per unit of flux"
        flags = self.image.wcs.to_header()
        table = self.catalog.copy()
        table["ra"], table["dec"] = table["sky_coord"].ra, table["sky_coord"].dec
        table.remove_column("sky_coord")
        table = fits.table_to_hdu(table)
        table.name = "TRUTH"
        planes = [
            fits.ImageHDU(self.image.data.astype(np.float32), header, name="SCI"),
            fits.ImageHDU(self.image.uncertainty.array.astype(np.float32), header, name="ERR"),
            fits.ImageHDU(self.image.mask.astype(np.uint8), flags, name="MASK"),
            fits.ImageHDU(self.psf.astype(np.float64), name="PSF"),
        ]
        write_fits(fits.HDUList([fits.PrimaryHDU(), *planes, table]), path, overwrite=overwrite)

    @functools.cached_property
    def _sigma(self):
        return float(np.median(self.image.uncertainty.array))

    def _pixels(self, positions):
        if isinstance(positions, SkyCoord):
            return np.column_stack(self.image.wcs.world_to_pixel(positions)).reshape(-1, 2)
        return np.asarray(positions, dtype=float).reshape(-1, 2)

    def _truth(self, xy, corners, shape, radius):
        rows = self.match(xy, radius=radius)
        is_galaxy = np.asarray(self.catalog["kind"] == "galaxy")
        rows[~is_galaxy[rows]] = -1
        everything = _cut(self.model, corners, shape)
        galaxy = np.full_like(everything, np.nan)
        for i in np.flatnonzero(rows >= 0):
            galaxy[i] = self.render(rows[i], *corners[i], shape).value
        unit = self.image.unit
        los = everything - galaxy
        return TruthCutouts(galaxy[:, None] << unit, los[:, None] << unit, rows >= 0, rows)


def simulate_field(
    shape=(1536, 1536),
    *,
    seed,
    pixel_scale=0.34 * u.arcsec,
    fwhm=2.4,
    beta=3.5,
    noise=0.0163 * u.uJy,
    effective_gain=None,
    galaxy_density=12.0 / u.arcmin**2,
    galaxy_slope=0.37,
    galaxy_magnitudes=(17.0, 27.0),
    star_density=0.5 / u.arcmin**2,
    star_slope=0.10,
    star_magnitudes=(15.5, 26.0),
    saturation=60.0 * u.uJy,
    n_bad_columns=2,
    center=None,
):
    r"""Simulate a ground-based survey image.

    The defaults are those of a wide ground-based survey in the *r* band: a point source of
    magnitude 25 is a five-sigma detection, and galaxies go on for two magnitudes below that, so
    that faint light lies on every line of sight.

    Galaxies have :math:`dN/dm \propto 10^{s m}`, half-light radii that fall with magnitude (0.45
    arcsec at magnitude 23, 0.10 dex per magnitude, a scatter of 0.2 dex), and are discs (80 %;
    Sérsic index about 1; inclined at random, with a thickness of 0.2) or spheroids (index about 4;
    axis ratios from 0.5 to 1). Positions are random and independent. Pixels above the saturation
    level are clipped and masked, and so are some dead columns, set to zero.

    Parameters
    ----------
    shape : tuple of int
        ``(ny, nx)``.
    seed : int
        Repeats the field.
    pixel_scale : Quantity
        Angle per pixel.
    fwhm, beta : float
        The Moffat PSF: full width at half maximum in pixels, and exponent.
    noise : Quantity
        Standard deviation of the Gaussian noise of every pixel, that of the background.
    effective_gain : Quantity, optional
        Electrons for each unit of flux. The objects' own photons then have Poisson noise, on top of
        the background's; by default they have none.
    galaxy_density, star_density : Quantity
        Objects per solid angle and magnitude, galaxies at magnitude 24 and stars at magnitude 20.
    galaxy_slope, star_slope : float
        *s* above.
    galaxy_magnitudes, star_magnitudes : tuple of float
        Brightest and faintest AB magnitude.
    saturation : Quantity
        Flux in one pixel above which it is clipped and masked.
    n_bad_columns : int
        Number of dead columns.
    center : SkyCoord, optional
        Of the field; by default RA 180, Dec 0 degrees.

    Returns
    -------
    SimulatedField

    Raises
    ------
    InputError
        If an argument is no possible field.

    Examples
    --------
    >>> from astro_ddprism.simulate import simulate_field
    >>> field = simulate_field((128, 128), seed=1)
    >>> field.image.unit, field.image.shape, field.psf.shape
    (Unit("uJy"), (128, 128), (25, 25))
    """
    ny, nx = (int(s) for s in shape)
    if min(ny, nx) < 1:
        raise InputError(f"shape: {shape}, expected two positive integers")
    sigma = u.Quantity(noise).to_value(u.uJy, AB_FLUX)
    if not sigma > 0:
        raise InputError(f"noise: {noise}, expected a positive flux")
    if effective_gain is not None:
        effective_gain = _checked_gain(effective_gain)
    pixel_scale = u.Quantity(pixel_scale).to(u.arcsec)
    center = SkyCoord(180 * u.deg, 0 * u.deg) if center is None else center
    rng = np.random.default_rng(seed)
    renderer = MoffatRenderer(fwhm, beta)
    margin = 24  # pixels beyond the edges: the light of objects there reaches in
    area = (ny + 2 * margin) * (nx + 2 * margin) * pixel_scale**2

    galaxies = _draw_galaxies(
        rng, _magnitudes(rng, area, galaxy_density, 24.0, galaxy_slope, galaxy_magnitudes)
    )
    stars = _magnitudes(rng, area, star_density, 20.0, star_slope, star_magnitudes)
    catalog = _catalog(rng, galaxies, stars, (ny, nx), margin)

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = center.icrs.ra.deg, center.icrs.dec.deg
    wcs.wcs.crpix = (nx + 1) / 2, (ny + 1) / 2
    wcs.wcs.cdelt = -pixel_scale.to_value(u.deg), pixel_scale.to_value(u.deg)
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    catalog.add_column(wcs.pixel_to_world(catalog["x"], catalog["y"]), name="sky_coord", index=4)

    model = _render(
        renderer, catalog, np.arange(len(catalog)), pixel_scale, sigma, (0, 0), (ny, nx)
    )
    # Counts, not their Gaussian approximation: a simulation need not share it.
    light = model if effective_gain is None else _counted(rng, model, effective_gain.value)
    data = light + sigma * rng.standard_normal((ny, nx))
    saturation = u.Quantity(saturation).to_value(u.uJy, AB_FLUX)
    mask, data = data > saturation, np.minimum(data, saturation)
    columns = rng.choice(nx, size=min(n_bad_columns, nx), replace=False)
    mask[:, columns] = True
    data[:, columns] = 0.0
    image = CCDData(
        data.astype(np.float32),
        uncertainty=StdDevUncertainty(np.full((ny, nx), sigma, dtype=np.float32)),
        mask=mask,
        wcs=wcs,
        unit=u.uJy,
    )
    psf = renderer.stamp(0, 0, size=64)[0][20:45, 20:45]
    return SimulatedField(
        image, catalog, psf / psf.sum(), model, renderer, pixel_scale, effective_gain
    )


def _checked_gain(gain):
    """Electrons per microjansky: a positive Quantity."""
    try:
        value = u.Quantity(gain).to(u.electron / u.uJy, AB_FLUX)
    except u.UnitConversionError:
        value = None
    if value is None or not value.isscalar or not 0 < value.value < np.inf:
        raise InputError(f"effective_gain: {gain}, expected a positive number of electron / uJy")
    return value


def _counted(rng, model, gain):
    """Light whose photons are counted."""
    return rng.poisson(gain * model.clip(min=0)) / gain


def _magnitudes(rng, area, density, pivot, slope, limits):
    """Magnitudes of a Poisson number of objects with dN/dm = density 10^(slope (m - pivot))."""
    bright, faint = limits
    if not (bright < faint and slope > 0):
        raise InputError(f"magnitudes {limits}, slope {slope}: expected (bright, faint), slope > 0")
    rate = slope * np.log(10)
    low, high = np.exp(rate * (bright - pivot)), np.exp(rate * (faint - pivot))
    number = rng.poisson((area * density).to_value(u.one) * (high - low) / rate)
    return pivot + np.log(rng.uniform(low, high, number)) / rate


def _draw_galaxies(rng, magnitude):
    """Sizes and shapes for galaxies of these magnitudes."""
    number = len(magnitude)
    spheroid = rng.random(number) < 0.2
    n = np.where(spheroid, 4.0, 1.0) * 10 ** (0.08 * rng.standard_normal(number))
    cos_inclination = rng.random(number)
    disc = np.sqrt(0.2**2 + (1 - 0.2**2) * cos_inclination**2)
    log_radius = -0.35 - 0.10 * (magnitude - 23.0) + 0.2 * rng.standard_normal(number)
    return {
        "magnitude": magnitude,
        "half_light_radius": 10**log_radius,
        # Tenths: few enough profiles that each is transformed once.
        "sersic_index": np.clip(np.round(n, 1), 0.6, 6.0),
        "axis_ratio": np.where(spheroid, rng.uniform(0.5, 1.0, number), disc),
        "position_angle": rng.uniform(0.0, 180.0, number),
    }


def _catalog(rng, galaxies, stars, shape, margin):
    """The truth table, brightest object first."""
    blank = np.zeros_like(stars)
    columns = {"half_light_radius": blank, "sersic_index": blank, "axis_ratio": blank + 1,
               "position_angle": blank, "magnitude": stars}  # fmt: skip
    columns = {name: np.concatenate([galaxies[name], columns[name]]) for name in galaxies}
    number = len(columns["magnitude"])
    kind = np.array(["galaxy"] * len(galaxies["magnitude"]) + ["star"] * len(stars), dtype="U6")
    order = np.argsort(columns["magnitude"])
    columns = {name: values[order] for name, values in columns.items()}
    x = rng.uniform(-margin - 0.5, shape[1] + margin - 0.5, number)
    y = rng.uniform(-margin - 0.5, shape[0] + margin - 0.5, number)
    return QTable(
        {
            "id": np.arange(1, number + 1),
            "kind": kind[order],
            "x": x,
            "y": y,
            "flux": (columns["magnitude"] * u.ABmag).to(u.uJy),
            "magnitude": columns["magnitude"] * u.mag,
            "half_light_radius": columns["half_light_radius"] * u.arcsec,
            "sersic_index": columns["sersic_index"],
            "axis_ratio": columns["axis_ratio"],
            "position_angle": columns["position_angle"] * u.deg,
        }
    )


def _render(renderer, catalog, rows, pixel_scale, sigma, corner, shape):
    """Sum of objects on ``shape`` pixels from ``corner`` on, in the catalog's flux unit."""
    image = np.zeros(shape)
    x, y = np.asarray(catalog["x"])[rows], np.asarray(catalog["y"])[rows]
    flux = catalog["flux"].value[rows]
    radius = (catalog["half_light_radius"][rows] / pixel_scale).to_value(u.one)
    n = np.asarray(catalog["sersic_index"])[rows]
    axis_ratio = np.asarray(catalog["axis_ratio"])[rows]
    # North is up and east to the left: a position angle of 0 is +y, one of 90 degrees is -x.
    theta = np.pi / 2 + catalog["position_angle"].to_value(u.rad)[rows]
    # A fiftieth of the noise: no pixel of an object's faint end is worth a larger stamp.
    size = renderer.stamp_size(0.02 * sigma / flux, radius, np.where(radius > 0, n, 1.0))
    for i in range(len(rows)):
        stamp, (x0, y0) = renderer.stamp(
            x[i], y[i], size=int(size[i]), radius=radius[i], n=n[i], axis_ratio=axis_ratio[i],
            theta=theta[i],
        )  # fmt: skip
        here, there = _overlap((y0 - corner[1], x0 - corner[0]), stamp.shape, shape)
        image[here] += flux[i] * stamp[there]
    return image


def _overlap(corner, size, shape):
    """Slices of an image of ``shape`` and of a patch at ``corner`` in it where the two overlap."""
    here, there = [], []
    for start, length, limit in zip(corner, size, shape, strict=True):
        low, high = min(max(start, 0), limit), max(min(start + length, limit), 0)
        here.append(slice(low, max(low, high)))
        there.append(slice(low - start, max(low, high) - start))
    return tuple(here), tuple(there)


def _cut(image, corners, shape):
    """Cutouts at ``corners`` (x, y); NaN outside the image."""
    cutouts = np.full((len(corners), *shape), np.nan)
    for cutout, (x0, y0) in zip(cutouts, corners, strict=True):
        here, there = _overlap((y0, x0), shape, image.shape)
        cutout[there] = image[here]
    return cutouts
