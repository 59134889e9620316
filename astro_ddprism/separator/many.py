"""A survey: the galaxies of many images that overlap, separated by the workers of Dask.

Every tile is a task of its own: galaxies are found on it, cut out, separated in parts
(`~astro_ddprism.separator.tiles`), and written as one file of a Parquet data set. What overlaps
with other tiles is told by where they lie alone: a tile leaves out what lies deeper in another, but
for objects within `BORDER` of where two are equally deep. These come out of both, and once all
tiles are done, those of two tiles that are one object are matched, and the deeper one stays.

What a tile was made from (hashes of its files and of the model, the options, the tiles beside it)
is in its record, and a tile whose record agrees is not made again.
"""

__all__ = ["Tile", "separate_tiles"]

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from astropy import units as u

from .. import __version__
from ..errors import InputError, NothingFoundError
from ..io.outputs import locked, replacing
from ..io.reading import file_name, reason_of
from ..models import find_model
from ..posterior.product import plain_catalog
from ..progress import Progress
from ..steps import step, timed
from ..survey.footprints import Footprint, neighbours
from ..survey.positions import read_positions
from ..views.dataset import MultiViewDataset
from .base import SourceSeparator
from .merge import BORDER, check_parquet, publish, write_parquet
from .records import Record, digest_of, file_hash, read_records, write_manifest
from .tiles import separate_view
from .workers import run_tasks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tile:
    """An image of a survey.

    Parameters
    ----------
    name : str
        What the catalog calls it; without slashes.
    images : tuple of path
        Its file, or those of its bands.
    options : dict
        What is its own among the options of `~astro_ddprism.MultiViewDataset.from_image`: ``psf``,
        ``positions``, ``mask``, ...
    """

    name: str
    images: tuple
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """All that a worker needs."""

    tile: Tile
    key: str
    folder: Path
    model: Path
    options: dict
    drawing: dict
    own: Footprint
    others: tuple
    products: bool
    device: str


def separate_tiles(
    tiles, model, folder, *, n_samples=16, seed=None, aperture=None, zero_point=None,
    products=False, keep_samples=False, scheduler=None, n_workers=None, device="auto",
    progress=True, **options,
) -> list[Record]:  # fmt: skip
    """Separate the galaxies of many images.

    Run again with the same folder, it does what is missing or has changed.

    Parameters
    ----------
    tiles : sequence of Tile, or of path
        The images.
    model : path-like
        The file or the name of a model.
    folder : path-like
        Made if it is not there. ``catalog/`` in it is a Parquet data set, partitioned by ``tile``,
        of the columns of `PosteriorSamples.catalog` (``ra`` and ``dec`` in degrees), ``depth``, and
        one row for each object of the sky; ``manifest.json`` says what was made from what;
        ``products/`` holds the FITS products, if asked for.
    n_samples, seed, aperture, zero_point, keep_samples
        As for `~astro_ddprism.separator.tiles.separate_view`.
    products : bool
        Whether to keep a FITS product of each tile.
    scheduler : str, optional
        Address of a scheduler of Dask that is running, such as ``"tcp://node7:8786"``; its workers
        see the same files. By default one is started on this machine.
    n_workers : int, optional
        Processes on this machine; by default one for each GPU, or one for every two cores. With 0
        all is done in this process, without Dask.
    device : str
        Where to compute; with ``"auto"`` each worker takes a GPU of its own, where there are any.
    progress : bool
        Whether to show a progress bar.
    **options
        Of `~astro_ddprism.MultiViewDataset.from_image`, for all tiles: ``detection``, ``psf``,
        ``positions``, ``size``, ...

    Returns
    -------
    records : list of Record
        One for each tile, in their order; those with the ``status`` ``"failed"``, and those in
        which there is nothing to separate, have a ``message``.

    Raises
    ------
    InputError
        If two tiles have one name, the model cannot be read, the folder is that of a run that is
        still running, or Dask or pyarrow are needed and not installed.
    """
    tiles = [_as_tile(tile) for tile in tiles]
    names = _checked_names(tiles)
    check_parquet()
    folder, model = Path(folder).absolute(), find_model(model).absolute()
    SourceSeparator.read(model, "cpu")  # what cannot be read ends all, at once
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tiles", "catalog", "products"):
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder: {error.strerror}") from error
    drawing = {"n_samples": n_samples, "seed": seed, "aperture": aperture,
               "zero_point": zero_point, "keep_samples": keep_samples}  # fmt: skip
    with locked(folder / "manifest.json"):
        known = read_records(folder / "tiles")
        options = {"n_random": 0, **options}
        model_hash = file_hash(model)[1]
        prepared = _prepared(tiles, known, options)
        beside = neighbours({name: one for name, (one, _) in prepared.items() if one is not None})
        tasks = []
        for tile in tiles:
            try:
                others = tuple((prepared[name][0], first) for name, first in beside[tile.name])
                key = _key(tile, others, model_hash, options, drawing)
            except KeyError:
                continue  # there is no footprint
            except OSError as error:
                prepared[tile.name] = None, _one_line(error)
                continue
            record = known.get(tile.name)
            if not (record and record.is_current(key, folder, products)):
                own = prepared[tile.name][0]
                tasks.append(_Task(tile, key, folder, model, options, drawing, own, others,
                                   products, device))  # fmt: skip
        bar = Progress(progress)
        done = run_tasks(_separate_tile, tasks, scheduler, n_workers)
        for task, record in bar(done, "tiles", total=len(tasks)):
            if isinstance(record, Exception):
                record = Record(task.tile.name, "failed", message=reason_of(record))
            known[task.tile.name] = record.written(folder / "tiles")
        for name, (_, message) in prepared.items():
            if message:
                failed = Record(name=name, status="failed", message=message)
                known[name] = failed.written(folder / "tiles")
        for record in publish(folder, [known[name] for name in names]):
            known[record.name] = record
        write_manifest(folder / "manifest.json", known, model_hash)
    return [known[name] for name in names]


def _checked_names(tiles) -> list[str]:
    names = [tile.name for tile in tiles]
    if len(set(names)) < len(names) or not names:
        raise InputError(
            f"tiles: found {len(names)} with {len(set(names))} names, expected a name of its own "
            "for each of one or more"
        )
    for name in names:
        if not name or name != file_name(name) or name.startswith("."):
            raise InputError(f"tiles: found the name {name!r}, expected one that a file may have")
    return names


def _as_tile(tile) -> Tile:
    """A tile whose files are found from anywhere."""
    if isinstance(tile, Tile):
        return replace(tile, images=tuple(Path(path).absolute() for path in tile.images))
    tile = Path(tile).absolute()
    return Tile(file_name(tile).partition(".fit")[0].partition(".asdf")[0], (tile,))


def _image_options(tile, options) -> dict:
    """Options that say how files are read."""
    return {
        name: value
        for name, value in {**options, **tile.options}.items()
        if name in {"format", "hdu", "uncertainty", "variance", "ivar", "weight", "mask",
                    "bad_bits", "estimate_noise", "unit", "zero_point"}
    }  # fmt: skip


def _prepared(tiles, known, options) -> dict:
    """The footprint of each tile by its name, or why there is none."""
    found = {}
    for tile in tiles:
        try:
            record = known.get(tile.name)
            footprint = record.footprint_of(tile.images) if record else None
            if footprint is None:
                own = _image_options(tile, options)
                footprint = Footprint.of([(path, own) for path in tile.images])
            found[tile.name] = footprint, ""
        except (InputError, OSError) as error:
            found[tile.name] = None, _one_line(error)
    return found


def _key(tile, others, model_hash, options, drawing) -> str:
    """A digest of all that a tile is made from."""
    given = (*tile.images, *tile.options.values(), *options.values())
    files = [path for path in given if isinstance(path, str | Path) and Path(path).is_file()]
    hashes = [file_hash(path)[1] for path in (*tile.images, *files)]
    around = [(one.header, one.shape, first) for one, first in others]
    return digest_of(__version__, model_hash, hashes, options, tile.options, drawing, around)


def _one_line(error) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


_MODELS: dict = {}


def _model(path, device) -> SourceSeparator:
    """The model, once in each process."""
    stat = path.stat()
    key = str(path), stat.st_mtime_ns, stat.st_size, device
    if key not in _MODELS:
        _MODELS.clear()
        _MODELS[key] = SourceSeparator.read(path, device, progress=False)
    return _MODELS[key]


def _device(device, worker) -> str:
    """A GPU of its own for each worker."""
    n = torch.cuda.device_count() if device == "auto" else 0
    return f"cuda:{worker % n}" if n else device


class _Warnings(logging.Handler):
    """What was warned of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(" ".join(record.getMessage().split()))


def _separate_tile(task: _Task, worker: int = 0) -> Record:
    """Do a tile, and tell how it went; of what can be mended, and of memory, in one line."""
    heard = _Warnings()
    log = logging.getLogger("astro_ddprism")
    log.addHandler(heard)
    status, message, counts, files = "done", "", {}, []
    try:
        with timed() as clock:
            files = [[str(path), *file_hash(path)] for path in task.tile.images]
            counts, message = _work(task, _device(task.device, worker))
    except (InputError, OSError, MemoryError, RuntimeError) as error:
        status, message = "failed", _one_line(error) or type(error).__name__
    finally:
        log.removeHandler(heard)
    return Record(
        task.tile.name, status, task.key, message, files,
        [task.own.header, list(task.own.shape)], counts, heard.lines[:100],
        *({name: round(s, 3) for name, s in kind.items()}
          for kind in (clock.seconds, clock.processor_seconds)),
    )  # fmt: skip


@step("rest")
def _work(task: _Task, device) -> tuple[dict, str]:
    """Counts of objects, and why there are none, where there are none."""
    separator, name = _model(task.model, device), task.tile.name
    table = task.folder / "tiles" / f"{name}.parquet"
    product = task.folder / "products" / f"{name}.fits"
    product.unlink(missing_ok=True)  # of what the tile was made from before
    try:
        found, depth, rival, mine = _find(task, separator)
    except NothingFoundError as error:
        with replacing(table, overwrite=True):
            pass  # an empty file: no object of the tile is its own
        return {"found": 0, "separated": 0}, f"nothing to separate: {_one_line(error)}"
    view = found[mine]
    catalog = separate_view(
        separator, view, product, overwrite=True, product=task.products, **task.drawing
    )
    with step("writing"):
        catalog = plain_catalog(catalog)
        catalog["depth"], catalog["rival_depth"] = depth[mine] << u.arcsec, rival[mine] << u.arcsec
        write_parquet(catalog, table)
    return {"found": len(found), "separated": len(view)}, ""


def _find(task, separator):
    """The galaxies of a tile, how deep they lie in it and in others, and which are its own."""
    options = {**task.options, **task.tile.options}
    positions = options.pop("positions", None)
    if positions is not None:
        given = read_positions(
            positions,
            task.own.wcs,
            id_column=options.pop("id_column", None),
            format=options.pop("positions_format", None),
        )
        positions = given[_depths(task, given["sky_centroid"])[2]]
        if not len(positions):
            raise NothingFoundError("none of the positions is its own")
    shape = next(iter(separator.source_shapes_.values()))
    options.setdefault("size", shape[-1])
    if not options.get("psf") and not separator.before_psf_:
        options["psf"] = False
    images = task.tile.images[0] if len(task.tile.images) == 1 else list(task.tile.images)
    views = MultiViewDataset.from_image(images, positions=positions, **options)
    view = views["galaxy"]
    depth, rival, mine = _depths(task, view.coordinates)
    if not mine.any():
        raise NothingFoundError(f"all {len(view)} objects lie deeper in other tiles")
    if positions is None:  # numbers on the tile
        view.ids = np.array([f"{task.tile.name}-{number}" for number in view.ids])
    return view, depth, rival, mine


def _depths(task, coordinates):
    """Depth in the tile, the most in any other, and which places are the tile's to separate."""
    depth = task.own.depth(coordinates)
    rival = np.full(len(depth), -np.inf)
    for other, _ in task.others:
        rival = np.maximum(rival, other.depth(coordinates))
    return depth, rival, (depth > 0) & (depth >= rival - BORDER)
