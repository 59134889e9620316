"""The errors that a user can mend."""

__all__ = ["InputError", "NotFittedError", "NothingFoundError", "UnknownNameError"]


class InputError(ValueError):
    """Input that cannot be used: a file, an argument or a table.

    The message names the culprit, says what was found and what was expected. The command line
    prints it as one line on standard error and exits with status 2.
    """


class NothingFoundError(InputError):
    """An image shows nothing to separate: no object, no galaxy among them, or none in its data.

    Of one tile of a survey that is no failure.
    """


class NotFittedError(InputError, AttributeError):
    """Nothing has been learned yet; ``hasattr`` of what would have been says so."""


class UnknownNameError(InputError, KeyError):
    """A mapping holds nothing of this name; it is a `KeyError`, too, as mappings have it."""

    __str__ = ValueError.__str__  # that of a KeyError would quote the message
