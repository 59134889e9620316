"""Galaxies of known flux and shape, drawn into a real survey image.

Every galaxy of a scene is a parametric fit to a galaxy of HST's COSMOS survey, turned by a random
angle, its flux set to a magnitude drawn evenly, seen through the PSF that was measured on the
field's own stars, with its own photon noise. Everything else in the image, its line-of-sight light,
is the sky's own. Half of the galaxies are at random positions, half next to a detected object.

Only the image's last rows are used (a model may be trained on the others). So that galaxies do not
disturb one another, they stand far apart; for many of them several *passes* over the same rows are
made, each an image of its own with other galaxies in it.
"""

__all__ = ["Measurement", "Scene", "SceneSettings", "make_scene"]

from dataclasses import asdict, dataclass, field, replace

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from photutils.segmentation import detect_sources
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from astro_ddprism.posterior.apertures import aperture_weights
from astro_ddprism.psf.kernels import kernel_fwhm
from astro_ddprism.survey import detect_objects, read_image
from astro_ddprism.survey.images import pixel_angle
from astro_ddprism.survey.noise import smooth
from astro_ddprism.units import AB_FLUX
from astro_ddprism.views.build import views_from_image
from astro_ddprism.views.view import View

from .gain import likely_gain
from .galaxies import STAMP, GalaxyCatalog, measure_psf


@dataclass(frozen=True)
class SceneSettings:
    """All that a scene depends on beside the image and the catalog of galaxies.

    Parameters
    ----------
    n : int
        Number of galaxies.
    n_per_pass : int
        Galaxies in one image.
    first_row : int
        Galaxies are in this row of the image or in later ones.
    magnitudes : tuple of float
        Range of AB magnitudes.
    near : tuple of float
        Range of distances, in pixels, of every second galaxy from a detected object.
    separation : float
        Least distance between two galaxies, in pixels.
    edge : float
        Least distance from the edge of the image, in pixels.
    saturated : float
        Least distance from masked pixels, in pixels.
    size : int
        Side of the cutouts, in pixels.
    aperture : float
        Radius of the aperture, in pixels, in which the neighbours' light is counted.
    in_cutout : float
        Least part of its flux that a galaxy has in its cutout; one that has less is replaced.
    gain : float or None
        Electrons per unit of flux; by default as the image's noise and the sky's brightness tell.
    seed : int
        Of all random numbers.
    """

    n: int = 1200
    n_per_pass: int = 200
    first_row: int = 1950
    magnitudes: tuple[float, float] = (19.0, 25.0)
    near: tuple[float, float] = (3.0, 8.0)
    separation: float = 48.0
    edge: float = 20.0
    saturated: float = 32.0
    size: int = 32
    aperture: float = 6.0
    in_cutout: float = 0.95
    gain: float | None = None
    seed: int = 0


@dataclass
class Scene:
    """A survey image with galaxies drawn into it.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image without them.
    psf : ndarray, shape (ky, kx)
        Its effective PSF, sampled at the pixels.
    catalog : `~astropy.table.QTable`
        One row per galaxy: ``pass``; ``x``, ``y``; ``magnitude``; ``flux`` (in the image's unit);
        ``flux_cutout`` and ``flux_aperture`` (what is in the cutout and in the aperture);
        ``neighbours`` (flux of the detected objects of the image in the aperture, over
        ``flux_aperture``); ``near`` (whether it was put next to an object); ``galaxy`` (row of the
        catalog of galaxies).
    truth : ndarray, shape (N, size, size)
        The galaxies alone in their cutouts, without noise.
    stamps : list of (slice, slice, ndarray)
        The galaxies with their photon noise, and where they are in the image.
    objects : `~astropy.table.QTable`
        The objects detected in the image without them.
    gain : float
        Electrons per unit of flux.
    settings : SceneSettings
    """

    image: object
    psf: np.ndarray
    catalog: QTable
    truth: np.ndarray
    stamps: list = field(repr=False)
    objects: QTable = field(repr=False)
    gain: float
    settings: SceneSettings

    @property
    def n_passes(self):
        """Number of images that it takes to show all galaxies."""
        return int(self.catalog["pass"].max()) + 1

    def rows(self, k):
        """Rows of the catalog whose galaxies are in one of the images."""
        return np.flatnonzero(self.catalog["pass"] == k)

    def image_of(self, k):
        """One of the images with galaxies in it, as `~astro_ddprism.survey.SurveyImage`."""
        data = self.image.data.copy()
        for i in self.rows(k):
            rows, columns, stamp = self.stamps[i]
            data[0, rows, columns] += stamp
        # A masked pixel stays as it is; galaxies keep away from them.
        return replace(self.image, data=data)

    def view_of(self, k) -> View:
        """Cutouts of the galaxies of one of the images, as ``ddprism cutouts --positions`` does."""
        return self.view_at(self.image_of(k), *self._pixels(k))

    def view_at(self, image, x, y) -> View:
        """Cutouts of an image at some of its pixels."""
        positions = SkyCoord(image.wcs.pixel_to_world(x, y))
        view = views_from_image(
            image,
            positions=positions,
            n_random=0,
            size=self.settings.size,
            psf_fwhm=kernel_fwhm(self.psf)[0] * pixel_angle(image),
        )
        view = view["galaxy"]
        if view.ids.tolist() != [str(i) for i in range(len(positions))]:
            raise RuntimeError(f"found {len(view)} cutouts, expected all {len(positions)}")
        return view

    def fingerprint(self) -> dict:
        """What tells this scene from any other."""
        sums = {
            name: float(np.sum(self.catalog[name])) for name in ("x", "y", "flux", "neighbours")
        }
        return {**asdict(self.settings), "gain": self.gain, "sums": sums}

    def _pixels(self, k):
        rows = self.rows(k)
        return self.catalog["x"][rows], self.catalog["y"][rows]


class Measurement:
    """What one method says of all galaxies of a scene.

    Parameters
    ----------
    name : str
        Of the method.
    flux : ndarray, shape (N,)
        NaN where the method found nothing, or was not asked.
    time_per_object : float
        In seconds: of one processor core, or of a GPU.
    asked : ndarray of bool, shape (N,), optional
        Of which galaxies the method was asked; by default of all.
    """

    def __init__(self, name, flux, time_per_object, asked=None):
        self.name, self.flux = str(name), np.asarray(flux, dtype=float)
        self.time_per_object = float(time_per_object)
        self.asked = np.ones(len(self.flux), dtype=bool) if asked is None else np.asarray(asked)


def make_scene(
    tile, cosmos, settings: SceneSettings, *, zero_point=None, stars=None, catalog=GalaxyCatalog
):
    """Draw galaxies into an image.

    Parameters
    ----------
    tile : path
        The image, without noise map or mask.
    cosmos : path
        Folder of GalSim's COSMOS catalog with its parametric fits.
    settings : SceneSettings
    zero_point : float, optional
        Of the image; without it, it is in maggies.
    stars : path, optional
        An image on the same pixels, of which the stars are taken; by default the image itself.
    catalog : type
        Of the objects that are drawn.

    Returns
    -------
    Scene
    """
    image = _read(tile, zero_point)
    objects = detect_objects(image)
    if stars is not None:
        objects["star"] = _near(objects, detect_objects(_read(stars, None)))
    pixel = pixel_angle(image).to_value("arcsec")
    fine, _ = measure_psf(image, objects)
    gain = likely_gain(image) if settings.gain is None else settings.gain
    image = replace(image, effective_gain=np.full(image.shape, gain))
    rng = np.random.default_rng(settings.seed)
    table = _place(image, objects, settings, rng)
    table["magnitude"] = rng.uniform(*settings.magnitudes, len(table))
    table["flux"] = 10 ** (-0.4 * table["magnitude"])
    galaxies = catalog(cosmos, fine, pixel)
    segments = _detected_pixels(image, settings)
    stamps, truth = [], []
    columns = {name: np.empty(len(table)) for name in
               ("flux_cutout", "flux_aperture", "neighbours", "galaxy")}  # fmt: skip
    for i, row in enumerate(table):
        drawn = galaxies.draw(
            row["flux"], row["x"], row["y"], settings.size, settings.in_cutout, rng
        )
        rows, cols = _window(row["x"], row["y"], STAMP, image.shape)
        here = drawn.stamp[rows.start - drawn.y0 : rows.stop - drawn.y0,
                           cols.start - drawn.x0 : cols.stop - drawn.x0]  # fmt: skip
        # What little is negative in a drawn galaxy has no photons.
        noisy = rng.poisson(here.clip(min=0) * gain) / gain + here.clip(max=0)
        stamps.append((rows, cols, noisy.astype(np.float32)))
        truth.append(drawn.cutout)
        weights = aperture_weights(
            [(row["x"] - cols.start, row["y"] - rows.start)], settings.aperture, here.shape
        )[0]
        found = np.where(segments[rows, cols], image.data[0, rows, cols], 0)
        columns["flux_cutout"][i] = drawn.cutout.sum()
        columns["flux_aperture"][i] = np.sum(weights * here)
        columns["neighbours"][i] = np.sum(weights * found) / columns["flux_aperture"][i]
        columns["galaxy"][i] = drawn.index
    for name, values in columns.items():
        table[name] = values
    return Scene(
        image=image,
        psf=galaxies.psf_at_pixels(),
        catalog=table,
        truth=np.array(truth),
        stamps=stamps,
        objects=objects,
        gain=float(gain),
        settings=settings,
    )


def _read(tile, zero_point):
    """An image, in maggies."""
    unit = {"unit": "mgy"} if zero_point is None else {"zero_point": zero_point}
    image = read_image(tile, estimate_noise=True, saturation="auto", **unit)
    return image.scaled((1 * image.unit).to_value(u.mgy, AB_FLUX), u.mgy)


def _near(objects, others, distance=1.5):
    """Which objects are the stars of another detection, by their pixels."""
    xy, stars = (
        np.column_stack([table["x"], table["y"]]) for table in (objects, others[others["star"]])
    )
    return cKDTree(stars).query(xy)[0] < distance


def _window(x, y, size, shape):
    """Rows and columns of the image in a square around a position."""
    x0, y0 = int(np.rint(x)) - size // 2, int(np.rint(y)) - size // 2
    ny, nx = shape[1:]
    return slice(max(y0, 0), min(y0 + size, ny)), slice(max(x0, 0), min(x0 + size, nx))


def _detected_pixels(image, settings, threshold=1.5, n_pixels=5, fwhm=2.5):
    """Which pixels belong to a detected object."""
    data, mask = image.data[0], image.mask[0]
    error = np.sqrt(np.where(mask, 1.0, image.variance[0]))
    smoothed = smooth(np.where(mask, 0, data / error), ~mask, fwhm)
    first = max(settings.first_row - STAMP, 0)
    found = np.zeros(data.shape, dtype=bool)
    segments = detect_sources(smoothed[first:], threshold, n_pixels, mask=mask[first:])
    found[first:] = segments.data > 0
    return found


def _place(image, objects, settings, rng):
    """Positions of all galaxies: pass, x, y and whether next to an object."""
    ny, nx = image.shape[1:]
    clear = distance_transform_edt(~image.mask[0]) if image.mask.any() else np.full((ny, nx), ny)
    last = np.array([nx, ny]) - 1 - settings.edge
    first = np.array([settings.edge, max(settings.first_row, settings.edge)])
    xy = np.column_stack([objects["x"], objects["y"]])
    xy = xy[~objects["saturated"] & (xy[:, 1] > first[1] - settings.near[1])]
    rows = []
    for k in range(-(-settings.n // settings.n_per_pass)):
        here = []
        wanted = min(settings.n_per_pass, settings.n - len(rows))
        for _ in range(1000 * wanted):
            if len(here) == wanted:
                break
            near = len(here) % 2 == 1
            place = rng.uniform(first, last)
            if near:
                angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*settings.near)
                place = xy[rng.integers(len(xy))] + distance * np.array(
                    [np.cos(angle), np.sin(angle)]
                )
            if (place < first).any() or (place > last).any():
                continue
            x, y = place
            if clear[int(np.rint(y)), int(np.rint(x))] < settings.saturated:
                continue
            if all(np.hypot(x - a, y - b) >= settings.separation for _, a, b, _ in here):
                here.append((k, x, y, near))
        else:
            raise RuntimeError(f"found room for {len(here)} galaxies, expected {wanted} in a pass")
        rows += here
    names = ("pass", "x", "y", "near")
    return QTable(dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True)))
