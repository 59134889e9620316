"""Progress bars with the time left, for what takes more than a few seconds.

In a notebook they are its own, elsewhere lines on standard error, and where that is no terminal,
as in a job or a pipe, nobody looks at them and there are none.
"""

import builtins
import sys

import photutils
from astropy.utils import minversion
from tqdm.auto import tqdm

__all__ = ["Progress", "is_watched", "photutils_bar"]


def is_watched() -> bool:
    """Whether somebody may see a progress bar: in a notebook, or on a terminal."""
    shell = getattr(builtins, "get_ipython", None)
    if shell is not None and "IPKernelApp" in getattr(shell(), "config", {}):
        return True
    return sys.stderr is not None and sys.stderr.isatty()


class Progress:
    """Wraps iterables in progress bars.

    Parameters
    ----------
    shown : bool
        Whether bars are shown at all, where somebody looks (`is_watched`). They appear after two
        seconds.
    """

    def __init__(self, shown: bool = True):
        self.shown = shown

    def __call__(self, iterable, description: str, *, total: int | None = None):
        """Iterate with a bar.

        Parameters
        ----------
        iterable : iterable
            What to iterate over.
        description : str
            What is done.
        total : int, optional
            Number of items, where the iterable cannot tell.
        """
        return tqdm(
            iterable,
            desc=description,
            total=total,
            disable=not (self.shown and is_watched()),
            delay=2,
            leave=False,
        )


def photutils_bar(shown: bool) -> dict:
    """Keywords that show or hide the progress bars of photutils.

    Parameters
    ----------
    shown : bool
        Whether bars are shown.

    Returns
    -------
    keywords : dict
        Empty from photutils 3.1 on, which is fast enough to need no bar and deprecates the keyword.
    """
    return {} if minversion(photutils, "3.1") else {"progress_bar": shown and is_watched()}
