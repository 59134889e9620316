"""Several views of the same sources: everything that a separator learns from.

A `MultiViewDataset` is a mapping of named views. *Contrastive* views hold more and more sources
(random sky holds line-of-sight light, a galaxy's cutout holds that and a galaxy); *mixed* views
hold all, at known fractions. A dataset comes from a survey image, from cutouts that exist or from
plain arrays, and is kept in one ASDF file.
"""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from astropy.table import QTable, vstack

from ..errors import InputError, UnknownNameError
from ..io.asdf import map_tree, read_tree, write_tree
from .base import Observations
from .build import view_of_cutouts, views_from_image
from .build_several import views_from_cutouts, views_from_images
from .files import format_version, get_extensions
from .given import as_operator
from .joining import join_views
from .pixels import median
from .view import View

__all__ = ["MultiViewDataset"]

DEFAULT_SOURCES = MappingProxyType({"random": ("los",), "galaxy": ("los", "galaxy")})
"""Which sources the views hold that are cut out of a survey image."""
MOST_IN_MEMORY = 1 << 28  # bytes, from which on a file is memory-mapped
_OPTIONAL = (
    "variance", "noise", "effective_gain", "mask", "unit", "wcs", "source_wcs", "coordinates",
    "saturated", "ids",
)  # fmt: skip


class MultiViewDataset(Mapping[str, Observations]):
    """Named views of the same sources.

    Parameters
    ----------
    views : mapping of str to View or MultiInstrumentView
        Views in other units than the first are converted to it.

    Raises
    ------
    InputError
        If there is no view, units cannot be converted, or two views disagree on the shape of a
        source.

    See Also
    --------
    MultiViewDataset.from_image : Cut views out of a survey image.
    MultiViewDataset.from_fits : Take cutouts that exist.
    MultiViewDataset.from_arrays : Take plain arrays.

    Examples
    --------
    Two views of vectors: one holds the source ``a`` alone, the other ``a`` and ``b``.

    >>> import numpy as np
    >>> from astro_ddprism import MultiViewDataset
    >>> rng = np.random.default_rng(0)
    >>> A = rng.normal(size=(100, 3, 5))
    >>> dataset = MultiViewDataset.from_arrays({
    ...     "first": dict(data=rng.normal(size=(100, 3)), variance=0.01, mixing={"a": A}),
    ...     "second": dict(data=rng.normal(size=(100, 3)), variance=0.01, mixing={"a": A, "b": A}),
    ... })
    >>> dataset.sources
    ('a', 'b')
    >>> dataset.source_shapes
    {'a': (5,), 'b': (5,)}
    >>> round(dataset.noise_scale, 3)
    0.1
    """

    def __init__(self, views):
        if not isinstance(views, Mapping) or not views:
            raise InputError(f"views: found {views!r}, expected at least one named view")
        self._views = {}
        for name, view in views.items():
            if not isinstance(view, Observations):
                raise InputError(f"views[{name!r}]: found {type(view).__name__}, expected a View")
            view = copy.copy(view)
            view.name = str(name)
            self._views[view.name] = view
        self.unit = next(iter(self._views.values())).unit
        for name, view in self._views.items():
            if view.unit != self.unit:
                self._views[name] = view.to(self.unit)
        self._check_sources()

    def _check_sources(self):
        for name, view in self.items():
            for source, shape in view.source_shapes.items():
                expected = self.source_shapes[source]
                if shape != expected:
                    raise InputError(
                        f"view {name!r}: source {source!r}: found shape {shape}, "
                        f"expected {expected} as in the other views"
                    )

    def __getitem__(self, name) -> Observations:
        if name not in self._views:
            raise UnknownNameError(
                f"view: found {name!r}, expected one of {', '.join(self._views)}"
            )
        return self._views[name]

    def __iter__(self):
        return iter(self._views)

    def __len__(self):
        return len(self._views)

    def __repr__(self):
        return "\n".join(["<MultiViewDataset", *(f"  {view!r}" for view in self.values())]) + ">"

    def _repr_html_(self):
        """What a notebook shows."""
        return "".join(view._repr_html_() for view in self.values())

    @property
    def richest(self) -> Observations:
        """The view that holds the most sources, the first of several: what there is to separate."""
        return max(self.values(), key=lambda view: len(view.sources))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources, in the order of their first appearance."""
        return tuple(self.source_shapes)

    @property
    def source_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each source."""
        shapes = {}
        for view in self.values():
            for source, shape in view.source_shapes.items():
                shapes.setdefault(source, shape)
        return shapes

    @property
    def rejected(self) -> QTable:
        """Positions that have no observation: ``view``, ``id``, ``sky_centroid``, ``reason``."""
        tables = []
        for name, view in self.items():
            if view.rejected is not None and len(view.rejected):
                table = view.rejected.copy()
                table.add_column(np.full(len(table), name), 0, name="view")
                tables.append(table)
        return vstack(tables) if tables else QTable(names=("view", "id", "reason"), dtype=[str] * 3)

    @functools.cached_property
    def noise_scale(self) -> float:
        """Median standard deviation of the background's noise over all valid pixels, in `unit`."""
        images = [image for view in self.values() for image in view.images.values()]

        def variances():
            for image in images:
                for part in image.parts():
                    yield part.variance[~part.mask]

        return float(np.sqrt(median(variances).astype(float)))

    @classmethod
    def from_arrays(cls, views) -> "MultiViewDataset":
        """Take plain arrays: the general problem, with no astronomy in it.

        Parameters
        ----------
        views : mapping of str to mapping
            For each view the arguments of `~astro_ddprism.View`: at least ``data``, ``mixing`` and
            either ``variance`` or ``noise``.
            In place of a mixing operator may stand an array: a matrix (m, n) or one per
            observation (N, m, n), or an amplitude, a number or one per observation (N,); or a table
            of the operator's ``name`` and the arguments of its constructor, as in a file.

        Returns
        -------
        dataset : MultiViewDataset

        Raises
        ------
        InputError
            If an argument is missing or unknown, or does not fit the others.
        """
        result = {}
        for name, arguments in views.items():
            arguments = dict(arguments)
            missing = {"data", "mixing"} - set(arguments)
            unknown = set(arguments) - {"data", "mixing", *_OPTIONAL}
            for what, names in (("no", missing), ("unknown", unknown)):
                if names:
                    raise InputError(
                        f"view {name!r}: found {what} {', '.join(sorted(names))}, expected data, "
                        f"mixing, variance or noise, and optionally {', '.join(_OPTIONAL[2:])}"
                    )
            if isinstance(arguments["mixing"], Mapping):
                shape = np.shape(arguments["data"])[1:]
                arguments["mixing"] = {
                    source: as_operator(value, shape, f"view {name!r}: mixing[{source!r}]")
                    for source, value in arguments["mixing"].items()
                }
            result[name] = View(**arguments, name=name)
        return cls(result)

    @classmethod
    def from_fits(
        cls, cutouts, *, sources=None, psf=None, psf_fwhm=None, correlated_noise=None, **options
    ) -> "MultiViewDataset":
        """Take cutouts that exist.

        Parameters
        ----------
        cutouts : mapping of str to sequence of path, `~astropy.nddata.CCDData` or NDData
            For each view its cutouts, with noise, mask and world coordinates; all of one size. Of
            several instruments: for each view a mapping from instruments to cutouts, in the order
            of the observations, with None where there is none.
        sources : mapping of str to sequence of str, optional
            For each view the sources that it holds. By default ``"random"`` holds ``"los"``, and
            ``"galaxy"`` holds ``"los"`` and ``"galaxy"``; views of other names need to be told.
        psf : path, ndarray or NDData, optional
            PSF of all cutouts (see `astro_ddprism.psf.read_psf`): the sources are then what lies
            before it. By default they are what is seen through it. Of several instruments: for each
            a `~astro_ddprism.psf.PSF`, a file, or a list with one for each observation.
        psf_fwhm : float or `~astropy.units.Quantity`, optional
            Full width at half maximum of the PSF, in arcseconds if without a unit, for a dataset of
            one instrument to remember; by default that of ``psf``. There are too few stars in
            cutouts to measure it.
        correlated_noise : int, optional
            The largest distance, in pixels, at which the noise of two pixels is correlated; how
            strongly, is measured in the blank sky of all cutouts of a view. By default pixels are
            independent.
        **options
            Where to find noise and mask, see `astro_ddprism.survey.read_image`. Of several
            instruments also ``frame``, ``bands`` and ``coordinates``, see
            `astro_ddprism.views.build_several.views_from_cutouts`; any option may be a mapping from
            instruments to its values.

        Returns
        -------
        dataset : MultiViewDataset
            Observations are named after their files, and their coordinates are those of pixel
            ``(ny // 2, nx // 2)``.

        Raises
        ------
        InputError
            If a cutout or the PSF cannot be used, shapes differ, or sources are not known.
        """
        if not isinstance(cutouts, Mapping) or not cutouts:
            raise InputError(
                f"cutouts: found {cutouts!r}, expected a list of cutouts for each view"
            )
        if sources is None:
            sources = {name: DEFAULT_SOURCES[name] for name in cutouts if name in DEFAULT_SOURCES}
        if set(sources) != set(cutouts):
            raise InputError(
                f"sources: found those of views {', '.join(sources) or 'none'}, expected those of "
                f"{', '.join(cutouts)}"
            )
        if any(isinstance(images, Mapping) for images in cutouts.values()):
            return cls(
                views_from_cutouts(
                    cutouts, sources=sources, psf=psf, correlated_noise=correlated_noise, **options
                )
            )
        return cls(
            {
                name: view_of_cutouts(
                    name,
                    images,
                    sources[name],
                    psf=psf,
                    psf_fwhm=psf_fwhm,
                    correlated_noise=correlated_noise,
                    **options,
                )
                for name, images in cutouts.items()
            }
        )

    @classmethod
    def from_image(cls, image, **options) -> "MultiViewDataset":
        """Detect galaxies on a survey image, place random positions, and cut both out.

        Parameters
        ----------
        image : path, `~astropy.nddata.CCDData`, `~astropy.nddata.NDData` or SurveyImage
            Flux, noise, mask and world coordinates. Of several instruments: a mapping from each to
            its image.
        **options
            See `astro_ddprism.views.build.views_from_image`, or
            `astro_ddprism.views.build_several.views_from_images`.

        Returns
        -------
        dataset : MultiViewDataset
            View ``"random"`` holds the source ``"los"``, view ``"galaxy"`` holds ``"los"`` and
            ``"galaxy"``.
        """
        views = views_from_images if isinstance(image, Mapping) else views_from_image
        return cls(views(image, **options))

    @classmethod
    def join(cls, datasets, names=None) -> "MultiViewDataset":
        """Put the views of several datasets, such as those of tiles, together.

        Parameters
        ----------
        datasets : sequence of MultiViewDataset
            With views of the same names, sources and shapes.
        names : sequence of str, optional
            A name for each dataset, with which the ids then begin: ``NAME/ID``.

        Returns
        -------
        dataset : MultiViewDataset

        Raises
        ------
        InputError
            If views, sources or shapes differ, or two observations of a view have one id.
        """
        datasets = list(datasets)
        if not datasets or any(set(one) != set(datasets[0]) for one in datasets):
            found = "; ".join(", ".join(one) for one in datasets)
            raise InputError(
                f"datasets: found views {found or 'of none'}, expected the same of all"
            )
        return cls({n: join_views([one[n] for one in datasets], names) for n in datasets[0]})

    @classmethod
    def read(cls, path, memmap=None) -> "MultiViewDataset":
        """Read what `write` wrote.

        Parameters
        ----------
        path : path-like
            An ASDF file.
        memmap : bool, optional
            Whether images, noise and operators stay in the file, memory-mapped, and are read when
            they are used; their arrays are then read-only. By default those of files of over
            256 MiB. Checksums are verified all the same, before, in one pass through the file.

        Returns
        -------
        dataset : MultiViewDataset

        Raises
        ------
        InputError
            If the file does not exist, is no ASDF file, is damaged, was written by a newer version
            or holds something else.
        """
        if memmap is None:
            memmap = Path(path).is_file() and Path(path).stat().st_size > MOST_IN_MEMORY
        read = map_tree if memmap else read_tree
        dataset = read(path, "views", get_extensions()).get("dataset")
        if not isinstance(dataset, cls):
            raise InputError(f"{path}: found no dataset in it, expected a dataset of views")
        return dataset

    def write(self, path, overwrite=False):
        """Write an ASDF file. A write that is killed leaves an old file whole.

        Parameters
        ----------
        path : path-like
        overwrite : bool
            Whether to replace an existing file.

        Raises
        ------
        InputError
            If the file exists and may not be replaced, or its folder does not exist.
        """
        write_tree(
            path,
            {"kind": "views", "dataset": self},
            overwrite,
            extensions=get_extensions(),
            format_version=format_version(self),
        )

    def state(self) -> dict:
        """What a file holds of the dataset.

        Returns
        -------
        state : dict
            A list of the views: their order is that of the sources.
        """
        state = {"views": list(self.values())}
        rejected = {
            name: {
                "id": np.asarray(view.rejected["id"]).astype(str),
                "coordinates": view.rejected["sky_centroid"],
                "reason": np.asarray(view.rejected["reason"]).astype(str),
            }
            for name, view in self.items()
            if view.rejected is not None and len(view.rejected)
        }
        if rejected:  # older readers pass over it
            state["rejected"] = rejected
        return state

    @classmethod
    def from_state(cls, state) -> "MultiViewDataset":
        """Build the dataset from what `state` returned.

        Parameters
        ----------
        state : mapping

        Returns
        -------
        dataset : MultiViewDataset
        """
        dataset = cls({view.name: view for view in state["views"]})
        for name, lost in state.get("rejected", {}).items():
            dataset[name].rejected = QTable(
                {"id": lost["id"], "sky_centroid": lost["coordinates"], "reason": lost["reason"]}
            )
        return dataset
