"""Reading files: what a library throws becomes one line that names the file and the cause."""

import contextlib
import os
import stat
from pathlib import Path

from ..errors import InputError
from .outputs import refuse_output

__all__ = ["check_input", "file_name", "open_input", "printable", "reading", "reason_of"]


def check_input(path):
    """Refuse what is no file that ends, and what this run writes.

    Parameters
    ----------
    path : path-like
        A file that is to be read.

    Raises
    ------
    InputError
        If it is a folder, a device, a pipe or the like, reserved as an output, or its name cannot
        be one.
    OSError
        If there is no such file, or it may not be read.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # NUL
        raise InputError(f"{path!s:.200}: cannot be the name of a file ({error})") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: found a folder, expected a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: found a device, a pipe or the like, expected a plain file")
    refuse_output(path)


def open_input(path):
    """Open a file to read its bytes, as `check_input` allows.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    file
        To be closed.
    """
    check_input(path)
    return open(path, "rb")


@contextlib.contextmanager
def reading(path, expected, label=None):
    """Read a file within the block, by whatever library.

    Parameters
    ----------
    path : path-like
        The file.
    expected : str
        What it should be.
    label : str, optional
        What messages call it; its path if not given.

    Raises
    ------
    InputError
        For all that is raised within the block but an `InputError` or an `OSError` that names a
        file, with the cause.
    """
    label = str(path) if label is None else label
    with contextlib.suppress(FileNotFoundError):  # who opens it tells
        check_input(path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise of every kind
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise InputError(
            f"{label}: found a file that is damaged or something else ({reason_of(error)}), "
            f"expected {expected}"
        ) from error


def reason_of(error) -> str:
    """The kind of an error and its message, in one line.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    reason : str
    """
    text = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError):
        text = text or "it asks for more memory than there is"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def file_name(path) -> str:
    """The name of a file without its folder, as text that every format of files holds.

    Parameters
    ----------
    path : path-like
        Of a name in any bytes.

    Returns
    -------
    name : str
    """
    return printable(Path(path).name)


def printable(text) -> str:
    """Text with the bytes of names of files that are no UTF-8 escaped."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")
