"""Total fluxes of sources of known flux in a real survey field, point-like and extended.

    python -m benchmarks.totals --model kids-r --out benchmarks/results/totals.json

Point sources, and galaxies with parametric fits of HST's COSMOS survey, are drawn into the last
rows of the field as `benchmarks.injection.scene` does, through the PSF that the field's own stars
have; those count into whose apertures detected objects bring less than a hundredth. Their total is
what a catalog calls so, the flux of the whole cutout, posterior mean; the truth is what was drawn
into the cutout. Fluxes in apertures tell where light is missing or too much. What remains of the
field, faint and undetected, is in the scatter.
"""

import argparse
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import galsim
import numpy as np

from astro_ddprism import DiffusionSourceSeparator
from astro_ddprism.posterior.apertures import aperture_flux

from ..injection.figures import ISOLATED
from ..injection.galaxies import GalaxyCatalog
from ..injection.scene import SceneSettings, make_scene
from ..injection.separation import offsets
from ..manifolds.problems import data_folder
from ..record import write_record

__all__ = ["PointSources", "main", "measure", "summarise"]

EDGES = (19.0, 20.0, 21.0, 22.0, 23.0)  # magnitudes
APERTURES = (3.0, 6.0, 10.0)  # pixels
APART = (14.0, 24.0)  # pixels from a detected object
N_FULL, N_QUICK = 160, 16  # of each kind


class PointSources(GalaxyCatalog):
    """Point sources in the place of galaxies."""

    def choose(self, rng):  # noqa: ARG002
        """A point source, of no row."""
        return -1, galsim.DeltaFunction()


def measure(separator, scene, n_samples, seed=0):
    """Fluxes of all sources of a scene, over the true ones.

    Parameters
    ----------
    separator : DiffusionSourceSeparator
        With its priors learned.
    scene : Scene
        The sources in their images.
    n_samples, seed : int
        Posterior samples of each, and their seed.

    Returns
    -------
    ratios : dict of str to ndarray, shape (N,)
        Under ``"total"`` and the radii of `APERTURES`: posterior means over the truth.
    """
    ratios = {name: np.empty(len(scene.catalog)) for name in ("total", *map(str, APERTURES))}
    middle = scene.settings.size // 2
    for k in range(scene.n_passes):
        rows = scene.rows(k)
        samples = separator.sample(scene.view_of(k), n_samples=n_samples, seed=seed + k)
        mean = samples.mean["galaxy"].value.astype(float)
        truth = scene.truth[rows][:, np.newaxis]
        scale = samples.view.unit.to(scene.image.unit)
        ratios["total"][rows] = scale * mean.sum(axis=(1, 2, 3)) / truth.sum(axis=(1, 2, 3))
        places = middle + offsets(scene.catalog["x"][rows], scene.catalog["y"][rows])
        for radius in APERTURES:
            found, known = (aperture_flux(x, radius, places)[:, 0] for x in (scale * mean, truth))
            ratios[str(radius)][rows] = found / known
    return ratios


def summarise(kind, scene, ratios):
    """Figures of one kind of sources: a dict for each range of magnitudes, the whole first.

    Parameters
    ----------
    kind : str
        Its name.
    scene : Scene
        Where they are.
    ratios : dict of str to ndarray, shape (N,)
        As of `measure`.

    Returns
    -------
    rows : list of dict
        ``kind``, ``magnitude``, ``n``; ``bias``, the median of the total over the truth, minus 1,
        and its ``bias_error``; ``scatter`` (1.48 times the median absolute deviation); and the
        ``bias_RADIUS`` in the apertures.
    """
    magnitude, rows = np.asarray(scene.catalog["magnitude"]), []
    alone = np.asarray(scene.catalog["neighbours"]) < ISOLATED
    for low, high in ((EDGES[0], EDGES[-1]), *pairwise(EDGES)):
        chosen = (magnitude >= low) & (magnitude < high) & alone
        if not chosen.any():
            continue
        total = ratios["total"][chosen] - 1
        bias, n = np.median(total), int(chosen.sum())
        scatter = 1.4826 * np.median(np.abs(total - bias))
        rows.append(
            {
                "kind": kind,
                "magnitude": f"{low:g} to {high:g}",
                "n": n,
                "bias": float(bias),
                "bias_error": float(1.2533 * scatter / np.sqrt(n)),
                "scatter": float(scatter),
                **{f"bias_{r:g}": float(np.median(ratios[str(r)][chosen]) - 1) for r in APERTURES},
            }
        )
    return rows


def main(argv=None):
    """Run the study."""
    started, data = time.perf_counter(), data_folder().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="kids-r", help="name or file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--tile", type=Path, default=data / "kids_viking" / "r.fits.fz")
    parser.add_argument("--cosmos", type=Path, default=data / "cosmos")
    parser.add_argument("--n", type=int, default=N_FULL, help="sources of each kind")
    parser.add_argument("--samples", type=int, default=16, help="posterior samples of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help=f"{N_QUICK} of each, 4 samples")
    args = parser.parse_args(argv)
    n, n_samples = (N_QUICK, 4) if args.quick else (args.n, args.samples)
    separator = DiffusionSourceSeparator.read(args.model, device=args.device)
    settings = SceneSettings(n=n, magnitudes=(EDGES[0], EDGES[-1]), near=APART, seed=args.seed)
    figures = []
    for kind, catalog in (("point sources", PointSources), ("galaxies", GalaxyCatalog)):
        scene = make_scene(args.tile, args.cosmos, settings, catalog=catalog)
        figures += summarise(kind, scene, measure(separator, scene, n_samples, args.seed))
    for row in figures:
        print(", ".join(f"{k} {v if isinstance(v, str) else f'{v:.3g}'}" for k, v in row.items()))
    write_record(
        args.out,
        study="totals",
        configuration={**asdict(settings), "samples": n_samples, "model": Path(args.model).name},
        figures={"rows": figures},
        device=separator.device_,
        started=started,
    )
