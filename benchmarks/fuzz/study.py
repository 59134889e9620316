"""What damaged files do to the program.

Small good files (images as FITS, plain, tile-compressed, packed, with and without checksums; views
and a model as ASDF; catalogs as ECSV, CSV, FITS and VOTable; TOML) get faults by fixed seeds
(`benchmarks.fuzz.mutations`) and are given to the command that reads them. Every case runs in a
child of its own, forked of this process, which has imported the package, with limits of memory and
of time. It must end with status 0 or 2, in one line where it is 2, without a traceback, and with no
file left where it is 2 (but a checkpoint that the line names); or train, as long as it was told to.
Where it is 0 and the good file has checksums over all that was changed (FITS with ``CHECKSUM``,
packed FITS, ASDF), what was read must be what the good file holds. The sum of FITS does not depend
on the order of its words: what astropy's own verification of all sums passes as well is counted
apart, as damage that no checksum tells.

    python -m benchmarks.fuzz --out benchmarks/results/fuzz.json

With ``--work FOLDER`` what was found is kept there, and a study that was ended goes on behind it.
"""

import argparse
import collections
import contextlib
import gc
import gzip
import io
import json
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.cli import main as ddprism
from astro_ddprism.separator.state import contents, digest
from astro_ddprism.simulate.population import simulate_field

from ..record import write_record
from .mutations import mutated

FULL = {"cases": 10_000, "seconds": 60, "memory_GiB": 6, "seed": 0}
QUICK = FULL | {"cases": 240}
KEPT = 200  # cases between two writings of what was found
# Good files, by their kind; those of which every changed byte shows.
KINDS = {
    "fits": ("tile.fits", "tile_sum.fits", "tile_comp.fits", "tile.fits.gz"),
    "asdf": ("views.asdf", "model.asdf"),
    "catalog": ("pos.ecsv", "pos.csv", "pos.fits", "pos.vot"),
    "toml": ("options.toml", "fit.toml"),
}
CHECKED = ("tile_sum.fits", "tile.fits.gz", "views.asdf", "model.asdf")
SHARES = {"fits": 0.4, "asdf": 0.4, "catalog": 0.12, "toml": 0.08}
CUTOUTS = ["--size", "8", "--n-random", "4", "--psf-fwhm", "0.85", "-q", "--seed", "1"]


class TooLong(BaseException):
    """A case that does not end."""


def make_files(folder: Path):
    """The good files."""
    field = simulate_field((64, 64), seed=5, star_density=0.5 / u.arcmin**2)
    image = field.image
    header = image.wcs.to_header()
    header.update(BUNIT="uJy", FILTER="r", SATURATE=1e5)
    planes = {
        "SCI": image.data.astype(np.float32),
        "ERR": image.uncertainty.array.astype(np.float32),
        "MASK": image.mask.astype(np.uint8),
    }
    whole = [fits.PrimaryHDU(), *(fits.ImageHDU(p, header, name=n) for n, p in planes.items())]
    fits.HDUList(whole).writeto(folder / "tile.fits")
    fits.HDUList(whole).writeto(folder / "tile_sum.fits", checksum=True)
    packed = [
        fits.CompImageHDU(
            plane,
            header,
            name=name,
            compression_type="GZIP_2" if name == "ERR" else "RICE_1",
            quantize_level=0 if name == "ERR" else 16,
        )
        for name, plane in planes.items()
    ]
    fits.HDUList([fits.PrimaryHDU(), *packed]).writeto(folder / "tile_comp.fits")
    (folder / "tile.fits.gz").write_bytes(gzip.compress((folder / "tile.fits").read_bytes()))
    galaxies = field.catalog[field.catalog["kind"] == "galaxy"]
    inside = np.all([(galaxies[a] > 8) & (galaxies[a] < 56) for a in "xy"], axis=0)
    galaxies = galaxies[inside][:6]
    sky = galaxies["sky_coord"]
    table = Table({"id": [f"g{i}" for i in range(len(sky))], "ra": sky.ra.deg, "dec": sky.dec.deg})
    for name in ("pos.ecsv", "pos.csv", "pos.fits"):
        table.write(folder / name)
    table.write(folder / "pos.vot", format="votable")
    (folder / "options.toml").write_text(
        'size = 8\nn_random = 4\npsf_fwhm = ["0.85"]\nmax_masked_fraction = 0.3\nmin_snr = 5.0\n'
        "subtract_background = true\ncrowded_fraction = 0.5\n"
    )
    (folder / "fit.toml").write_text(
        'method = "diffusion"\nn_em_iterations = 0\nseed = 3\n[training]\nn_first_images = 8\n'
        "n_images = 8\nbatch_size = 4\n[warm_start]\niterations = 1\nrank = 2\n[chains]\n"
        'n_steps = 2\n[network]\nname = "unet"\nchannels = [4]\nblocks = [1]\nembedding = 8\n'
    )
    run = ["cutouts", folder / "tile.fits", "-o", folder / "views.asdf", *CUTOUTS]
    _good([*run, "--positions", folder / "pos.ecsv"])
    run = ["fit", folder / "views.asdf", "-o", folder / "model.asdf", "--device", "cpu", "-q"]
    run += ["--preset", "none"]
    _good([*run, "--config", folder / "fit.toml"])


def command_of(good: str, path: Path, folder: Path, out: Path) -> list:
    """The command that reads a file in place of a good one."""
    cutouts = ["cutouts", folder / "tile.fits", "-o", out / "v.asdf", *CUTOUTS]
    positions = ["--positions", folder / "pos.ecsv"]
    if good.startswith("tile"):
        return ["cutouts", path, "-o", out / "v.asdf", *CUTOUTS, *positions]
    if good.startswith("pos"):
        return [*cutouts, "--positions", path]
    if good == "options.toml":
        return ["cutouts", folder / "tile.fits", "-o", out / "v.asdf", "-q", "--config", path,
                *positions]  # fmt: skip
    if good == "fit.toml":
        return ["fit", folder / "views.asdf", "-o", out / "m.asdf", "--config", path, "-q",
                "--preset", "none"]  # fmt: skip
    return ["info", path]


def _call(arguments) -> tuple[object, str, str]:
    """Status, what was said, and the place of a traceback."""
    said, place = io.StringIO(), ""
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = ddprism([str(a) for a in arguments])
        except SystemExit as error:
            status = f"SystemExit {error.code}"
        except TooLong as error:
            frames = traceback.extract_tb(error.__traceback__)
            training = any(f.filename.endswith("learning/training.py") for f in frames)
            status = "at work" if training else "too long"
        except Exception as error:  # noqa: BLE001
            own = [
                f
                for f in traceback.extract_tb(error.__traceback__)
                if "astro_ddprism" in f.filename
            ]
            place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
            status = f"{type(error).__name__}"
            said.write(str(error))
    return status, said.getvalue(), place


def _good(arguments):
    status, said, _ = _call(arguments)
    if status != 0:
        raise RuntimeError(f"a good file ended with {status}: {said}")


def read_back(good: str, path: Path, out: Path) -> str:
    """A digest of what was made of a file."""
    if good == "model.asdf":
        model = DiffusionSourceSeparator.read(path, "cpu")
        return digest(model._tree(model._learned, draws=False))
    return digest(contents(MultiViewDataset.read(path if good == "views.asdf" else out / "v.asdf")))


def one_case(good: str, number: int, folder: Path, configuration: dict, expected: dict) -> dict:
    """Run a case and say what was wrong with its end; nothing where all was right."""
    seed = [configuration["seed"], sorted(sum(KINDS.values(), ())).index(good), number]
    kind, content = mutated((folder / good).read_bytes(), seed)
    out = folder / "case"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    path = out / f"damaged_{good}"
    path.write_bytes(content)

    def ring(*_):
        raise TooLong

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(configuration["seconds"])
    status, said, place = _call(command_of(good, path, folder, out))
    signal.alarm(0)
    left = sorted(p.name for p in out.iterdir() if p != path and str(p) not in said)
    faults = []
    if status not in {0, 2, "at work"}:
        faults.append(f"{status} at {place}" if place else str(status))
    if status == 2 and left:
        faults.append(f"left {left}")
    if status == 2 and not said.splitlines()[-1].startswith("ddprism: error: "):
        faults.append("no line that says why")
    differs = status == 0 and good in CHECKED and read_back(good, path, out) != expected[good]
    told = differs and is_told(good, path)
    if told:
        faults.append("damage was believed")
    return {"good": good, "kind": kind, "number": number, "status": status, "faults": faults,
            "untold": differs and not told, "said": said[-200:]}  # fmt: skip


def is_told(good: str, path: Path) -> bool:
    """Whether a checksum of a damaged file is not that of its content.

    Packed files and ASDF have sums that depend on every bit and on its place.
    """
    if good != "tile_sum.fits":
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, checksum=True) as hdus:
            return any(hdu.verify_datasum() != 1 or hdu.verify_checksum() != 1 for hdu in hdus)


def in_child(good, number, folder, configuration, expected) -> dict:
    """Run a case in a child, whose memory and time have limits."""
    ours, its = multiprocessing.Pipe(duplex=False)

    def work():
        resource.setrlimit(resource.RLIMIT_AS, (configuration["memory_GiB"] << 30,) * 2)
        warnings.simplefilter("ignore")
        its.send(one_case(good, number, folder, configuration, expected))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    its.close()
    try:
        if ours.poll(configuration["seconds"] + 5):  # else it does not even hear the alarm
            return ours.recv()
        end = "does not end"
    except EOFError:
        child.join()
        end = f"ended with {child.exitcode}"
    finally:
        child.kill()
        child.join()
        ours.close()
    return {"good": good, "kind": "?", "number": number, "status": "?", "untold": False,
            "faults": [f"the process {end}"], "said": ""}  # fmt: skip


def study(folder: Path, configuration: dict) -> dict:
    """All cases, and how many of each kind ended how."""
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "case").mkdir(parents=True)
        make_files(folder)
        (folder / "made").touch()
    expected = {}
    for good in CHECKED:  # here also, so that children find imported what they need
        _good(command_of(good, folder / good, folder, folder / "case"))
        expected[good] = read_back(good, folder / good, folder / "case")
        (folder / "case" / "v.asdf").unlink(missing_ok=True)
    cases = [
        (names[i % len(names)], i)
        for kind, names in KINDS.items()
        for i in range(round(SHARES[kind] * configuration["cases"]))
    ]
    known = folder / "found.jsonl"
    found = [json.loads(line) for line in known.read_text().splitlines()] if known.exists() else []
    done = {(case["good"], case["number"]) for case in found}
    left = [case for case in cases if case not in done]
    gc.collect()
    gc.freeze()  # what children do not touch they share
    for first in range(0, len(left), KEPT):
        found += [
            in_child(*case, folder, configuration, expected) for case in left[first : first + KEPT]
        ]
        part = folder / "found.part"
        part.write_text("".join(f"{json.dumps(case)}\n" for case in found))
        part.replace(known)
        print(f"{len(found)} of {len(cases)}", file=sys.stderr)
    wrong = [case for case in found if case["faults"]]
    return {
        "cases": len(found),
        "with_a_fault": len(wrong),
        "refused": sum(case["status"] == 2 for case in found),
        "accepted": sum(case["status"] == 0 for case in found),
        "damage_that_no_checksum_tells": sum(case["untold"] for case in found),
        "by_file": {
            name: collections.Counter(str(c["status"]) for c in found if c["good"] == name)
            for names in KINDS.values()
            for name in names
        },
        "faults": collections.Counter(fault for case in wrong for fault in case["faults"]),
        "wrong": wrong[:200],
    }


def main(arguments=None):
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--quick", action="store_true", help="240 cases")
    parser.add_argument("--cases", type=int, help="another number of cases")
    parser.add_argument("--work", type=Path, help="folder of what was found before")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    torch.set_num_threads(1)  # a child has no threads but its own
    configuration = QUICK if options.quick else dict(FULL)
    if options.cases:
        configuration["cases"] = options.cases
    with tempfile.TemporaryDirectory() as folder:
        figures = study(options.work or Path(folder) / "work", configuration)
    write_record(options.out, study="fuzz", configuration=configuration, figures=figures,
                 device="cpu", started=started)  # fmt: skip
    print(f"{figures['cases']} damaged files: {figures['refused']} refused, {figures['accepted']} "
          f"accepted, {figures['with_a_fault']} faults: {dict(figures['faults'])}")  # fmt: skip
