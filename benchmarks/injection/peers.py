"""Fluxes of galaxies at known positions by other methods, at their best reasonable settings.

``aperture``
    Everything in a circle around the true position.
``photutils, Kron`` and ``photutils, segment``
    Objects detected and deblended on the whole image; the one nearest to the true position, within
    3 pixels. Of it the flux in a Kron aperture, pixels of other segments replaced by those opposite
    (``SourceCatalog`` with its defaults), and the flux of its own segment.
``SEP``
    Likewise, detected and deblended by SEP; the flux in an ellipse of 2.5 Kron radii, pixels of
    other segments left out and the ellipse's area corrected for them.
``scarlet2``
    A joint fit of cutouts of 64 × 64 pixels, with a source at the true position and at every other
    peak that SEP found (`benchmarks.injection.run_scarlet2`), on some of the galaxies.

The two detections share what matters: 1.5 times the noise above the sky after smoothing, 5 pixels,
and deblending with 32 levels and a contrast of 0.001, which splits more than the default of 0.005
does.
"""

__all__ = [
    "PeerResults",
    "fit_by_scarlet2",
    "measure_by_peers",
    "measure_by_scarlet2",
    "peaks_of",
    "segment_of",
]

import json
import subprocess
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sep
from astropy.utils.exceptions import AstropyUserWarning
from photutils.aperture import CircularAperture, aperture_photometry
from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources
from scipy.spatial import cKDTree

from astro_ddprism.progress import photutils_bar
from astro_ddprism.survey.noise import smooth

from .scene import Measurement

THRESHOLD, N_PIXELS, LEVELS, CONTRAST = 1.5, 5, 32, 0.001
FWHM = 2.5  # pixels: of the smoothing
KRON = 2.5
MATCH = 3.0  # pixels
BOX = 64  # pixels: side of scarlet2's cutouts
MARGIN = 100  # rows that are detected on beside those with galaxies


@dataclass
class PeerResults:
    """What the peers say.

    Parameters
    ----------
    measurements : dict of str to Measurement
        Of the galaxies of a scene, by name.
    images : dict of str to ndarray
        Models by peers that pictures show, and what else belongs to these.
    """

    measurements: dict = field(default_factory=dict)
    images: dict = field(default_factory=dict)

    def add(self, *measurements):
        """Add measurements."""
        self.measurements |= {one.name: one for one in measurements}

    def write(self, path, fingerprint):
        """Write an ``.npz`` file.

        Parameters
        ----------
        path : path-like
            The file.
        fingerprint : dict
            Of the scene that was measured.
        """
        arrays = {f"image/{name}": image for name, image in self.images.items()}
        for name, one in self.measurements.items():
            arrays |= {
                f"flux/{name}": one.flux,
                f"time/{name}": one.time_per_object,
                f"asked/{name}": one.asked,
            }
        np.savez_compressed(path, fingerprint=json.dumps(fingerprint), **arrays)

    @classmethod
    def read(cls, path, fingerprint):
        """Read what `write` wrote.

        Parameters
        ----------
        path : path-like
            The file.
        fingerprint : dict
            Of the scene at hand.

        Raises
        ------
        ValueError
            If the file is of another scene.
        """
        result = cls()
        with np.load(path) as file:
            found = json.loads(str(file["fingerprint"]))
            _check_same(found, json.loads(json.dumps(fingerprint)), path)
            for key in file.files:
                kind, _, name = key.partition("/")
                if kind == "image":
                    result.images[name] = file[key]
                if kind == "flux":
                    time_per_object, asked = file[f"time/{name}"], file[f"asked/{name}"]
                    result.add(Measurement(name, file[key], time_per_object, asked))
        return result


def _check_same(found, expected, path):
    for key in expected.keys() | found.keys():
        a, b = found.get(key), expected.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            _check_same(a, b, path)
        elif isinstance(a, float) and isinstance(b, float):
            if not np.isclose(a, b, rtol=1e-6):
                raise ValueError(f"{path}: found {key} = {a}, expected {b}: another scene")
        elif a != b:
            raise ValueError(f"{path}: found {key} = {a}, expected {b}: another scene")


class Strip:
    """The rows of an image that are detected on, in units of the noise.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    first_row : int
        The first of these rows.
    """

    def __init__(self, image, first_row):
        self.first = max(first_row - MARGIN, 0)
        self.mask = image.mask[0, self.first :]
        variance = np.where(self.mask, 1.0, image.variance[0, self.first :])
        self.scale = float(np.sqrt(np.median(image.variance[~image.mask])))
        data = np.where(self.mask, 0, image.data[0, self.first :])
        self.data = np.ascontiguousarray(data, dtype=float) / self.scale
        self.error = np.sqrt(variance) / self.scale

    def local(self, x, y):
        """Positions (x, y) in these rows, ndarray (N, 2)."""
        return np.column_stack([x, np.asarray(y) - self.first])


def measure_by_peers(scene):
    """Measure all galaxies of a scene by the methods of this environment.

    Parameters
    ----------
    scene : Scene
        The galaxies in their images.

    Returns
    -------
    measurements : list of Measurement
    """
    n = len(scene.catalog)
    fluxes, totals, counts = {}, {}, {}
    for k in range(scene.n_passes):
        rows = scene.rows(k)
        strip = Strip(scene.image_of(k), scene.settings.first_row)
        xy = strip.local(scene.catalog["x"][rows], scene.catalog["y"][rows])
        for method in (_by_aperture, _by_photutils, _by_sep):
            started = time.process_time()
            found, n_objects = method(strip, xy, scene.settings.aperture)
            seconds = time.process_time() - started
            for name, flux in found.items():
                fluxes.setdefault(name, np.full(n, np.nan))[rows] = flux * strip.scale
                totals[name] = totals.get(name, 0) + seconds
                counts[name] = counts.get(name, 0) + n_objects
    return [Measurement(name, flux, totals[name] / counts[name]) for name, flux in fluxes.items()]


def _by_aperture(strip, xy, radius):
    """Fluxes by the names of the methods, and how many objects took the time; so the others."""
    table = aperture_photometry(strip.data, CircularAperture(xy, radius), mask=strip.mask)
    return {"aperture": np.array(table["aperture_sum"])}, len(xy)


def _photutils_segments(strip):
    smoothed = smooth(strip.data, ~strip.mask, FWHM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # of deblending
        segments = detect_sources(smoothed, THRESHOLD * strip.error, N_PIXELS, mask=strip.mask)
        segments = deblend_sources(
            smoothed, segments, N_PIXELS, n_levels=LEVELS, contrast=CONTRAST, **photutils_bar(False)
        )
    return smoothed, segments


def _by_photutils(strip, xy, _):
    smoothed, segments = _photutils_segments(strip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # of objects at the edge
        catalog = SourceCatalog(
            strip.data, segments, convolved_data=smoothed, error=strip.error, mask=strip.mask
        )
        fluxes = {"Kron": catalog.kron_flux, "segment": catalog.segment_flux}
        centroids = np.column_stack([catalog.x_centroid, catalog.y_centroid])
    matched = nearest(centroids, xy, MATCH)
    flux = {f"photutils, {name}": taken(f, matched) for name, f in fluxes.items()}
    return flux, len(centroids)


def segment_of(image, first_row, x, y):
    """The deblended segment, by photutils, that each position lies in.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    first_row : int
        Of the rows in which the positions are.
    x, y : ndarray of float, shape (N,)
        The positions.

    Returns
    -------
    labels : ndarray of int, shape (ny, nx)
        Segments of the whole image; 0 in rows that were left out.
    label : ndarray of int, shape (N,)
        That of each position; 0 where there is none.
    """
    strip = Strip(image, first_row)
    _, segments = _photutils_segments(strip)
    labels = np.zeros(image.shape[1:], dtype=int)
    labels[strip.first :] = segments.data
    return labels, labels[np.rint(y).astype(int), np.rint(x).astype(int)]


def detect_by_sep(strip):
    """Objects and segments of an image, by SEP.

    Parameters
    ----------
    strip : Strip
        The image.

    Returns
    -------
    objects : structured ndarray
        See ``sep.extract``.
    segments : ndarray of int, shape (ny, nx)
    """
    sep.set_extract_pixstack(1_000_000)
    sep.set_sub_object_limit(10_000)
    return sep.extract(
        strip.data, THRESHOLD, err=strip.error, mask=strip.mask, minarea=N_PIXELS,
        deblend_nthresh=LEVELS, deblend_cont=CONTRAST, filter_type="conv",
        segmentation_map=True,
    )  # fmt: skip


def _by_sep(strip, xy, _):
    objects, segments = detect_by_sep(strip)
    # SEP takes no other numbers in its functions of ellipses.
    theta = np.clip(objects["theta"], -np.pi / 2, np.pi / 2)
    shape = [objects[name] for name in ("x", "y", "a", "b")] + [theta]
    labels = np.arange(1, len(objects) + 1, dtype=np.int32)
    own = {"segmap": segments, "seg_id": labels, "mask": strip.mask}
    radius, _ = sep.kron_radius(strip.data, *shape, 6.0, **own)
    good = np.isfinite(radius) & (radius > 0)
    flux = np.full(len(objects), np.nan)
    shape, own["seg_id"] = [v[good] for v in shape], labels[good]
    flux[good], _, _ = sep.sum_ellipse(
        strip.data, *shape, KRON * radius[good], err=strip.error, subpix=5, **own
    )
    matched = nearest(np.column_stack([objects["x"], objects["y"]]), xy, MATCH)
    return {"SEP": taken(flux, matched)}, len(objects)


def peaks_of(image, first_row):
    """Peaks of the objects that SEP detects.

    Parameters
    ----------
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    first_row : int
        Of the rows that matter.

    Returns
    -------
    peaks : ndarray, shape (n, 2)
        Their pixels (x, y).
    """
    strip = Strip(image, first_row)
    objects, _ = detect_by_sep(strip)
    return np.column_stack([objects["xpeak"], objects["ypeak"] + strip.first]).astype(float)


def nearest(centroids, positions, radius):
    """Row of the centroid nearest to each position; -1 where none is within the radius."""
    finite = np.flatnonzero(np.isfinite(centroids).all(axis=1))
    distance, index = cKDTree(centroids[finite]).query(positions, distance_upper_bound=radius)
    return np.where(np.isfinite(distance), finite[np.minimum(index, len(finite) - 1)], -1)


def taken(values, rows):
    """Values of rows; NaN for row -1."""
    return np.where(rows >= 0, np.asarray(values, dtype=float)[rows], np.nan)


def measure_by_scarlet2(scene, python, asked):
    """Measure some of the galaxies of a scene by scarlet2.

    Parameters
    ----------
    scene : Scene
        The galaxies in their images.
    python : path
        Interpreter that has scarlet2.
    asked : ndarray of bool, shape (N,)
        Which galaxies.

    Returns
    -------
    measurement : Measurement
    """
    flux, seconds = np.full(len(scene.catalog), np.nan), []
    for k in np.unique(scene.catalog["pass"][asked]):
        image, rows = scene.image_of(k), scene.rows(k)
        rows = rows[asked[rows]]
        xy = np.column_stack([scene.catalog["x"][rows], scene.catalog["y"][rows]])
        peaks = peaks_of(image, scene.settings.first_row)
        flux[rows], _, took = fit_by_scarlet2(python, image, scene.psf, xy, peaks)
        seconds.append(took)
    return Measurement("scarlet2", flux, np.concatenate(seconds).mean(), asked)


def fit_by_scarlet2(python, image, psf, positions, peaks):
    """Fit cutouts around positions by scarlet2.

    Parameters
    ----------
    python : path
        Interpreter that has scarlet2.
    image : `~astro_ddprism.survey.SurveyImage`
        The image.
    psf : ndarray, shape (ky, kx)
        Its PSF.
    positions : ndarray, shape (K, 2)
        True positions (x, y).
    peaks : ndarray, shape (n, 2)
        Objects detected in the image. The one nearest to a true position, if it is within 3
        pixels, is the galaxy.

    Returns
    -------
    flux : ndarray, shape (K,)
        In the unit of the image; NaN where the fit failed.
    models : ndarray, shape (K, 64, 64)
        The rendered galaxies; their positions are in pixel 32.
    seconds : ndarray, shape (K,)
        Time of each.
    """
    scale = float(np.sqrt(np.median(image.variance[~image.mask])))
    data, variance, centres = [], [], []
    for x, y in positions:
        x0, y0 = int(np.rint(x)) - BOX // 2, int(np.rint(y)) - BOX // 2
        data.append(_box(image.data, x0, y0, 0) / scale)
        variance.append(_box(image.variance, x0, y0, np.inf) / scale**2)
        distance = np.hypot(*(peaks - [x, y]).T)
        own = distance.argmin() if distance.min() < MATCH else -1
        others = peaks[np.arange(len(peaks)) != own] - [x0, y0]
        others = others[((others >= 0) & (others < BOX)).all(axis=1)]
        centres.append(np.concatenate([[[y - y0, x - x0]], others[:, ::-1]]))
    table = np.full((len(centres), max(map(len, centres)), 2), np.nan)
    for row, values in zip(table, centres, strict=True):
        row[: len(values)] = values
    script = Path(__file__).with_name("run_scarlet2.py")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, data=data, variance=variance, centres=table, psf=psf)
        # Our own script, in an interpreter that the user named.
        subprocess.run([python, script, source, target], check=True)  # noqa: S603
        with np.load(target) as file:
            return file["flux"] * scale, file["model"] * scale, file["seconds"]


def _box(plane, x0, y0, outside):
    """A square of BOX pixels of the first band, and what is there beyond the image."""
    ny, nx = plane.shape[1:]
    rows, columns = (slice(max(a, 0), min(a + BOX, end)) for a, end in ((y0, ny), (x0, nx)))
    box = np.full((BOX, BOX), outside, dtype=float)
    box[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = plane[
        0, rows, columns
    ]
    return box
