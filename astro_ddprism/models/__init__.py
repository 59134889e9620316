"""Models that come with the package.

A model is an ASDF file in this folder, and its name is that of the file: ``kids-r.asdf`` is
``"kids-r"``. Wherever a model is asked for, a name does as well as the path of a file; a file that
exists wins.
"""

from pathlib import Path

from ..errors import InputError

__all__ = ["find_model", "list_models"]

FOLDER = Path(__file__).parent
SUFFIX = ".asdf"


def list_models() -> tuple[str, ...]:
    """Names of the models that come with the package.

    Returns
    -------
    names : tuple of str
        In alphabetical order.
    """
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def find_model(model) -> Path:
    """The file of a model.

    Parameters
    ----------
    model : path-like
        A file, or the name of a model that comes with the package.

    Returns
    -------
    path : `~pathlib.Path`
        The file; one that is named by a path need not exist.

    Raises
    ------
    InputError
        If it is neither a file, nor a name that is known.

    Examples
    --------
    >>> from astro_ddprism.models import find_model
    >>> find_model("mine.asdf").name
    'mine.asdf'
    """
    path = Path(model)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    if str(model) in list_models():
        return FOLDER / f"{model}{SUFFIX}"
    raise InputError(
        f"model: found {str(model)!r}, which is no file, expected one, or the name of a model that "
        f"comes with the package: {', '.join(list_models()) or 'there is none'}"
    )
