"""The images and the instruments that the arguments of a command name."""

import sys

from ..errors import InputError
from ..psf import BandPSFs, open_psf
from ..survey.images import pixel_angle
from ..survey.mosaic import open_image

__all__ = ["BAND_OPTIONS", "check_images", "cutout_options", "read_tiles"]

# Options of `survey.read_image` that take a value for each band: given once, they hold for all.
BAND_OPTIONS = (
    "hdu", "uncertainty", "variance", "ivar", "weight", "mask", "effective_gain", "saturation",
    "zero_point",
)  # fmt: skip


def check_images(args, what="TILE.fits"):
    """Refuse images of one instrument beside those of several, and none at all.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.
    what : str
        What messages call the images.

    Raises
    ------
    InputError
    """
    if bool(args.images) == bool(args.instrument):
        found = "both" if args.images else "neither"
        raise InputError(f"found {found} of {what} and --instrument, expected one of them")


def read_tiles(args):
    """The image, or that of every instrument, and the options of its cutouts.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.

    Returns
    -------
    image : `~astro_ddprism.survey.SurveyImage`, or dict of str to it
        What `~astro_ddprism.MultiViewDataset.from_image` takes.
    options : dict
        Its options.

    Raises
    ------
    InputError
        If an image cannot be used, or options do not fit the images.
    """
    options = cutout_options(args)
    if not args.instrument:
        if (args.frame_scale, args.frame_size) != (None, None):
            raise InputError(
                "--frame-scale, --frame-size: found one without --instrument, expected the sources "
                "to have the pixels of the image"
            )
        image = _images(args)
        if args.psf:
            own = {"oversampling": args.psf_oversampling, "scale": args.psf_scale}
            options["psf"] = [_psf(path, image, **own) for path in args.psf]
        elif (args.psf_oversampling, args.psf_scale) != (None, None):
            raise InputError("--psf-scale, --psf-oversampling: found one without --psf")
        return image, options
    images, own = _instruments(args)
    return images, {**options, **own}


def _psf(path, image, **options):
    return open_psf(path, pixel_scale=pixel_angle(image), wcs=image.wcs, **options)


def _images(args):
    """Read the tiles as the bands of one image."""
    options = {name: getattr(args, name) or [] for name in BAND_OPTIONS}
    for name, values in options.items():
        if len(values) not in {0, 1, len(args.images)}:
            option = name.replace("_", "-")
            raise InputError(
                f"--{option}: found {len(values)} of them, expected one, or one for each of the "
                f"{len(args.images)} images"
            )
    common = {
        "format": args.format,
        "bad_bits": args.bad_bits,
        "estimate_noise": args.estimate_noise,
        "subtract_background": args.subtract_background,
        "unit": args.unit,
    }
    return open_image(
        [
            (path, {**{name: v[i % len(v)] for name, v in options.items() if v}, **common})
            for i, path in enumerate(args.images)
        ]
    )


def _instruments(args):
    """Read the images of every instrument; and their PSFs and bands."""
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
        bands.setdefault(name, []).extend(options.pop("bands", []))
        common = {
            "format": args.format,
            "bad_bits": args.bad_bits,
            "estimate_noise": args.estimate_noise,
            "subtract_background": args.subtract_background,
            "unit": args.unit,
        }
        images.setdefault(name, []).append((path, {**common, **options}))
        if psf is not None:
            psfs.setdefault(name, []).append((psf, scale))
    images = {name: open_image(several) for name, several in images.items()}
    psfs = {
        name: [_psf(psf, images[name], fine=True, **scale) for psf, scale in several]
        for name, several in psfs.items()
    }
    for argument, given in (("psf", psfs), ("bands", bands)):
        for name, several in given.items():
            n_bands = images[name].n_bands
            if len(several) not in {0, 1 if argument == "psf" else n_bands, n_bands}:
                raise InputError(
                    f"--instrument {name}: found {len(several)} times {argument}, expected one for "
                    f"each of {n_bands} bands"
                )
    frame = {"scale": args.frame_scale, "size": args.frame_size}
    return images, {
        "psf": {n: p[0] if len(p) == 1 else BandPSFs(p) for n, p in psfs.items()} or None,
        "bands": {name: rows for name, rows in bands.items() if rows},
        "frame": {name: value for name, value in frame.items() if value is not None},
    }


def cutout_options(args) -> dict:
    """Options of cutouts that hold for any image: those of `MultiViewDataset.from_image`."""
    detection = {
        name: getattr(args, name)
        for name in ("threshold", "min_snr", "min_flux", "max_flux")
        if getattr(args, name) is not None
    }
    if args.keep_stars:
        detection["reject_stars"] = False
    detection["progress"] = not args.quiet and sys.stderr.isatty()
    return {
        **({"psf_fwhm": args.psf_fwhm} if args.psf_fwhm else {}),
        "positions": args.positions,
        "positions_format": args.positions_format,
        "id_column": args.id_column,
        "max_masked_fraction": args.max_masked_fraction,
        "correlated_noise": args.correlated_noise,
        "seed": 0 if args.seed is None else args.seed,
        "detection": detection,
    }
