"""``ddprism separate`` of one large image: how much memory it needs, and what a kill loses.

A real survey field (KiDS r, 2600 x 2600 pixels) is put side by side with itself, and the image is
separated with few samples and with more: memory must grow with neither. A smaller part of it, yet
one that is read by sections, is separated once without a break, and once by a command that is
killed at random moments and called again: the products must be equal to the last bit.

    python -m benchmarks.large_image --out benchmarks/results/large_image.json

With ``--work FOLDER`` finished runs are kept there, and a study that was ended goes on behind them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..record import write_record
from ..survey.processes import Session

DATA = Path(os.environ.get("ASTRO_DDPRISM_DATA", "../shared/data"))
# Runs: samples, and least signal to noise.
FULL = {"copies": 2, "runs": [[2, 10], [16, 30]], "killed_side": 2100, "kills": 10,
        "model": "kids-r", "seed": 0}  # fmt: skip
QUICK = FULL | {"copies": 1, "runs": [[1, 100]], "kills": 1}
LIMIT = 1300  # MiB


def make_image(path, copies, side=None):
    """A field beside copies of itself, or a corner of it.

    Parameters
    ----------
    path : Path
        The FITS file to be.
    copies : int
        On each axis.
    side : int, optional
        Pixels of the corner.
    """
    with fits.open(DATA / "kids_viking" / "r.fits.fz") as hdus:
        data, header = hdus["SCI"].data, hdus["SCI"].header
        kept = {key: header[key] for key in ("FILTER", "MAGZERO")}
        wcs = {
            k: header[k] for k in header if k[:5] in {"CRPIX", "CDELT", "CUNIT", "CTYPE", "CRVAL"}
        }
    data = np.tile(data, (copies, copies))[:side, :side]
    fits.PrimaryHDU(data, fits.Header({**wcs, **kept})).writeto(path)


def command(image, output, samples, min_snr, model) -> list[str]:
    """``ddprism separate``."""
    return [
        sys.executable, "-m", "astro_ddprism", "separate", str(image), "--model",
        model, "-o", str(output), "--samples", str(samples), "--estimate-noise",
        "--zero-point", "MAGZERO", "--min-snr", str(min_snr), "--device", "cpu", "--quiet",
    ]  # fmt: skip


def clear(output):
    """Make room for a product, and for the table of what was not separated."""
    for path in output, output.with_name(f"{output.name}.rejected.ecsv"):
        path.unlink(missing_ok=True)


def content(path) -> dict:
    """All data of a product."""
    with fits.open(path, checksum=True) as hdus:
        return {
            f"{hdu.name} {name}": np.array(hdu.data if name is None else hdu.data[name])
            for hdu in hdus[1:]
            for name in (hdu.data.names if hdu.data.dtype.names else [None])
        }


def same(first, second) -> bool:
    """Whether two products hold the same to the last bit."""
    first, second = content(first), content(second)
    return list(first) == list(second) and all(
        np.array_equal(data, second[name], equal_nan=data.dtype.kind == "f")
        for name, data in first.items()
    )


class Study:
    """All runs, those of before among them."""

    def __init__(self, folder, configuration):
        self.folder, self.configuration = folder, configuration

    def known(self, name, measure, *arguments) -> dict:
        """What a run came to, now or before."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(measure(*arguments)))
            print(name, path.read_text(), file=sys.stderr)
        return json.loads(path.read_text())

    def image(self, name, *arguments):
        """An image that is made once."""
        path = self.folder / name
        if not path.exists():
            make_image(path, *arguments)
        return path

    def unbroken(self, image, output, samples, min_snr) -> dict:
        """A run to its end."""
        clear(output)
        run = command(image, output, samples, min_snr, self.configuration["model"])
        figures = Session(run).wait()
        n_rows = fits.getheader(output, "CATALOG")["NAXIS2"]
        return figures | {"samples": samples, "min_snr": min_snr, "galaxies": n_rows}

    def killed(self, image, output, whole, seconds, samples, min_snr) -> dict:
        """A run that is killed and called again; it goes on, so that later kills come later.

        Each kill comes at a random moment of the processor time, ``seconds``, of an unbroken run. A
        run that has ended before is compared with that, and the next begins anew.
        """
        rng, parts, ended, equal = np.random.default_rng(self.configuration["seed"]), [], 0, True
        folder = output.with_name(f".{output.name}.parts")
        run = command(image, output, samples, min_snr, self.configuration["model"])
        while not ended or len(parts) < self.configuration["kills"]:
            session, moment = Session(run), rng.uniform(0.05, 1.0) * seconds
            while session.is_running and session.cpu_s < moment:
                time.sleep(0.1)
            if session.is_running and len(parts) < self.configuration["kills"]:
                session.kill()
                parts.append(len(list(folder.glob("[0-9]*.ecsv"))))
                if output.exists():
                    raise RuntimeError(f"{output}: found it after a kill, expected it at the end")
                continue
            session.wait()
            ended, equal = ended + 1, equal and same(output, whole)
            clear(output)
        return {"kills": len(parts), "parts_at_kills": parts, "runs_that_ended": ended,
                "equals_unbroken": equal}  # fmt: skip

    def figures(self) -> dict:
        """All of the study."""
        few = self.configuration["runs"][0]
        large = self.image("large.fits", self.configuration["copies"])
        corner = self.image("corner.fits", 1, self.configuration["killed_side"])
        outputs = {name: self.folder / f"{name}.fits" for name in ("product", "whole", "broken")}
        whole = self.known("whole-run", self.unbroken, corner, outputs["whole"], *few)
        killed = self.known(
            "killed-run", self.killed, corner, outputs["broken"], outputs["whole"],
            whole["cpu_s"], *few,
        )  # fmt: skip
        runs = [
            self.known(f"samples-{n}", self.unbroken, large, outputs["product"], n, min_snr)
            for n, min_snr in self.configuration["runs"]
        ]
        left = [p.name for p in self.folder.iterdir() if p.name.startswith((".broken", ".whole"))]
        return {
            "pixels": list(fits.getdata(large).shape),
            "runs": runs,
            "within_limit": all(run["peak_MiB"] <= LIMIT for run in runs),
            "limit_MiB": LIMIT,
            "killed": {
                "pixels": [self.configuration["killed_side"]] * 2,
                **killed,
                "files_left": left,
            },
        }


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder of what was measured before")
    parser.add_argument("--model", help="another model than the one that comes with the package")
    parser.add_argument("--quick", action="store_true", help="the brightest galaxies of one field")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    configuration = dict(QUICK if options.quick else FULL)
    if options.model:
        configuration["model"] = options.model
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        folder = options.work or Path(folder)
        folder.mkdir(exist_ok=True)
        figures = Study(folder, configuration).figures()
    write_record(options.out, study="large_image", configuration=configuration, figures=figures,
                 device="cpu", started=started)  # fmt: skip
    print(json.dumps(figures, indent=1))
