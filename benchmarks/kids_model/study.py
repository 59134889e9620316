"""Train the model ``kids-r`` that comes with the package, on a real field of the KiDS survey in r.

Cuts views out of a part of the field, fits, writes the model, and a record of how: the time, the
device, the versions, the configuration, what the model was trained on and the history of the fit.
The rest of the field is for tests that the model must not have seen.

    python -m benchmarks.kids_model --out kids-r.asdf --full

A model that is shipped should be small. Its weights are stored in half precision if that is
harmless: draws with the same random numbers are then compared with those of the weights as they
are, in units of the posterior's standard deviation.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.survey import read_image

from ..injection.gain import likely_gain
from ..record import write_record

COMMON = {
    "size": 32,
    "n_random": 5200,
    # Half of the random positions lie beside detections: what separates blends must have seen many.
    "crowded_fraction": 0.5,
    "columns": None,
    "bands": ("r",),
    # Where stars are not told from galaxies: arcseconds.
    "psf_fwhm": {"Z": 1.1},
    "n_compared": 64,
    "fit": {
        "sources": ("los", "galaxy"),
        "seed": 0,
        "execution": {"precision": "bfloat16"},
    },
}
POSTERIOR = {
    "name": "amortized",
    "templates": ("galaxy",),
    "flux_factors": {"galaxy": (0.2, 4.0)},
}
TRAINING = {"held_out": 0.1}
LARGE = {"name": "unet", "channels": (48, 96), "blocks": (1, 1)}
TINY = {"name": "unet", "channels": (4, 8), "blocks": (1, 1), "embedding": 8}
# Minutes of a GPU.
FULL = COMMON | {
    "fit": COMMON["fit"]
    | {
        "network": LARGE,
        "posterior": POSTERIOR | {"network": LARGE, "n_images": 12_000_000},
        "training": TRAINING | {"n_first_images": 512_000, "n_images": 256_000, "batch_size": 512},
        "n_em_iterations": {"los": 3, "galaxy": 1},
        "chains": {"n_steps": 32},
        "execution": {"precision": "bfloat16", "batch_size": 512},
    }
}
# One model for three bands, a range of depth and of seeing, and masked pixels, in units of the
# noise of any image: it goes on from a model of one band.
WIDE_VARIETY = {
    "depth": (0.7, 1.5),
    "seeing": (2.0, 4.5),
    "masks": 0.3,
    "shapes": True,
}
WIDE = FULL | {
    "bands": ("r", "i", "Z"),
    "fit": FULL["fit"]
    | {
        "in_units_of_noise": True,
        "posterior": FULL["fit"]["posterior"] | {"n_images": 36_000_000, "variety": WIDE_VARIETY},
        "training": TRAINING | {"n_images": 256_000, "batch_size": 512, "learning_rate": 2e-3},
        "n_em_iterations": {"los": 1, "galaxy": 2},
    },
}
# The same at a size for one or two processor cores.
WIDE_REDUCED = WIDE | {
    "n_random": 1200,
    "fit": WIDE["fit"]
    | {
        "posterior": WIDE["fit"]["posterior"] | {"n_images": 360_000},
        "training": TRAINING | {"n_images": 24_000, "batch_size": 64, "learning_rate": 1e-3},
        "chains": {"n_steps": 8},
        "execution": {"precision": "auto", "batch_size": 128},
    },
}
# Of a size for two processor cores.
REDUCED = COMMON | {
    "fit": COMMON["fit"]
    | {
        "posterior": POSTERIOR | {"n_images": 1_800_000},
        "training": TRAINING | {"n_first_images": 100_000, "n_images": 40_000, "batch_size": 64},
        "n_em_iterations": 1,
    },
}
# Whether it runs, and nothing more.
QUICK = COMMON | {
    "n_random": 40,
    "columns": (0, 640),
    "n_compared": 8,
    "fit": COMMON["fit"]
    | {
        "network": TINY,
        "posterior": POSTERIOR | {"network": TINY, "n_images": 640},
        "training": TRAINING | {"n_first_images": 640, "n_images": 320},
        "n_em_iterations": 1,
        "chains": {"n_steps": 4},
        "warm_start": {"name": "gaussian", "iterations": 1, "rank": 8},
    },
}
HARMLESS = 0.05  # of the posterior's standard deviation


def data_file(band) -> Path:
    """The field in a band."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("ASTRO_DDPRISM_DATA", default))
    return folder / "kids_viking" / f"{band}.fits.fz"


def read_part(path, rows, columns=None) -> CCDData:
    """Some rows (and columns) of the first image of a file; its name tells which."""
    rows = slice(*rows)
    columns = slice(None) if columns is None else slice(*columns)
    with fits.open(path) as hdus:
        sci = hdus["SCI"]
        data, header = sci.data[rows, columns], sci.header
        wcs = WCS(header)[rows, columns]
        meta = {key: header[key] for key in ("FILTER", "MAGZERO")}
    meta["FILENAME"] = f"{Path(path).name}[{rows.start}:{rows.stop}]"
    return CCDData(data.astype(np.float32), unit=u.one, wcs=wcs, meta=meta)


def make_views(configuration, rows) -> MultiViewDataset:
    """Views of all bands, of several with the names of theirs."""
    views, several = {}, len(configuration["bands"]) > 1
    for band in configuration["bands"]:
        for name, view in views_of_band(configuration, rows, band).items():
            views[f"{name}_{band}" if several else name] = view
    return MultiViewDataset(views)


def views_of_band(configuration, rows, band) -> MultiViewDataset:
    """Views as ``ddprism cutouts --estimate-noise --saturation auto`` makes them.

    The file does not tell its gain: it is what the noise and the sky's brightness make likely.
    What is as small as a star may be a compact galaxy, and the model is to know it.
    """
    part = read_part(data_file(band), rows, configuration["columns"])
    image = read_image(part, estimate_noise=True, saturation="auto")
    return MultiViewDataset.from_image(
        part,
        effective_gain=likely_gain(image, part.meta["MAGZERO"]),
        size=configuration["size"],
        n_random=configuration["n_random"],
        crowded_fraction=configuration["crowded_fraction"],
        detection={"reject_stars": False},
        estimate_noise=True,
        saturation="auto",
        zero_point="MAGZERO",
        psf_fwhm=configuration["psf_fwhm"].get(band),
    )


def compare(model, other, view, n_samples=8):
    """How far apart draws of two models are that had the same random numbers."""
    first, second = (m.sample(view, n_samples, seed=1) for m in (model, other))
    result = {"chi2_median": float(np.median(first.chi2)),
              "chi2_median_half": float(np.median(second.chi2))}  # fmt: skip
    for source in view.sources:
        a, b = (s.samples[source].value.astype(float) for s in (first, second))
        spread = np.sqrt(np.mean(a.var(axis=0, ddof=1)))
        flux = a.sum(axis=(2, 3, 4)), b.sum(axis=(2, 3, 4))
        shift = np.abs(flux[1].mean(axis=0) - flux[0].mean(axis=0)) / flux[0].std(axis=0, ddof=1)
        result[source] = {
            "draws_rms_difference": float(np.sqrt(np.median(np.square(b - a))) / spread),
            "flux_median_shift": float(np.median(shift)),
        }
    return result


def write_small(model, path, view):
    """Write a model, in half precision if that is harmless.

    Returns
    -------
    dict
        Size of the file, number of weights, and how the precisions compare.
    """
    with tempfile.TemporaryDirectory() as folder:
        sizes, files = {}, {}
        for weights in ("float32", "float16"):
            files[weights] = Path(folder) / f"{weights}.asdf"
            model.write(files[weights], weights=weights)
            sizes[weights] = files[weights].stat().st_size
        half = DiffusionSourceSeparator.read(files["float16"], device=model.execution.device)
        comparison = compare(model, half, view)
    worst = max(comparison[source]["flux_median_shift"] for source in view.sources)
    weights = "float16" if worst < HARMLESS else "float32"
    model.write(path, overwrite=True, weights=weights)
    networks = (*model.priors_.values(), *model.posterior_.values())
    return {
        "n_weights": sum(p.numel() for n in networks for p in n.parameters()),
        "bytes": {**sizes, "written": Path(path).stat().st_size},
        "weights": weights,
        "half_precision": comparison,
    }


def main(argv=None):
    """Train the model."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model")
    parser.add_argument("--record", type=Path, help="JSON file (default: beside the model)")
    parser.add_argument("--rows", type=int, nargs=2, default=(0, 1900), metavar=("FIRST", "END"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="at full size, on a GPU")
    size.add_argument("--wide", action="store_true", help="of three bands, on a GPU")
    size.add_argument("--wide-reduced", action="store_true", help="the same on a processor")
    size.add_argument("--quick", action="store_true", help="a toy, to see whether it runs")
    parser.add_argument("--initial", help="model to start from: kids-r of those that are wide")
    parser.add_argument("--resume", action="store_true", help="go on after the last EM iteration")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    sizes = {
        "full": FULL, "wide": WIDE, "wide_reduced": WIDE_REDUCED, "quick": QUICK,
    }  # fmt: skip
    configuration = next((sizes[name] for name in sizes if getattr(args, name)), REDUCED)
    rows = args.rows if not args.quick else (args.rows[0], min(args.rows[1], args.rows[0] + 640))
    views = make_views(configuration, rows)
    made = time.perf_counter()
    model = DiffusionSourceSeparator(device=args.device, **configuration["fit"])
    checkpoint = args.out.with_name(args.out.name + ".checkpoint")
    resume = args.resume and checkpoint.exists()
    model.fit(views, initial=args.initial, checkpoint=checkpoint, resume=resume)
    fitted = time.perf_counter()
    some = views.richest[: configuration["n_compared"]]
    files = write_small(model, args.out, some)
    checkpoint.unlink(missing_ok=True)
    history = model.history_
    write_record(
        args.record or args.out.with_suffix(".json"),
        study="kids_model",
        configuration={**configuration, "rows": list(rows)},
        figures={
            "training": model.training_.state(),
            **files,
            "time_s": {"views": made - started, "fit": fitted - made},
            "em": [
                {name: _plain(row[name]) for name in history.colnames if "time" not in name}
                for row in history
            ],
        },
        device=model.device_,
        started=started,
    )


def _plain(value):
    value = getattr(value, "value", value)
    return value.item() if hasattr(value, "item") else value
