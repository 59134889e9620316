"""Progress bars with the time left, for what takes more than a few seconds."""

import photutils
from astropy.utils import minversion
from tqdm import tqdm

__all__ = ["Progress", "photutils_bar"]


class Progress:
    """Wraps iterables in progress bars.

    Parameters
    ----------
    shown : bool
        Whether bars are shown at all. They appear on standard error, after two seconds.
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
            iterable, desc=description, total=total, disable=not self.shown, delay=2, leave=False
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
    return {} if minversion(photutils, "3.1") else {"progress_bar": shown}
