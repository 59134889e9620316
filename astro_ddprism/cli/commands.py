"""The commands that work with views and models: ``ddprism cutouts | fit | separate``.

Outputs are reserved before any work begins, and are all there at its end, or none.
"""

import logging
import math

from ..errors import InputError
from ..io.outputs import replacing, reserved
from ..io.reading import check_input
from ..posterior.product import plain_catalog, storable
from ..separator import SourceSeparator
from ..separator.tiles import separate_view
from ..views.dataset import MultiViewDataset
from .arguments import read_config
from .images import check_images, read_tiles
from .info import is_views

__all__ = ["cutouts", "fit", "separate"]

logger = logging.getLogger(__name__)

CATALOG_FORMATS = {
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
    ".fits": "fits",
    ".vot": "votable",
    ".xml": "votable",
}
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
        check_images(args)
        if args.config is not None:
            check_input(args.config)  # which was read before
        images, options = read_tiles(args)
        dataset = MultiViewDataset.from_image(
            images,
            **options,
            size=32 if args.size is None else args.size,
            n_random=args.n_random,
            random_distance=args.random_distance,
            crowded_fraction=args.crowded_fraction,
        )
        dataset.write(args.output)
        _write_rejected(dataset.rejected, args)


def fit(args):
    """Learn the priors from views.

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
    with reserved(args.output, overwrite=args.overwrite):
        _check_ending(args.output, VIEW_ENDINGS)
        if checkpoint.exists() and not (args.resume or args.overwrite):
            raise InputError(
                f"{checkpoint}: found an unfinished fit, expected --resume to go on with it or "
                "--overwrite to begin anew"
            )
        separator, dataset, initial = _fit_inputs(args)
        resume = args.resume and checkpoint.exists()
        separator.fit(dataset, initial=initial, checkpoint=checkpoint, resume=resume)
        separator.write(args.output)
    checkpoint.unlink(missing_ok=True)


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
    separator = SourceSeparator.from_config({**config, "progress": not args.quiet})
    return separator, MultiViewDataset.read(args.views), initial


def separate(args):
    """Draw the sources of every observation.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.
    """
    outputs = [args.output, _rejected_path(args.output)]
    outputs += [args.catalog] if args.catalog is not None else []
    with reserved(*outputs, overwrite=args.overwrite):
        _check_ending(args.output, PRODUCT_ENDINGS)
        check_images(args, "TILE.fits or VIEWS.asdf")
        catalog_format = _catalog_format(args.catalog)
        zero_point = _catalog_zero_point(args)
        separator = SourceSeparator.read(args.model, device=args.device, progress=not args.quiet)
        view = _view_to_separate(args, separator)
        # What cannot be written shows before the work.
        _write_catalog(view.table(), args.catalog, catalog_format)
        catalog = separate_view(
            separator,
            view,
            args.output,
            n_samples=args.samples,
            seed=args.seed,
            keep_samples=args.keep_samples,
            aperture=args.aperture,
            zero_point=zero_point,
        )
        _write_catalog(catalog, args.catalog, catalog_format)
        _write_rejected(view.rejected, args)


def _write_catalog(catalog, path, catalog_format):
    if path is None:
        return
    # Only ECSV tells sky coordinates and systems of magnitudes as they are.
    table = catalog if catalog_format == "ascii.ecsv" else plain_catalog(catalog)
    if catalog_format == "fits":
        table = storable(table)
    with replacing(path) as part:
        try:
            table.write(part, format=catalog_format, overwrite=True)
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: cannot be written: {error}") from error


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
    """The given view of a dataset, or the galaxies of images, cut out as the model wants them."""
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
        # The view that holds the most sources is the one in which there is something to separate.
        name = args.view or max(dataset, key=lambda name: len(dataset[name].sources))
        if name not in dataset:
            raise InputError(f"--view: found {name!r}, expected one of {', '.join(dataset)}")
        return dataset[name]
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
    return MultiViewDataset.from_image(images, **options, size=size, n_random=0)["galaxy"]


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
        return  # what an output that is replaced has left goes with it
    path = _rejected_path(args.output)
    with replacing(path) as part:
        table.write(part, format="ascii.ecsv", overwrite=True)
    logger.warning("%s: %d positions that were not used, with the reason", path, len(table))


def _catalog_format(path):
    if path is None:
        return None
    try:
        return CATALOG_FORMATS[path.suffix.lower()]
    except KeyError:
        raise InputError(
            f"--catalog {path}: found the ending {path.suffix!r}, expected one of "
            f"{', '.join(CATALOG_FORMATS)}"
        ) from None
