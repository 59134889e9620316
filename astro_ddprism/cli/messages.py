"""What the command line tells: on standard error, in a file of its own, and to other programs."""

import logging
import sys
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError

__all__ = ["LastLine", "Warned", "messages"]


class LastLine:
    """Tells the last line of a run that did not end well: on standard error, and in a log file.

    Attributes
    ----------
    file : `~pathlib.Path`, optional
        The log file; where it could not be made, nothing goes there.
    """

    file = None

    def __call__(self, line):
        """Tell a line."""
        print(line, file=sys.stderr)
        if self.file is not None and Path(self.file).is_file():
            with Path(self.file).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


class Warned(logging.Handler):
    """Keeps what was warned of."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        """Keep the text of a record."""
        self.texts.append(record.getMessage())


@contextmanager
def messages(quiet, log_file=None):
    """Show on standard error what the package logs, and write it down.

    Parameters
    ----------
    quiet : bool
        Whether only warnings are shown.
    log_file : `~pathlib.Path`, optional
        To this file goes all of it, with times, after what it holds already.

    Yields
    ------
    warned : Warned

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    logger = logging.getLogger("astro_ddprism")
    warned, shown = Warned(), logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(message)s"))
    shown.setLevel(logging.WARNING if quiet else logging.INFO)
    handlers = [warned, shown]
    if log_file is not None:
        try:
            file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise InputError(f"--log-file {log_file}: {error.strerror}") from error
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield warned
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
