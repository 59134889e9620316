"""The commands that work with views and models: ``ddprism cutouts | fit | separate``.

Outputs are reserved before any work begins, and are all there at its end, or none.
"""

import logging
import math
from contextlib import nullcontext

import numpy as np

from ..diffusion import ranks
from ..errors import InputError
from ..io.outputs import replacing, reserved
from ..io.reading import check_input
from ..posterior.canvas import Canvas
from ..posterior.stamps import write_stamps
from ..posterior.tables import check_catalog_path, write_catalog
from ..progress import Progress
from ..separator import SourceSeparator
from ..separator.presets import preset, preset_for
from ..separator.tiles import separate_view
from ..survey.mosaic import Mosaic
from ..views.dataset import MultiViewDataset
from ..views.tiles import write_tiles
from .arguments import read_config
from .images import check_images, read_tiles
from .info import is_views
from .survey import find_tiles, tile_options

__all__ = ["cutouts", "fit", "separate"]

logger = logging.getLogger(__name__)

VIEW_ENDINGS = (".asdf",)
PRODUCT_ENDINGS = (".fits", ".fit", ".fts")
# Parts of a separator that a fit takes from the model that it starts from.
PARTS_OF_MODELS = ("network", "posterior")


def cutouts(args):
    """Cut survey images into views.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.
    """
    with reserved(args.output, _rejected_path(args.output), overwrite=args.overwrite):
        _check_ending(args.output, VIEW_ENDINGS)
        if args.config is not None:
            check_input(args.config)  # which was read before
        randoms = {
            "n_random": args.n_random,
            "random_distance": args.random_distance,
            "crowded_fraction": args.crowded_fraction,
        }
        if args.tiles:
            dataset = _cut_tiles(args, randoms)
        else:
            check_images(args)
            images, options = read_tiles(args)
            size = 32 if args.size is None else args.size
            dataset = MultiViewDataset.from_image(images, **options, size=size, **randoms)
            dataset.write(args.output)
        _write_rejected(dataset.rejected, args)
    counts = ", ".join(f"{len(view)} of view {name}" for name, view in dataset.items())
    logger.info("wrote %s: %s", args.output, counts)


def _cut_tiles(args, randoms) -> MultiViewDataset:
    """Write the views of many images, and read what was written."""
    if args.images or args.instrument:
        raise InputError("--tiles: found it beside other images, expected these alone")
    several, tiles = find_tiles(args.tiles), {}
    for tile in several:
        images = [str(path) for path in tile.images]
        tiles[tile.name] = images if len(images) > 1 else images[0], tile.options
    if len(tiles) < len(several):
        raise InputError(
            f"--tiles: found {len(several)} with {len(tiles)} names, expected a name for each"
        )
    track = Progress(not args.quiet)
    return write_tiles(
        args.output,
        tiles,
        track=lambda all_of_them: track(all_of_them, "tiles"),
        seed=0 if args.seed is None else args.seed,
        **{"size": 32, **tile_options(args)},
        **randoms,
    )


@ranks.joined()
def fit(args):
    """Learn the priors from views; processes that ``torchrun`` started share the work.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.
    """
    checkpoint = args.output.with_name(args.output.name + ".checkpoint")
    for path in (args.views, args.initial, args.config):
        if path is not None and path.exists() and checkpoint.exists() and path.samefile(checkpoint):
            raise InputError(f"{path}: found as input and as checkpoint, expected two files")
    if args.resume and args.output.is_file():
        separator, dataset, initial = _fit_inputs(args)
        if separator.has_learned(dataset, args.output, initial=initial):
            logger.warning("%s: the fit is done", args.output)
            checkpoint.unlink(missing_ok=True)
            return
    with _reserved(args, args.output):
        _check_ending(args.output, VIEW_ENDINGS)
        if checkpoint.exists() and not (args.resume or args.overwrite):
            raise InputError(
                f"{checkpoint}: found an unfinished fit, expected --resume to go on with it or "
                "--overwrite to begin anew"
            )
        separator, dataset, initial = _fit_inputs(args)
        resume = args.resume and checkpoint.exists()
        separator.fit(dataset, initial=initial, checkpoint=checkpoint, resume=resume)
        if ranks.is_first():
            separator.write(args.output)
    if ranks.is_first():
        checkpoint.unlink(missing_ok=True)
        logger.info("wrote %s: model of %s", args.output, ", ".join(separator.sources_))


def _fit_inputs(args):
    """The separator that shall learn, the views that it learns from, and what it starts from."""
    config = read_config(args.config) if args.config else {}
    for name in ("device", "seed", "method"):
        if getattr(args, name) is not None:
            config[name] = getattr(args, name)
    config.setdefault("method", "diffusion")
    initial = None
    if args.initial is not None:
        initial = SourceSeparator.read(args.initial, device=config.get("device", "auto"))
        if config["method"] == initial.config["method"]:
            config = _with_parts_of(initial, config)
    dataset = MultiViewDataset.read(args.views)
    if config["method"] == "diffusion":
        config = _with_preset(args, dataset, config)
    elif args.preset is not None:
        raise InputError(f"--preset: found it with the method {config['method']}, expected none")
    return SourceSeparator.from_config({**config, "progress": not args.quiet}), dataset, initial


@ranks.joined()
def separate(args):
    """Draw the sources of every observation; processes that ``torchrun`` started share the draws.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.

    Returns
    -------
    told : dict
        For ``--json``: counts, and the files that were written.
    """
    stamps_file = args.stamps is not None and args.stamps.suffix.lower() in PRODUCT_ENDINGS
    outputs = [args.output, args.catalog, args.tile, args.stamps if stamps_file else None]
    with _reserved(args, *outputs, _rejected_path(args.output)):
        _check_ending(args.output, PRODUCT_ENDINGS)
        check_images(args, "TILE.fits or VIEWS.asdf")
        if args.catalog is not None:
            check_catalog_path(args.catalog)
        if args.tile is not None:
            _check_ending(args.tile, PRODUCT_ENDINGS)
            if args.instrument or _is_views(args):
                raise InputError(
                    f"--tile {args.tile}: found no image of one instrument to paste onto, "
                    "expected TILE.fits in place of views or --instrument"
                )
        zero_point = _catalog_zero_point(args)
        separator = SourceSeparator.read(args.model, device=args.device, progress=not args.quiet)
        view, image = _view_to_separate(args, separator)
        if args.catalog is not None and ranks.is_first():
            write_catalog(view.table(), args.catalog)  # what cannot be written shows now
        stamps = []

        def each(samples):
            if args.tile is not None:
                canvas = Canvas(image)
                canvas.add(samples)
                canvas.write(args.tile)
            if args.stamps is not None:
                stamps.extend(write_stamps(samples, args.stamps, overwrite=args.overwrite))

        catalog = separate_view(
            separator,
            view,
            args.output,
            n_samples=args.samples,
            seed=args.seed,
            keep_samples=args.keep_samples,
            aperture=args.aperture,
            sources=view.sources[::-1] if args.all_sources else None,
            zero_point=zero_point,
            whole=each if args.tile is not None or args.stamps is not None else None,
        )
        if catalog is None:
            return None
        if args.catalog is not None:
            write_catalog(catalog, args.catalog)
        rejected = _write_rejected(view.rejected, args)
    files = [path for path in (*outputs[:3], args.stamps, rejected) if path is not None]
    logger.info(
        "wrote %s: %d galaxies, %d samples of each",
        ", ".join(map(str, files)),
        len(view),
        args.samples,
    )
    return {
        "model": str(args.model),
        "view": view.name,
        "n_observations": len(view),
        "n_samples": args.samples,
        "n_flagged": int(np.count_nonzero(catalog["flags"])),
        "n_rejected": 0 if rejected is None else len(view.rejected),
        "files": {
            "product": args.output,
            "catalog": args.catalog,
            "tile": args.tile,
            "stamps": stamps or None,
            "rejected": rejected,
        },
    }


def _reserved(args, *paths):
    """The outputs, reserved by the first of several processes for all of them."""
    if not ranks.is_first():
        return nullcontext()
    paths = [path for path in paths if path is not None]
    return reserved(*paths, overwrite=args.overwrite)


def _with_preset(args, dataset, config):
    """A configuration with a preset where it says nothing: the one for the data, if none is named.

    Who names a posterior, or a model to start from, has chosen already.
    """
    chosen = args.initial is not None or "posterior" in config
    name = args.preset or ("none" if chosen else preset_for(dataset))
    given = preset(name)
    found = {**given, **config}
    for key, table in config.items():
        own = given.get(key)
        # A table that names a part is all of it.
        if isinstance(own, dict) and isinstance(table, dict) and "name" not in table:
            found[key] = {**own, **table}
    if name != "none":
        logger.info("preset %s (--preset none: the defaults)", name)
    return found


def _with_parts_of(initial, config):
    """A configuration with what a model is made of, where it says nothing else."""
    known = {name: initial.config[name] for name in PARTS_OF_MODELS if name in initial.config}
    for name, part in known.items():
        own = config.get(name, part)
        own = {"name": own} if isinstance(own, str) else own
        if isinstance(own, dict) and part and own.get("name") == part["name"]:
            own = {**part, **own}
        config = {**config, name: own}
    return config


def _catalog_zero_point(args):
    """The magnitude of a flux of 1 in views that have no unit; an image got its unit from it."""
    if args.zero_point is None or not _is_views(args):
        return None
    try:
        (zero_point,) = map(float, args.zero_point)
        if not math.isfinite(zero_point):
            raise ValueError(zero_point)
    except ValueError:
        raise InputError(
            f"--zero-point: found {', '.join(args.zero_point)} for {args.images[0]}, expected one "
            "magnitude"
        ) from None
    return zero_point


def _is_views(args):
    """Whether the file holds views; one with the name of a format is an image."""
    return len(args.images) == 1 and args.format is None and is_views(args.images[0])


def _view_to_separate(args, separator):
    """The given view of a dataset, or galaxies cut out as the model wants them, and their image."""
    if _is_views(args):
        names = ("positions", "psf", "psf_fwhm", "size", "frame_scale", "frame_size")
        given = [name for name in names if getattr(args, name) is not None]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise InputError(
                f"{args.images[0]}: found {option}, which is an option for images; the views were "
                "cut out already"
            )
        dataset = MultiViewDataset.read(args.images[0])
        if args.view is None:
            return dataset.richest, None
        if args.view not in dataset:
            raise InputError(f"--view: found {args.view!r}, expected one of {', '.join(dataset)}")
        return dataset[args.view], None
    if args.view is not None:
        raise InputError("--view: found it with an image, expected a file of views")
    n_pixels = next(iter(separator.source_shapes_.values()))[-1]
    images, options = read_tiles(args)
    size = args.size
    if args.instrument:
        # Stamps and sources have pixels of their own.
        size = 32 if size is None else size
        options["frame"] = {"size": n_pixels, **options["frame"]}
    elif size is None:
        size = n_pixels
    if not options.get("psf") and not separator.before_psf_:
        options["psf"] = False  # whatever the image brings along
    if args.tile is not None and isinstance(images, Mosaic):
        images = images.load()
    views = MultiViewDataset.from_image(images, **options, size=size, n_random=0)
    return views["galaxy"], images


def _check_ending(path, endings):
    """Refuse a name that tells other programs of another kind of file."""
    if path.suffix and path.suffix.lower() not in endings:
        raise InputError(
            f"{path}: found the ending {path.suffix!r}, expected one of {', '.join(endings)}"
        )


def _rejected_path(path):
    return path.with_name(path.name + ".rejected.ecsv")


def _write_rejected(table, args):
    """Write the positions that were not used beside the output, and tell of them."""
    if table is None or not len(table):
        return None  # what an output that is replaced has left goes with it
    path = _rejected_path(args.output)
    with replacing(path) as part:
        table.write(part, format="ascii.ecsv", overwrite=True)
    logger.warning("%s: %d positions that were not used, with the reason", path, len(table))
    return path
