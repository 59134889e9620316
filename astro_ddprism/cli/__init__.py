"""The command line: ``ddprism demo | cutouts | fit | separate | info``.

Every command is a few calls of the functions that a Python user calls. What a user can mend ends in
one line on standard error, exit status 2 and no output file. What is being done is told on standard
error. The module of a command is imported once its arguments are known to be right, so that
``ddprism --help`` does not wait for PyTorch.
"""

import importlib
import logging
import sys
from contextlib import contextmanager

from ..errors import InputError
from .arguments import parse_arguments

__all__ = ["main"]

# Which module has the function of each command, of the same name.
COMMANDS = {
    "demo": "demo",
    "cutouts": "commands",
    "fit": "commands",
    "separate": "commands",
    "info": "info",
}


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
        args = parse_arguments(argv)
        with _messages(args.quiet):
            module = importlib.import_module(f".{COMMANDS[args.command]}", __name__)
            getattr(module, args.command)(args)
    except (InputError, OSError) as error:
        print(f"ddprism: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        notes = getattr(interruption, "__notes__", [])
        print("ddprism: interrupted" + "".join(f"; {note}" for note in notes), file=sys.stderr)
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
