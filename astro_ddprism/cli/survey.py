"""``ddprism survey``: the galaxies of many images, by many processes or machines."""

import glob
import logging
from pathlib import Path

from astropy.table import Table

from ..errors import InputError
from ..io.reading import file_name, reading
from ..separator.many import Tile, separate_tiles
from .images import BAND_OPTIONS, cutout_options

__all__ = ["find_tiles", "survey", "tile_options"]

logger = logging.getLogger(__name__)

# What the columns of a list of tiles may be called, beside "image" and "name".
OWN = ("psf", "positions", *BAND_OPTIONS)
LISTS = (".ecsv", ".csv", ".txt", ".lst")


def survey(args):
    """Separate the galaxies of many images.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.
    """
    records = separate_tiles(
        find_tiles(args.tiles),
        args.model,
        args.output,
        n_samples=args.samples,
        seed=args.seed,
        aperture=args.aperture,
        products=args.products,
        keep_samples=args.keep_samples,
        scheduler=args.scheduler,
        n_workers=args.workers,
        device=args.device,
        progress=not args.quiet,
        **tile_options(args),
    )
    failed = [record for record in records if record.status == "failed"]
    n = sum(record.counts.get("published", 0) for record in records)
    logger.info("%s: %d objects of %d tiles", args.output, n, len(records) - len(failed))
    empty = [record for record in records if record.status == "done" and record.message]
    if empty:
        told = f"{empty[0].name}: {empty[0].message}"
        logger.warning("%s: of %d tiles no object came out, the first is %s",
                       args.output, len(empty), told)  # fmt: skip
    if failed:
        first = f"{failed[0].name}: {failed[0].message}"
        raise InputError(
            f"{args.output}: {len(failed)} of {len(records)} tiles failed (see manifest.json), the "
            f"first was {first}"
        )


def find_tiles(arguments) -> list[Tile]:
    """The tiles that arguments name.

    Parameters
    ----------
    arguments : sequence of path
        Images, patterns of their names, and lists: tables with a column ``image`` (several bands
        with ``|`` between them) and columns of the options of each, or text of a name in each line.

    Returns
    -------
    tiles : list of Tile

    Raises
    ------
    InputError
        If a list cannot be read, or nothing fits a pattern.
    """
    tiles = []
    for path in map(Path, arguments):
        if path.suffix.lower() in LISTS:
            tiles += _listed(path)
        elif glob.has_magic(str(path)) and not path.exists():
            found = sorted(glob.glob(str(path)))
            if not found:
                raise InputError(f"{path}: found no file of this name, expected images")
            tiles += [_tile(Path(name)) for name in found]
        else:
            tiles.append(_tile(path))
    return tiles


def _tile(path, *more, name=None, options=None):
    name = name or file_name(path).partition(".fit")[0].partition(".asdf")[0]
    return Tile(str(name), (path, *more), options or {})


def _listed(path):
    with reading(path, "a list of images"):
        if path.suffix.lower() in {".txt", ".lst"}:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            return [_tile(path.parent / line) for line in lines if line and line[0] != "#"]
        table = Table.read(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "ascii.csv")
        unknown = [name for name in table.colnames if name not in {"image", "name", *OWN}]
        if "image" not in table.colnames or unknown:
            raise InputError(
                f"{path}: found columns {', '.join(table.colnames)}, expected image, and "
                f"optionally name, {', '.join(OWN)}"
            )
        tiles = []
        for row in table:
            own = {name: str(row[name]) for name in OWN if name in table.colnames}
            own = {name: value for name, value in own.items() if value not in {"", "--"}}
            for name in own:
                beside = path.parent / own[name]
                own[name] = str(beside) if beside.is_file() else own[name]
            images = [path.parent / part for part in str(row["image"]).split("|")]
            name = str(row["name"]) if "name" in table.colnames else None
            tiles.append(_tile(*images, name=name, options=own))
        return tiles


def tile_options(args) -> dict:
    """Options for all tiles."""
    options = cutout_options(args)
    del options["seed"]  # of random positions, of which there are none
    options["detection"]["progress"] = False
    if args.size is not None:
        options["size"] = args.size
    if args.psf:
        options["psf"] = [str(path) for path in args.psf]
    if args.positions is not None:
        options["positions"] = str(args.positions)
    for name in BAND_OPTIONS:
        values = getattr(args, name)
        if values:
            if len(values) > 1:
                raise InputError(
                    f"--{name}: found {len(values)} of them, expected one for all tiles"
                )
            options[name] = values[0]
    for name in ("format", "bad_bits", "unit"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    for name in ("estimate_noise", "subtract_background"):
        if getattr(args, name):
            options[name] = True
    return {name: value for name, value in options.items() if value is not None}
