"""The command line: ``ddprism demo | cutouts | fit | separate | info``.

Every command is a few calls of the functions that a Python user calls. What a user can mend ends in
one line on standard error, exit status 2 and no output file; outputs that exist already are found
before any work begins. What is being done is told on standard error.
"""

import sys

from ..errors import InputError
from .info import _is_asdf

__all__ = []

CATALOG_FORMATS = {
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
    ".fits": "fits",
    ".vot": "votable",
    ".xml": "votable",
}
# Options of `survey.read_image` that take a value for each band: given once, they hold for all.
BAND_OPTIONS = (
    "hdu", "uncertainty", "variance", "ivar", "weight", "mask", "effective_gain", "saturation",
    "zero_point",
)  # fmt: skip
# Options of a separator that a fit takes from the model that it starts from.
OPTIONS_OF_MODELS = (
    "network", "network_options", "posterior", "posterior_options", "flux_factors",
)  # fmt: skip


def _demo(args):
    from .demo import run_demo

    run_demo(args.out, seed=args.seed, device=args.device, progress=not args.quiet)


def _cutouts(args):
    _check_outputs(args, args.output)
    from ..views.dataset import MultiViewDataset

    _check_images(args)
    images, options = _tiles(args)
    dataset = MultiViewDataset.from_image(
        images,
        **options,
        size=32 if args.size is None else args.size,
        n_random=args.n_random,
        random_distance=args.random_distance,
        crowded_fraction=args.crowded_fraction,
    )
    dataset.write(args.output, overwrite=args.overwrite)


def _fit(args):
    _check_outputs(args, args.output)
    checkpoint = args.output.with_name(args.output.name + ".checkpoint")
    if checkpoint.exists() and not (args.resume or args.overwrite):
        raise InputError(
            f"{checkpoint}: found an unfinished fit, expected --resume to go on with it or "
            "--overwrite to begin anew"
        )
    from ..separator.diffusion import DiffusionSourceSeparator
    from ..views.dataset import MultiViewDataset

    config = _config(args.config) if args.config else {}
    for name in ("device", "seed"):
        if getattr(args, name) is not None:
            config[name] = getattr(args, name)
    initial = None
    if args.initial is not None:
        initial = DiffusionSourceSeparator.read(args.initial, device=config.get("device", "auto"))
        config = {**{name: getattr(initial, name) for name in OPTIONS_OF_MODELS}, **config}
    separator = DiffusionSourceSeparator.from_config({**config, "progress": not args.quiet})
    dataset = MultiViewDataset.read(args.views)
    resume = args.resume and checkpoint.exists()
    separator.fit(dataset, initial=initial, checkpoint=checkpoint, resume=resume)
    separator.write(args.output, overwrite=args.overwrite)
    checkpoint.unlink(missing_ok=True)


def _separate(args):
    _check_outputs(args, args.output, args.catalog)
    _check_images(args, "TILE.fits or VIEWS.asdf")
    catalog_format = _catalog_format(args.catalog)
    from ..io.fits import replacing
    from ..posterior.product import plain_catalog
    from ..separator.diffusion import DiffusionSourceSeparator

    separator = DiffusionSourceSeparator.read(
        args.model, device=args.device, progress=not args.quiet
    )
    samples = separator.sample(
        _view_to_separate(args, separator), n_samples=args.samples, seed=args.seed
    )
    catalog = samples.catalog(
        args.aperture, zero_point=_catalog_zero_point(args), progress=not args.quiet
    )
    samples.write(args.output, overwrite=args.overwrite, samples=args.keep_samples, catalog=catalog)
    if args.catalog is not None:
        # Only ECSV tells sky coordinates and systems of magnitudes as they are.
        table = catalog if catalog_format == "ascii.ecsv" else plain_catalog(catalog)
        with replacing(args.catalog, args.overwrite) as path:
            table.write(path, format=catalog_format, overwrite=True)


def _catalog_zero_point(args):
    """The magnitude of a flux of 1 in views that have no unit; an image got its unit from it."""
    if args.zero_point is None or not (args.images and _is_asdf(args.images[0])):
        return None
    try:
        (zero_point,) = map(float, args.zero_point)
    except ValueError:
        raise InputError(
            f"--zero-point: found {', '.join(args.zero_point)} for {args.images[0]}, expected one "
            "magnitude"
        ) from None
    return zero_point


def _view_to_separate(args, separator):
    """The given view of a dataset, or the galaxies of images, cut out as the model wants them."""
    from ..views.dataset import MultiViewDataset

    if len(args.images) == 1 and not args.instrument and _is_asdf(args.images[0]):
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
    images, options = _tiles(args)
    size = args.size
    if args.instrument:
        # Stamps and sources have pixels of their own.
        size = 32 if size is None else size
        options["frame"] = {"size": n_pixels, **options["frame"]}
    elif size is None:
        size = n_pixels
    return MultiViewDataset.from_image(images, **options, size=size, n_random=0)["galaxy"]


def _check_outputs(args, *paths):
    """Find out before the work whether its outcome can be written."""
    paths = [path for path in paths if path is not None]
    for path in paths:
        if not path.parent.is_dir():
            raise InputError(f"{path}: found no folder {path.parent}, expected one to write into")
        if path.is_dir():
            raise InputError(f"{path}: found a folder, expected a file to write")
        if path.exists() and not args.overwrite:
            raise InputError(f"{path}: found an existing file, expected a new one or --overwrite")
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"{paths[0]}: found as two outputs, expected two files")


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


def _config(path):
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from error


def _check_images(args, what="TILE.fits"):
    if bool(args.images) == bool(args.instrument):
        found = "both" if args.images else "neither"
        raise InputError(f"found {found} of {what} and --instrument, expected one of them")


def _tiles(args):
    """The image, or that of every instrument, and the options of its cutouts."""
    options = _cutout_options(args)
    if not args.instrument:
        if (args.frame_scale, args.frame_size) != (None, None):
            raise InputError(
                "--frame-scale, --frame-size: found one without --instrument, expected the sources "
                "to have the pixels of the image"
            )
        return _images(args), options
    images, own = _instruments(args)
    return images, {**options, **own}


def _images(args):
    """Read the tiles as the bands of one image."""
    from ..survey import read_image, stack_bands

    options = {name: getattr(args, name) or [] for name in BAND_OPTIONS}
    for name, values in options.items():
        if len(values) not in {0, 1, len(args.images)}:
            option = name.replace("_", "-")
            raise InputError(
                f"--{option}: found {len(values)} of them, expected one, or one for each of the "
                f"{len(args.images)} images"
            )
    return stack_bands(
        [
            read_image(
                path,
                **{name: v[i % len(v)] for name, v in options.items() if v},
                bad_bits=args.bad_bits,
                estimate_noise=args.estimate_noise,
                subtract_background=args.subtract_background,
                unit=args.unit,
            )
            for i, path in enumerate(args.images)
        ]
    )


def _instruments(args):
    """Read the images of every instrument; and their PSFs and bands."""
    from ..psf import BandPSFs, ImagePSF
    from ..survey import read_image, stack_bands

    if args.psf_fwhm:
        raise InputError("--psf-fwhm: found it beside --instrument, expected none")
    for name in ("psf", *BAND_OPTIONS):
        if getattr(args, name):
            option = name.replace("_", "-")
            raise InputError(
                f"--{option}: found it beside --instrument, expected it there: {name}="
            )
    images, psfs, bands = {}, {}, {}
    for name, path, options in args.instrument:
        options = dict(options)
        psf = options.pop("psf", None)
        scale = {"scale": options.pop("psf_scale", None)}
        scale["oversampling"] = options.pop("oversampling", None)
        if psf is not None:
            psfs.setdefault(name, []).append(ImagePSF.read(psf, **scale))
        bands.setdefault(name, []).extend(options.pop("bands", []))
        common = {
            "bad_bits": args.bad_bits,
            "estimate_noise": args.estimate_noise,
            "subtract_background": args.subtract_background,
            "unit": args.unit,
        }
        images.setdefault(name, []).append(read_image(path, **{**common, **options}))
    for argument, given in (("psf", psfs), ("bands", bands)):
        for name, several in given.items():
            n_bands = sum(image.n_bands for image in images[name])
            if len(several) not in {0, 1 if argument == "psf" else n_bands, n_bands}:
                raise InputError(
                    f"--instrument {name}: found {len(several)} times {argument}, expected one for "
                    f"each of {n_bands} bands"
                )
    frame = {"scale": args.frame_scale, "size": args.frame_size}
    return {name: stack_bands(several) for name, several in images.items()}, {
        "psf": {n: p[0] if len(p) == 1 else BandPSFs(p) for n, p in psfs.items()} or None,
        "bands": {name: rows for name, rows in bands.items() if rows},
        "frame": {name: value for name, value in frame.items() if value is not None},
    }


def _cutout_options(args):
    detection = {
        name: getattr(args, name)
        for name in ("threshold", "min_snr", "min_flux", "max_flux")
        if getattr(args, name) is not None
    }
    if args.keep_stars:
        detection["reject_stars"] = False
    detection["progress"] = not args.quiet and sys.stderr.isatty()
    return {
        "psf": args.psf,
        **({"psf_fwhm": args.psf_fwhm} if args.psf_fwhm else {}),
        "positions": args.positions,
        "max_masked_fraction": args.max_masked_fraction,
        "correlated_noise": args.correlated_noise,
        "seed": 0 if args.seed is None else args.seed,
        "detection": detection,
    }
