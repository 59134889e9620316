"""What every set of observations that hold the same sources can do, of one instrument or several.

A `~astro_ddprism.View` has one image of each observation, a
`~astro_ddprism.views.multi.MultiInstrumentView` has several. All that learning and sampling ask for
is the same: names, how many pixels carry information, and batches of tensors (`Batch`).
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from astropy.wcs import WCS

from ..errors import InputError
from ..io.html import html_table
from ..io.mapped import release_pages, row_slices
from ..mixing import MixingOperator, Noise

__all__ = ["Batch", "Observations"]


@dataclass(frozen=True)
class Batch:
    """Some observations of a view as tensors: all that the diffusion core asks for.

    Attributes
    ----------
    y : Tensor, shape (B, *observation_shape)
        Flux, 0 at masked pixels.
    mixing : dict of str to MixingOperator
        How each source enters these observations.
    noise : Noise
        The noise of these observations.
    """

    y: torch.Tensor
    mixing: dict[str, MixingOperator]
    noise: Noise


class Observations(abc.ABC):
    """Observations that hold the same sources.

    Attributes
    ----------
    name : str
        Name of the view.
    unit : Unit
        Unit of the flux.
    ids : ndarray of str, shape (N,)
        Names of the observations.
    coordinates : SkyCoord, or None
        Position of each observation's target.
    source_wcs : list of WCS, or None
        World coordinates of each observation's sources, where they have pixels of their own.
    rejected : QTable, or None
        Positions that have no observation, where there were any: ``id``, ``sky_centroid`` and
        ``reason``.
    """

    name: str
    unit: u.UnitBase
    ids: np.ndarray
    coordinates: SkyCoord | None
    source_wcs: list[WCS] | None
    rejected: QTable | None = None

    @property
    @abc.abstractmethod
    def images(self) -> Mapping:
        """The `~astro_ddprism.View` of each instrument; of a single one under the name ``""``."""

    @property
    @abc.abstractmethod
    def source_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each source that the observations hold."""

    @abc.abstractmethod
    def n_valid(self, index=slice(None)) -> np.ndarray:
        """Number of pixels that carry information.

        Parameters
        ----------
        index : int, slice, array of int or bool
            Which observations.

        Returns
        -------
        n_valid : ndarray of int, shape (n,)
        """

    @abc.abstractmethod
    def __getitem__(self, index) -> "Observations":
        """Some of the observations.

        Parameters
        ----------
        index : int, str, slice, array of int or bool, or sequence of str
            Which observations, by number or by id; repeats are allowed, and one observation is a
            view of length 1.

        Returns
        -------
        view : Observations
            Of the same class.
        """

    @abc.abstractmethod
    def to(self, unit) -> "Observations":
        """The same observations in another unit of flux.

        Parameters
        ----------
        unit : Unit or str

        Returns
        -------
        view : Observations
            Of the same class.

        Raises
        ------
        InputError
            If the flux cannot be converted to this unit.
        """

    @abc.abstractmethod
    def batch(self, index=slice(None), *, scale=1.0, device="cpu", dtype=torch.float32):
        """Some of the observations as tensors.

        Parameters
        ----------
        index : int, slice, array of int or bool
            Which observations; repeats are allowed.
        scale : float or Quantity
            Flux, in the view's unit, that becomes 1 in the tensors.
        device : torch.device or str
        dtype : torch.dtype

        Returns
        -------
        batch : Batch, or tuple of Batch
            A tuple with one for each instrument where the view has several.
        """

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that the observations hold."""
        return tuple(self.source_shapes)

    def __len__(self):
        return len(self.ids)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def parts(self):
        """All observations, a few at a time, so that those in a file need little memory.

        Yields
        ------
        view : Observations
            Of the same class.
        """
        each = sum(image.data[:1].nbytes for image in self.images.values())
        for rows in row_slices(len(self), each):
            yield self[rows]
            release_pages()

    def table(self) -> QTable:
        """One row for each observation.

        Returns
        -------
        table : QTable
            Columns ``id``, ``sky_coord`` (where coordinates are known) and ``n_valid``, the number
            of pixels that carry information.
        """
        table = QTable({"id": self.ids})
        if self.coordinates is not None:
            table["sky_coord"] = self.coordinates
        table["n_valid"] = self.n_valid()
        return table

    def _error(self, argument, found, expected) -> InputError:
        view = f"view {self.name!r}" if self.name else "view"
        return InputError(f"{view}: {argument}: found {found}, expected {expected}")

    def rows(self, index) -> np.ndarray:
        """Numbers of some observations.

        Parameters
        ----------
        index : int, str, slice, array of int or bool, or sequence of str
            Which observations, by number or by id.

        Returns
        -------
        rows : ndarray of int, shape (n,)

        Raises
        ------
        InputError
            If no observation has this id, or several have.
        """
        if isinstance(index, torch.Tensor):
            index = index.cpu().numpy()
        elif not isinstance(index, slice):
            index = np.asarray(index)
            index = index.astype(int) if index.size == 0 else index
            if index.dtype.kind in "US":
                return np.array([self._row_of(str(name)) for name in np.atleast_1d(index)])
        return np.atleast_1d(np.arange(len(self))[index])

    def _row_of(self, name) -> int:
        found = np.flatnonzero(self.ids == name)
        if len(found) != 1:
            some = ", ".join(self.ids[:3]) + (", ..." if len(self) > 3 else "")
            what = "none of this name" if not len(found) else f"{len(found)} of this name"
            raise self._error(f"id {name!r}", what, f"one of the {len(self)}: {some}")
        return found[0]

    def _repr_html_(self):
        """What a notebook shows."""
        rows = []
        for instrument, image in self.images.items():
            rows.append(
                (
                    instrument or self.name or "images",
                    np.count_nonzero(image.n_valid()),
                    " × ".join(map(str, image.observation_shape)),
                    f"{image.masked_fraction():.2%}",
                    image.unit,
                )
            )
        title = f"{type(self).__name__} {self.name!r}, sources {', '.join(self.sources)}"
        return html_table(title, rows, ("", "observations", "pixels", "masked", "unit"))

    def _empty(self, n_valid) -> str:
        """How many observations have no valid pixel, and which."""
        names = self.ids[n_valid == 0]
        more = ", ..." if len(names) > 5 else ""
        return f"{len(names)} of {len(self)} observations ({', '.join(names[:5])}{more})"
