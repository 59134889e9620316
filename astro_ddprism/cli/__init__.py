"""cli."""

import logging
import sys
from contextlib import contextmanager

from ..errors import InputError
from .arguments import make_parser
from .commands import _cutouts, _demo, _fit, _separate
from .info import _info

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        Exit status: 0, or 2 where the input cannot be used.
    """
    try:
        args = make_parser().parse_args(argv)
        with _messages(args.quiet):
            COMMANDS[args.command](args)
    except (InputError, OSError) as error:
        print(f"ddprism: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddprism: interrupted", file=sys.stderr)
        return 130
    return 0


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


@contextmanager
def _messages(quiet):
    """Show on standard error what the package logs."""
    logger = logging.getLogger("astro_ddprism")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


COMMANDS = {
    "demo": _demo,
    "cutouts": _cutouts,
    "fit": _fit,
    "separate": _separate,
    "info": _info,
}
if __name__ == "__main__":
    sys.exit(main())
