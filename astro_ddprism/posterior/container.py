"""Posterior samples as an object like others: rows of it, joined, copied, kept in a file, shown."""

import copy
from collections.abc import Iterator
from typing import Self

import numpy as np
from astropy import units as u

from ..errors import InputError
from ..io.fits import write_fits
from ..io.html import html_table
from ..units import AB_FLUX
from ..views.joining import join_views
from .product import product_hdus
from .reading import read_product

__all__ = ["SampleContainer"]


class SampleContainer:
    """What `~astro_ddprism.PosteriorSamples` has in common with lists of observations."""

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index) -> Self:
        """The samples of some observations.

        Parameters
        ----------
        index : int, str, slice, array of int or bool, or sequence of str
            Which observations, by number or by id; one of them is a set of length 1.

        Returns
        -------
        samples : PosteriorSamples
        """
        rows = self.view.rows(index)
        chosen = {source: x.value[:, rows] for source, x in self.samples.items()}
        return self._like(chosen, self.view[rows])

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    @classmethod
    def join(cls, several, names=None) -> Self:
        """Put the samples of several sets of observations, such as those of tiles, into one.

        Parameters
        ----------
        several : sequence of PosteriorSamples
            Of as many samples of the same sources.
        names : sequence of str, optional
            A name for each, with which the ids then begin: ``NAME/ID``.

        Returns
        -------
        samples : PosteriorSamples
            Its provenance is what all have in common.

        Raises
        ------
        InputError
            If numbers of samples, sources or shapes differ, or two observations have one id.
        """
        several = list(several)
        numbers = {one.n_samples for one in several}
        if len(numbers) != 1:
            raise InputError(
                f"several: found {', '.join(map(str, sorted(numbers))) or 'no'} samples of each "
                "observation, expected one number"
            )
        view = join_views([one.view for one in several], names)
        samples = {
            source: np.concatenate(
                [one.samples[source].to_value(view.unit, AB_FLUX) for one in several], axis=1
            )
            for source in view.sources
        }
        first = several[0].provenance
        same = {
            key: value
            for key, value in first.items()
            if all(one.provenance.get(key) == value for one in several)
        }
        return cls(samples, view, provenance=same, device=several[0].device)

    def write(self, path, overwrite=False, samples=False, aperture=None, catalog=None):
        """Write a multi-extension FITS product.

        It holds the provenance, the catalog, the observations, their residuals, and mean and
        standard deviation of every source, as `~astro_ddprism.posterior.product.product_hdus`
        lays them out.

        Parameters
        ----------
        path : path-like
            The file to be.
        overwrite : bool
            Whether an existing file is replaced. A write that is killed leaves the old file whole.
        samples : bool
            Whether to add the samples themselves, ``SOURCE_SAMPLES`` (n_samples, N, bands, ny, nx),
            and the view, so that `read` brings all of it back.
        aperture : float or Quantity, optional
            Radius of the aperture of the catalog's fluxes, as for `flux`.
        catalog : QTable, optional
            What `catalog` returned, of these samples, with whatever options; else it is made.

        Raises
        ------
        InputError
            If the file exists and may not be replaced, its folder does not exist, or both a catalog
            and an aperture are given.
        """
        if catalog is None:
            catalog = self.catalog(aperture)
        elif aperture is not None:
            raise InputError("aperture: found it beside a catalog, which has its own")
        write_fits(product_hdus(self, catalog, samples=samples), path, overwrite)

    @classmethod
    def read(cls, path, device="cpu") -> Self:
        """Read a product that was written with its samples.

        Parameters
        ----------
        path : path-like
            What `write` wrote with ``samples=True``, or ``ddprism separate --keep-samples``.
        device : torch.device or str
            Where the light of the samples is computed.

        Returns
        -------
        samples : PosteriorSamples

        Raises
        ------
        InputError
            If the file is no product, is damaged, or does not hold the samples.
        """
        samples, view, provenance = read_product(path)
        return cls(samples, view, provenance=provenance, device=device)

    def mean_sample(self) -> Self:
        """Their mean as one sample, whose light is the mean of theirs.

        Returns
        -------
        samples : PosteriorSamples
        """
        return self._like({s: x.value[np.newaxis] for s, x in self.mean.items()}, self.view)

    def __reduce__(self):
        # What is computed from the samples is not carried along, and their WCS are the view's.
        samples = {source: x.value for source, x in self.samples.items()}
        return _rebuilt, (type(self), samples, self.view, self.provenance, str(self.device))

    def __copy__(self):
        return self._like(self.samples, self.view)

    def __deepcopy__(self, memo):
        samples = {source: x.value.copy() for source, x in self.samples.items()}
        return self._like(samples, copy.deepcopy(self.view, memo))

    def __repr__(self):
        unit = f" in {self.view.unit}" if self.view.unit != u.dimensionless_unscaled else ""
        return (
            f"<PosteriorSamples: {self.n_samples} samples of {len(self.view)} observations{unit}, "
            f"sources: {', '.join(self.sources)}>"
        )

    def _repr_html_(self):
        """What a notebook shows."""
        shapes = self.view.source_shapes.items()
        rows = [
            ("observations", f"{len(self)} of view {self.view.name!r}"),
            ("samples of each", self.n_samples),
            ("unit", self.view.unit),
            *((f"source {source}", " × ".join(map(str, shape))) for source, shape in shapes),
            *((name, value) for name, value in self.provenance.items() if name != "sha256"),
        ]
        return html_table("PosteriorSamples", rows)

    def _like(self, samples, view):
        """Samples made with the same."""
        return type(self)(samples, view, provenance=self.provenance, device=self.device)


def _rebuilt(kind, samples, view, provenance, device):
    return kind(samples, view, provenance=provenance, device=device)
