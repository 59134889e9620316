r"""Galaxies of known flux in a real survey field: separated fluxes and their errors.

Galaxies are drawn into the last rows of a survey image (`benchmarks.injection.scene`), half of them
next to detected objects, and measured at their known positions by several methods: a fixed
aperture, photutils, SEP, scarlet2 (`benchmarks.injection.peers`), and by this package with a given
model, which should not have seen these rows (`benchmarks.injection.separation`). The same images
for all of them. `benchmarks.injection.figures` tells what is reported.

    python -m benchmarks.injection --model MODEL.asdf --out benchmarks/results/injection.json \
        --scarlet2-python PYTHON --peers-out peers.npz --docs docs

The peers do not depend on the model: ``--peers-in peers.npz`` takes what ``--peers-out`` wrote for
the same galaxies, and only those are measured that are missing there. ``--no-peers`` leaves them
out. scarlet2 needs an interpreter of its own and takes seconds for each galaxy, so that it measures
``--n-scarlet2`` of each class only.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from astro_ddprism import DiffusionSourceSeparator

from ..manifolds.problems import data_folder
from ..record import write_record
from .blends import deblended_segments, worst_blends
from .cost import one_object_cost
from .figures import calibration, classes_of, conservation, coverage_rows, report, summarise
from .peers import PeerResults, fit_by_scarlet2, measure_by_peers, measure_by_scarlet2, peaks_of
from .pictures import draw_blends, draw_calibration, draw_errors, draw_injected
from .scene import SceneSettings, make_scene
from .separation import measure_by_separation, offsets, separate

__all__ = ["main"]

N_QUICK = 60
N_BLENDS = 10


def parse(argv):
    """Read the command line."""
    data = data_folder().parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="of this package; without it, peers alone")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for the pictures")
    parser.add_argument("--tile", type=Path, default=data / "kids_viking" / "r.fits.fz")
    parser.add_argument("--zero-point", type=float, help="of the tile, if it is not in maggies")
    parser.add_argument("--stars", type=Path, help="tile of the same pixels that tells its stars")
    parser.add_argument("--cosmos", type=Path, default=data / "cosmos")
    parser.add_argument("--n", type=int, default=SceneSettings.n, help="number of galaxies")
    first_row = SceneSettings.first_row
    parser.add_argument("--first-row", type=int, default=first_row, help="that holds galaxies")
    parser.add_argument("--quick", action="store_true", help=f"{N_QUICK} galaxies, in one image")
    # 39 are the fewest whose central 95 % interval is known.
    parser.add_argument("--samples", type=int, default=40, help="posterior samples of each")
    parser.add_argument("--effective-gain", type=float, help="electrons per unit of flux")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    peers = parser.add_argument_group("peers")
    peers.add_argument("--no-peers", action="store_true")
    peers.add_argument("--peers-in", type=Path, help="of an earlier run with the same galaxies")
    peers.add_argument("--peers-out", type=Path, help="where to keep what the peers say")
    peers.add_argument("--scarlet2-python", type=Path, help="interpreter that has scarlet2")
    peers.add_argument("--n-scarlet2", type=int, default=60, help="galaxies of each class")
    return parser.parse_args(argv)


def ask_peers(scene, args):
    """What the peers say of the galaxies, and of the field's own blends."""
    if args.no_peers:
        return PeerResults()
    fingerprint = scene.fingerprint()
    results = PeerResults()
    if args.peers_in is not None:
        results = PeerResults.read(args.peers_in, fingerprint)
    if not results.measurements:
        results.add(*measure_by_peers(scene))
        xy, degree = worst_blends(scene, N_BLENDS)
        results.images |= {"xy": xy, "degree": degree}
        results.images["photutils segment"] = deblended_segments(scene, xy)
        keep(results, args, fingerprint)
    if "scarlet2" not in results.measurements:
        if args.scarlet2_python is None:
            print("scarlet2 is left out: no --scarlet2-python")
        else:
            ask_scarlet2(scene, results, args)
    keep(results, args, fingerprint)
    return results


def keep(results, args, fingerprint):
    """Write what the peers say, where that is asked for."""
    if args.peers_out is not None:
        results.write(args.peers_out, fingerprint)


def ask_scarlet2(scene, results, args):
    """Add scarlet2's measurement of some galaxies, and its models of the field's own blends."""
    asked = np.zeros(len(scene.catalog), dtype=bool)
    for members in classes_of(scene.catalog).values():
        asked[np.flatnonzero(members)[: args.n_scarlet2]] = True
    python, xy = args.scarlet2_python, results.images["xy"]
    peaks = peaks_of(scene.image, scene.settings.first_row)
    _, models, _ = fit_by_scarlet2(python, scene.image, scene.psf, xy, peaks)
    edge = (models.shape[-1] - scene.settings.size) // 2
    results.images["scarlet2"] = models[:, edge:-edge, edge:-edge]
    keep(results, args, scene.fingerprint())
    results.add(measure_by_scarlet2(scene, python, asked))


def draw(folder, scene, ours, methods, figures, separator, peers, args):
    """Draw the pictures of the documentation's page."""
    draw_errors(folder / "injection_errors.png", methods, scene)
    if ours is None:
        return
    draw_calibration(
        folder / "injection_calibration.png", figures["calibration"], figures["methods"][0]
    )
    draw_injected(folder / "injection_injected.png", ours, scene)
    if "xy" not in peers.images:
        return
    xy = peers.images["xy"]
    view = scene.view_at(scene.image, *xy.T)
    aperture = scene.settings.aperture
    separated = separate(separator, view, offsets(*xy.T), args.samples, args.seed, aperture)
    models = {
        name: peers.images[name]
        for name in ("scarlet2", "photutils segment")
        if name in peers.images
    }
    labels = [f"{100 * degree:.0f} %" for degree in peers.images["degree"]]
    draw_blends(folder / "injection_blends.png", separated, models, labels, scene)


def main(argv=None):
    """Run the study."""
    started, args = time.perf_counter(), parse(argv)
    n = min(args.n, N_QUICK) if args.quick else args.n
    settings = SceneSettings(
        n=n, first_row=args.first_row, gain=args.effective_gain, seed=args.seed
    )
    scene = make_scene(
        args.tile, args.cosmos, settings, zero_point=args.zero_point, stars=args.stars
    )
    ours, separator, device, figures = None, None, "cpu", {}
    if args.model is not None:
        separator = DiffusionSourceSeparator.read(args.model, device=args.device)
        device = separator.device_
        ours = measure_by_separation(scene, separator, args.samples, seed=args.seed)
        figures |= {"calibration": calibration(ours, scene), "conservation": [conservation(ours)]}
        view = scene.view_of(0)
        if view.sources in separator.posterior_:
            figures["one_object"] = [one_object_cost(separator, view)]
    peers = ask_peers(scene, args)
    methods = [*([] if ours is None else [ours]), *peers.measurements.values()]
    figures["methods"] = [summarise(method, scene) for method in methods]
    if ours is not None:
        figures["coverage"] = coverage_rows(figures["calibration"])
    for line in report(figures):
        print(line)
    if args.out is not None:
        configuration = {**asdict(settings), "gain": scene.gain, "samples": args.samples}
        write_record(
            args.out,
            study="injection",
            configuration={
                **configuration,
                "tile": args.tile.name,
                "model": None if args.model is None else args.model.name,
            },
            figures=figures,
            device=device,
            started=started,
        )
    if args.docs is not None:
        folder = args.docs / "_static"
        draw(folder, scene, ours, methods, figures, separator, peers, args)
