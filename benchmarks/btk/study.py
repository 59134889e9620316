"""Blends that the Blending ToolKit draws, deblended by its SEP and by this package.

    python -m benchmarks.btk --btk-python PYTHON --model kids-r --out btk.json --docs docs

The toolkit (BTK, Mendoza et al. 2025) draws galaxies of HST's COSMOS survey, two to four close
together, as a survey like KiDS shows them in r; runs its deblenders, among them one of this
package in its interface (`benchmarks.btk.deblender`); matches what they find with the truth; and
computes its metrics. It asks for astropy before 7 and so needs an interpreter of its own:

    python -m venv btk && btk/bin/pip install blending-toolkit==1.0.9 "numpy<2.3"

``SepSingleBand``
    The toolkit's deblender: objects are SEP's, their images what lies in their segments.
``SeparatorDeblender``
    The objects that SEP found, separated by a model.
``SeparatorDeblender, all``
    All galaxies at their true positions, likewise: what is lost above by detection.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ..manifolds.problems import data_folder
from ..record import write_record
from .pictures import draw_blends

__all__ = ["main", "summarise"]

# As KiDS in r: a gain of 2.4e13 electrons a maggie in 1,800 s, under the dark sky; the Moffat
# profile that fits the effective PSF of the field's stars, of which this package says 0.90 arcsec.
SETTINGS = {
    "pixel_scale": 0.339,
    "moffat": (0.764, 1.94),
    "psf_fwhm": 0.90,
    "zero_point": 25.31,
    "sky_brightness": 21.0,
    "exposure": 1800,
    "stamp": 24.0,
    "n_sources": (2, 4),
    "max_shift": 4.0,
    "faintest": 23.5,
    "threshold": 1.5,
    "aperture": 6.0,
    "max_n_detected": 20,
    "n_samples": 8,
    "seed": 0,
}
FULL = SETTINGS | {"batch_size": 60, "n_batches": 1}
QUICK = SETTINGS | {"batch_size": 10, "n_batches": 1, "n_samples": 2}
# By the toolkit's blendedness: 1 - S_kk / S_k of the images' products.
CLASSES = {"all": (0, 1), "under 0.05": (0, 0.05), "0.05 to 0.3": (0.05, 0.3), "over 0.3": (0.3, 1)}


def summarise(arrays, name):
    """The figures of one deblender.

    Parameters
    ----------
    arrays : dict of str to ndarray
        What `benchmarks.btk.run_btk` wrote.
    name : str
        Of the deblender.

    Returns
    -------
    figures : dict
        ``name``, the toolkit's ``precision`` and ``recall`` and, in the list ``classes``, by
        blendedness: galaxies that were matched, and of them the median relative error of the flux
        in the aperture, its scatter (1.48 times the median absolute deviation), the part that is
        off by over 20 %, the means of the toolkit's PSNR, SSIM, IoU and the median of its MSE
        (which is a root), and the median size of the error of the ellipticity.
    """
    own = {key: arrays[f"{name}/{key}"] for key in
           ("matched", "flux", "psnr", "ssim", "iou", "mse", "shape")}  # fmt: skip
    rows = []
    for label, (low, high) in CLASSES.items():
        asked = (arrays["blendedness"] >= low) & (arrays["blendedness"] < high)
        members = asked & own["matched"]
        if not members.any():
            continue
        error = own["flux"][members]
        bias = np.median(error)
        shape = np.hypot(*own["shape"][members].T)
        rows.append(
            {
                "blendedness": label,
                "n": int(asked.sum()),
                "n_matched": int(members.sum()),
                "bias": float(bias),
                "scatter": float(1.4826 * np.median(np.abs(error - bias))),
                "outlier_fraction": float(np.mean(np.abs(error) > 0.2)),
                "psnr": float(np.mean(own["psnr"][members])),
                "ssim": float(np.mean(own["ssim"][members])),
                "iou": float(np.nanmean(own["iou"][members])),
                "mse": float(np.median(own["mse"][members])),
                "shape_error": float(np.nanmedian(shape)),
            }
        )
    precision, recall = (float(arrays[f"{name}/{key}"]) for key in ("precision", "recall"))
    return {"name": name, "precision": precision, "recall": recall, "classes": rows}


def parse(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--btk-python", type=Path, required=True, help="interpreter that has BTK")
    parser.add_argument("--model", default="kids-r", help="name or file")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for the picture")
    parser.add_argument("--cosmos", type=Path, default=data_folder().parent / "cosmos")
    parser.add_argument("--n", type=int, default=FULL["batch_size"], help="blends")
    parser.add_argument("--samples", type=int, default=FULL["n_samples"], help="of each object")
    parser.add_argument("--quick", action="store_true", help="ten blends, two samples")
    return parser.parse_args(argv)


def ask_toolkit(python, settings):
    """What the toolkit says: dict of str to ndarray, see `benchmarks.btk.run_btk`."""
    script = Path(__file__).with_name("run_btk.py")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "settings.json", Path(folder) / "judged.npz"
        source.write_text(json.dumps(settings))
        subprocess.run([python, script, source, target], check=True)  # noqa: S603
        with np.load(target) as file:
            return dict(file)


def main(argv=None):
    """Run the study."""
    started, args = time.perf_counter(), parse(argv)
    configuration = FULL | {"batch_size": args.n, "n_samples": args.samples}
    configuration = QUICK if args.quick else configuration
    command = [sys.executable, "-m", "benchmarks.btk.separation"]
    paths = {"model": args.model, "cosmos": str(args.cosmos), "command": command}
    arrays = ask_toolkit(args.btk_python, configuration | paths)
    names = [key.removesuffix("/recall") for key in arrays if key.endswith("/recall")]
    figures = {
        "methods": [summarise(arrays, name) for name in names],
        "time_per_object_s": float(arrays["seconds"] / arrays["n_separated"]),
        "btk": str(arrays["btk"]),
    }
    for method in figures["methods"]:
        print(f"{method['name']}: recall {method['recall']:.2f}")
        for row in method["classes"]:
            print("   ", ", ".join(f"{k} {v if isinstance(v, str) else f'{v:.3g}'}"
                                   for k, v in row.items()))  # fmt: skip
    write_record(
        args.out,
        study="btk",
        configuration=configuration | {"model": Path(args.model).name},
        figures=figures,
        device="cpu",
        started=started,
    )
    if args.docs is not None:
        draw_blends(args.docs / "_static" / "btk.png", arrays, names)
