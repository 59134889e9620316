"""Galaxies and stars drawn at random, and the survey field that they make."""

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import QTable
from astropy.wcs import WCS

from ..errors import InputError
from ..units import AB_FLUX
from .field import SimulatedField
from .profiles import MoffatRenderer
from .render import render

__all__ = ["simulate_field"]


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
    >>> from astro_ddprism.simulate.population import simulate_field
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

    model = render(renderer, catalog, np.arange(len(catalog)), pixel_scale, sigma, (0, 0), (ny, nx))
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
