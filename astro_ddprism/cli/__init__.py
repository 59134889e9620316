"""The command line: ``ddprism demo | cutouts | fit | separate | survey | info``.

Every command is a few calls of the functions that a Python user calls. What a user can mend ends in
one line on standard error, exit status 2 and no output file. What is being done is told on standard
error. The module of a command is imported once its arguments are known to be right, so that
``ddprism --help`` does not wait for PyTorch.
"""

import importlib
import logging
import os
import sys
from contextlib import contextmanager

from ..errors import InputError
from .arguments import parse_arguments
from .streams import Terminated, open_streams, patient_errors, terminable

__all__ = ["main"]

# Which module has the function of each command, of the same name.
COMMANDS = {
    "demo": "demo",
    "cutouts": "commands",
    "fit": "commands",
    "separate": "commands",
    "info": "info",
    "survey": "survey",
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
        Exit status: 0; 2 where the input cannot be used, 130 where the user interrupts, or 128 and
        the number of the signal that ended it.
    """
    open_streams()
    with patient_errors():
        try:
            return _run(argv)
        except (InputError, OSError, MemoryError) as error:
            print(f"ddprism: error: {_one_line(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("ddprism: interrupted", file=sys.stderr)
            return 130
        except Terminated as error:
            print(f"ddprism: ended by signal {error.number}", file=sys.stderr)
            return 128 + error.number


def _run(argv):
    with terminable():
        args = parse_arguments(argv)
        with _messages(args.quiet):
            module = importlib.import_module(f".{COMMANDS[args.command]}", __name__)
            try:
                getattr(module, args.command)(args)
                sys.stdout.flush()
            except BrokenPipeError:  # nobody reads on, as with "ddprism info x | head -1"
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115
                return 128 + 13
            except RuntimeError as error:
                if "allocate memory" in str(error) or "out of memory" in str(error):  # torch
                    raise MemoryError(str(error).partition(". ")[0]) from error
                raise
    return 0


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return f"not enough memory ({text[:200]})" if isinstance(error, MemoryError) else text


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
