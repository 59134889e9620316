"""The command line: ``ddprism demo | cutouts | fit | separate | info``.

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
from pathlib import Path

from ..errors import InputError
from .arguments import parse_arguments
from .messages import messages

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
    log_file = None
    try:
        args = parse_arguments(argv)
        log_file = args.log_file
        with messages(args.quiet, log_file) as warned:
            module = importlib.import_module(f".{COMMANDS[args.command]}", __name__)
            told = getattr(module, args.command)(args)
            # Of several processes, the first alone tells.
            if told is not None and getattr(args, "json", False):
                print(json.dumps({**told, "warnings": warned.texts}, indent=2, default=str))
            sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, as head has
        with contextlib.suppress(OSError):  # of what is left, nothing is flushed at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (InputError, OSError) as error:
        line = f"ddprism: error: {_one_line(error)}"
        print(line, file=sys.stderr)
        if log_file is not None and Path(log_file).is_file():
            with Path(log_file).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
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
