"""The command line: ``ddprism demo | cutouts | fit | separate | survey | info``.

Every command is a few calls of the functions that a Python user calls. What a user can mend ends in
one line on standard error, exit status 2 and no output file. What is being done is told on standard
error. The module of a command is imported once its arguments are known to be right, so that
``ddprism --help`` does not wait for PyTorch.
"""

import contextlib
import importlib
import json
import os
import sys

from ..errors import InputError
from .arguments import parse_arguments
from .messages import LastLine, messages
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
    last = LastLine()
    with patient_errors():
        try:
            return _run(argv, last)
        except (InputError, OSError, MemoryError) as error:
            last(f"ddprism: error: {_one_line(error)}{_notes(error)}")
            return 2
        except KeyboardInterrupt as interruption:
            last(f"ddprism: interrupted{_notes(interruption)}")
            return 130
        except Terminated as error:
            last(f"ddprism: ended by signal {error.number}{_notes(error)}")
            return 128 + error.number


def _run(argv, last):
    with terminable():
        args = parse_arguments(argv)
        last.file = args.log_file
        with messages(args.quiet, args.log_file) as warned:
            module = importlib.import_module(f".{COMMANDS[args.command]}", __name__)
            try:
                told = getattr(module, args.command)(args)
                # Of several processes, the first alone tells.
                if told is not None and getattr(args, "json", False):
                    print(json.dumps({**told, "warnings": warned.texts}, indent=2, default=str))
                sys.stdout.flush()
            except BrokenPipeError:  # who reads has seen enough, as head has
                with contextlib.suppress(OSError):  # of what is left, nothing is flushed at the end
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except RuntimeError as error:
                if "allocate memory" in str(error) or "out of memory" in str(error):  # torch
                    full = MemoryError(str(error).partition(". ")[0])
                    full.__notes__ = getattr(error, "__notes__", [])
                    raise full from error
                raise
    return 0


def _notes(error) -> str:
    return "".join(f"; {' '.join(note.split())}" for note in getattr(error, "__notes__", []))


def _one_line(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return f"not enough memory ({text[:200]})" if isinstance(error, MemoryError) else text
