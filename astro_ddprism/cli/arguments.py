"""The arguments of the command line, and files of options.

Nothing is imported here that needs PyTorch, so that ``ddprism --help`` does not wait for it.
"""

import argparse
import tomllib
from pathlib import Path

import shtab

from .. import __version__
from ..errors import InputError
from ..io.reading import open_input, reading
from .values import angle, gain, number, quantity, saturation, size, weights, whole

__all__ = ["parse_arguments", "read_config"]

# What may follow the file of an instrument's image.
INSTRUMENT_OPTIONS = (
    "psf", "psf_scale", "oversampling", "bands", "format", "hdu", "uncertainty", "variance", "ivar",
    "weight", "mask", "bad_bits", "effective_gain", "saturation", "unit", "zero_point",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message} (see {self.prog} --help)")


def _instrument(text):
    """Name, file and options of an instrument's image."""
    name, _, rest = text.partition("=")
    path, *parts = rest.split(",")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=FILE[,OPTION=VALUE,...]")
    options = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in INSTRUMENT_OPTIONS or not value:
            raise argparse.ArgumentTypeError(
                f"found {part!r} for {name}, expected OPTION=VALUE with one of "
                f"{', '.join(INSTRUMENT_OPTIONS)}"
            )
        read = {"psf_scale": angle, "oversampling": size, "bands": weights,
                "effective_gain": gain, "saturation": saturation}.get(key, str)  # fmt: skip
        options[key] = read(value)
    return name, Path(path), options


def parse_arguments(argv=None):
    """Parse the arguments, and for ``ddprism cutouts`` those in a file of options.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    `argparse.Namespace`
        ``command`` is the name of the command.

    Raises
    ------
    InputError
        If an argument or an option in the file is not known or has a wrong value.
    """
    parser, commands = _make_parser()
    args = parser.parse_args(argv)
    if args.command == "cutouts" and args.config is not None:
        _take_options(args, commands["cutouts"])
    return args


def _take_options(args, parser):
    """Fill in the options of a file that are not given as arguments, read as arguments are."""
    fixed = {"help", "quiet", "log_file", "config", "images", "output", "overwrite"}
    actions = {a.dest: a for a in parser._actions if a.dest not in fixed}
    for name, value in read_config(args.config).items():
        if name not in actions:
            raise InputError(
                f"{args.config}: found {name!r}, expected options of cutouts: "
                f"{', '.join(sorted(actions))}"
            )
        action = actions[name]
        if action.nargs == 0 and not isinstance(value, bool):
            raise InputError(f"{args.config}: {name}: found {value!r}, expected true or false")
        if getattr(args, name) != action.default or value is False:
            continue
        values = value if isinstance(value, list) else [value]
        option = action.option_strings[-1]
        given = [option] if value is True else [f"{option}={one}" for one in values]
        try:
            found = parser.parse_args([*given, "-o", "-"])
        except InputError as error:
            raise InputError(f"{args.config}: {error}") from error
        setattr(args, name, getattr(found, name))


def _make_parser():
    """The parser of all commands, whose errors are `InputError`, and those of each."""
    parser = _Parser(
        prog="ddprism",
        description="Separate galaxies from the light on their lines of sight.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    shtab.add_argument_to(
        parser, "--print-completion", help="print what completes commands and options in a shell"
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND"
    )
    for add in (_add_demo, _add_cutouts, _add_fit, _add_separate, _add_survey, _add_info):
        command = add(commands)
        command.add_argument("-q", "--quiet", action="store_true", help="only say what went wrong")
        command.add_argument("--log-file", type=Path, metavar="FILE",
                             help="write all messages there, too, with times")  # fmt: skip
    return parser, commands.choices


def read_config(path) -> dict:
    """Read a file of options.

    Parameters
    ----------
    path : `~pathlib.Path`
        A TOML file.

    Returns
    -------
    options : dict
        What it holds; its names are not looked at.

    Raises
    ------
    InputError
        If it is no TOML file.
    """
    with reading(path, "a TOML file"), open_input(path) as file:
        try:
            return tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a TOML file ({error})") from error


def _add_demo(commands):
    command = commands.add_parser(
        "demo", help="simulate a field, fit, separate, compare with truth"
    )
    command.add_argument("--out", type=Path, default=Path("ddprism-demo"), metavar="DIR",
                         help="folder for all files (default: %(default)s)")  # fmt: skip
    command.add_argument("--quick", action="store_true",
                         help="learn nothing: separate with a model that comes with the package, "
                         "in less than a minute")  # fmt: skip
    command.add_argument("--seed", type=whole(0), default=0, help="default: 0")
    command.add_argument("--device", default="auto", help="cpu, cuda, ... (default: auto)")
    return command


def _add_cutouts(commands):
    command = commands.add_parser("cutouts", help="cut survey images into views")
    command.add_argument("images", nargs="*", type=Path, metavar="TILE.fits",
                         help="image; several are bands on one pixel grid")  # fmt: skip
    _add_output(command, "VIEWS.asdf")
    command.add_argument("--tiles", nargs="+", type=Path, metavar="TILE.fits|LIST",
                         help="in place of an image: many of them, or lists, as of ddprism "
                         "survey, into one file; memory is that of one")  # fmt: skip
    command.add_argument("--config", type=Path, metavar="FILE.toml",
                         help="the options below by their names, such as n_random = 500; what is "
                         "given here as well holds")  # fmt: skip
    command.add_argument("--n-random", type=whole(0), help="random positions (default: 2 a galaxy)")
    command.add_argument("--random-distance", type=quantity, metavar="DISTANCE",
                         help="keep random positions so far from detections, in pixels or as "
                         "'5 arcsec' (default: do not avoid them)")  # fmt: skip
    command.add_argument("--crowded-fraction", type=number(0, 1), default=0.0, metavar="PART",
                         help="part of the random positions that lie beside detections, for a "
                         "model that has seen many blends (default: 0)")  # fmt: skip
    _add_image_options(command)
    _add_instrument_options(command)
    return command


def _add_fit(commands):
    command = commands.add_parser("fit", help="learn the priors from views")
    command.add_argument("views", type=Path, metavar="VIEWS.asdf")
    _add_output(command, "MODEL.asdf")
    command.add_argument("--config", type=Path, metavar="FILE.toml",
                         help="options of the method, as tables")  # fmt: skip
    command.add_argument("--method", metavar="NAME",
                         help="diffusion (default), gaussian (a fast first look), or a baseline: "
                         "pcpca, clvm-linear, clvm-vae")  # fmt: skip
    command.add_argument("--preset", choices=("galaxies", "none"),
                         help="where the configuration says nothing: what separates galaxies on "
                         "one pixel grid best, or the defaults (default: what fits the "
                         "views)")  # fmt: skip
    command.add_argument("--from", dest="initial", type=Path, metavar="MODEL",
                         help="fine-tune this model, a file or a name")  # fmt: skip
    command.add_argument("--resume", action="store_true",
                         help="go on with a fit that was interrupted")  # fmt: skip
    command.add_argument("--device", help="cpu, cuda, ... (default: auto)")
    command.add_argument("--seed", type=whole(0))
    return command


def _add_separate(commands):
    command = commands.add_parser("separate", help="draw the sources of every observation")
    command.add_argument("images", nargs="*", type=Path, metavar="TILE.fits|VIEWS.asdf",
                         help="image (several are bands), or views cut out of one")  # fmt: skip
    command.add_argument("--model", type=Path, required=True, metavar="MODEL.asdf|NAME",
                         help="a file, or the name of one that comes with the package")  # fmt: skip
    _add_output(command, "SEPARATED.fits")
    command.add_argument(
        "--catalog",
        type=Path,
        metavar="CAT.ecsv",
        help="write the catalog there, too: .ecsv, .fits, .vot, .parquet or .csv",
    )
    command.add_argument("--tile", type=Path, metavar="TILE.fits",
                         help="paste the separated galaxies, and the rest, back onto the pixels of "
                         "the image")  # fmt: skip
    command.add_argument("--stamps", type=Path, metavar="STAMPS.fits|FOLDER",
                         help="write every galaxy as an image with its WCS, in one file or each in "
                         "its own")  # fmt: skip
    command.add_argument("--all-sources", action="store_true",
                         help="measure line-of-sight light for the catalog, too")  # fmt: skip
    command.add_argument(
        "--json", action="store_true", help="print what was done and written, for programs"
    )
    command.add_argument("--samples", type=whole(1), default=16, metavar="N",
                         help="samples of each observation (default: %(default)s)")  # fmt: skip
    command.add_argument("--keep-samples", action="store_true",
                         help="write the samples, not only mean and deviation")  # fmt: skip
    command.add_argument("--aperture", type=size, metavar="RADIUS",
                         help="radius for the catalog's aperture fluxes, in pixels or as "
                         "'2 arcsec' (default: total fluxes only)")  # fmt: skip
    command.add_argument("--view", help="which view of VIEWS.asdf (default: that of most sources)")
    command.add_argument("--device", default="auto", help="cpu, cuda, ... (default: auto)")
    _add_image_options(command)
    _add_instrument_options(command)
    return command


def _add_survey(commands):
    command = commands.add_parser("survey", help="separate the galaxies of many images, on Dask")
    command.add_argument("tiles", nargs="+", type=Path, metavar="TILE.fits|LIST",
                         help="images, or lists of them: text of a name in each line, or a table "
                         "(.ecsv, .csv) with the column image and columns of options, such as "
                         "psf and mask")  # fmt: skip
    command.add_argument("--model", type=Path, required=True, metavar="MODEL.asdf|NAME",
                         help="a file, or the name of one that comes with the package")  # fmt: skip
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER",
                         help="run again with the same, it does what is missing or has "
                         "changed")  # fmt: skip
    command.add_argument("--scheduler", metavar="ADDRESS",
                         help="of a scheduler of Dask that is running (default: processes of this "
                         "machine)")  # fmt: skip
    command.add_argument("--workers", type=whole(0), metavar="N",
                         help="processes (default: one a GPU, or for two cores; 0: none but "
                         "this)")  # fmt: skip
    command.add_argument("--products", action="store_true", help="keep a FITS product of each tile")
    command.add_argument("--samples", type=whole(1), default=16, metavar="N",
                         help="samples of each observation (default: %(default)s)")  # fmt: skip
    command.add_argument("--keep-samples", action="store_true", help="in the products")
    command.add_argument("--aperture", type=size, metavar="RADIUS", help="as for separate")
    command.add_argument("--device", default="auto", help="cpu, cuda, ... (default: auto)")
    _add_image_options(command)
    return command


def _add_info(commands):
    command = commands.add_parser("info", help="tell what a file holds")
    command.add_argument("file", type=Path, metavar="FILE",
                         help="or the name of a model that comes with the package")  # fmt: skip
    command.add_argument("--json", action="store_true", help="for programs")
    return command


def _add_output(command, metavar):
    command.add_argument("-o", "--output", type=Path, required=True, metavar=metavar)
    command.add_argument("--overwrite", action="store_true", help="replace existing files")


def _add_image_options(command):
    cutouts = command.add_argument_group("cutouts")
    add = cutouts.add_argument
    add(
        "--positions",
        type=Path,
        metavar="TABLE",
        help="galaxies (RA, Dec, id) instead of detection",
    )
    add("--positions-format", metavar="NAME", help="astropy's format of the table (default: found "
        "by looking at it)")  # fmt: skip
    add("--id-column", metavar="NAME", help="column of the table that names the galaxies (default: "
        "id, objectId, NUMBER, ...)")  # fmt: skip
    add("--psf", action="append", type=Path, metavar="FITS", help="point spread function (one, or "
        "one for each band); the sources are then the light before it")  # fmt: skip
    add("--psf-scale", type=angle, metavar="ARCSEC", help="angle of the PSF's pixels, where its "
        "header does not tell (default: those of the image)")  # fmt: skip
    add("--psf-oversampling", type=size, metavar="N", help="or how many of them fit on one of "
        "the image")  # fmt: skip
    add("--psf-fwhm", action="append", type=angle, metavar="ANGLE", help="FWHM of the stars, in "
        "arcseconds or with a unit, once or for each band (default: measured)")  # fmt: skip
    add("--size", type=whole(1), help="side in pixels (default: 32, or that of the model)")
    add(
        "--max-masked-fraction",
        type=number(0, 1),
        default=0.2,
        metavar="F",
        help="default: %(default)s",
    )
    add("--seed", type=whole(0), default=0, help="default: 0")

    detection = command.add_argument_group("detection").add_argument
    detection("--threshold", type=number(1e-3), help="in units of the noise (default: 1.5)")
    detection("--min-snr", type=number(0), help="least signal-to-noise ratio (default: 10)")
    detection("--min-flux", type=quantity, metavar="FLUX", help="a number or 'NUMBER UNIT'")
    detection("--max-flux", type=quantity, metavar="FLUX")
    detection("--keep-stars", action="store_true", help="do not reject stars")

    image = command.add_argument_group(
        "image; options with * once, or once for each band"
    ).add_argument
    image(
        "--format", metavar="NAME", help="format of the files (default: found by looking at them)"
    )
    image("--hdu", action="append", metavar="EXT",
          help="* extension of the image: number, name, or NAME,VERSION")  # fmt: skip
    for name in ("uncertainty", "variance", "ivar", "weight", "mask"):
        image(
            f"--{name}",
            action="append",
            metavar="EXT|FITS",
            help=f"* extension or file of the {name}",
        )
    image(
        "--bad-bits",
        metavar="BITS",
        help="bits of the mask that are bad: 5, 0x1F or names such as SAT,CR (default: those that "
        "mean defects where they have names, else all)",
    )
    image("--estimate-noise", action="store_true", help="measure the noise in the image's sky")
    image("--subtract-background", action="store_true", help="subtract the level of the sky")
    image("--effective-gain", action="append", type=gain, metavar="GAIN|KEYWORD|EXT|FITS",
          help="* electrons for each unit of flux, for photon noise of the sources: a number, a "
          "keyword of the header, or an extension or file with a map of exposure")  # fmt: skip
    image("--saturation", action="append", type=saturation, metavar="LEVEL|auto",
          help="* saturation level, or auto to find it (default: SATURATE)")  # fmt: skip
    image("--unit", help="unit of the pixels, instead of BUNIT")
    image("--zero-point", action="append", metavar="MAG|KEYWORD|header",
          help="* AB magnitude of a pixel value of 1, the keyword that tells it, or header for "
          "what the format knows; fluxes are then in microjansky")  # fmt: skip
    image("--correlated-noise", type=whole(1), nargs="?", const=3, metavar="LAG",
          help="measure how neighbouring pixels share their noise, up to this distance "
          "(default: independent; without a number: 3)")  # fmt: skip


def _add_instrument_options(command):
    several = command.add_argument_group("several instruments, instead of TILE.fits").add_argument
    several("--instrument", action="append", type=_instrument, metavar="NAME=FILE[,OPTION=VALUE]",
            help="image of an instrument; once more with the same name for each further band, on "
            "the same pixel grid. Options: psf=FITS, with psf_scale=ARCSEC or oversampling=N where "
            "its header does not tell; bands=W:W:..., the shares of the source's bands in this "
            "one; and format, hdu (SCI:2 for SCI,2), uncertainty, variance, ivar, weight, mask, "
            "bad_bits (SAT|CR), effective_gain, saturation, unit, zero_point, as for "
            "TILE.fits")  # fmt: skip
    several("--frame-scale", type=angle, metavar="ARCSEC",
            help="pixels of the sources (default: the smallest of all images)")  # fmt: skip
    several("--frame-size", type=angle, metavar="ARCSEC",
            help="side of the sources (default: that of the model, or all images)")  # fmt: skip
