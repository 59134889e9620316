"""What a fit has learned, as one record: whoever holds it has all of it, or none."""

__all__ = [
    "FittedState",
    "checked_numbers",
    "contents",
    "digest",
    "in_half_precision",
    "positive",
]

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u

from ..errors import InputError
from ..io.mapped import release_pages, row_slices
from ..units import AB_FLUX
from .checks import TrainingData, check_view, is_before_psf

logger = logging.getLogger(__name__)

MOST = 1e100  # beyond which no flux and no noise scale is one
# Parts of the tree of a state that hold weights of networks.
_NETWORKS = ("denoisers", "learned")


@dataclass(frozen=True)
class FittedState:
    """All that a separator has learned.

    Parameters
    ----------
    sources : tuple of str
        The sources.
    source_shapes : dict of str to tuple of int
        Their shapes.
    unit : astropy.units.Unit
        Unit of flux.
    noise_scale : float
        The flux, in ``unit``, that is 1 inside.
    before_psf : dict of str to list of bool
        Whether a source is the light before a PSF, in any and in all of the views.
    training : `~astro_ddprism.separator.checks.TrainingData`
        What it was learned from.
    of_noise : bool
        Whether the flux that is 1 inside is, of every view, its own images' noise; ``unit`` is then
        none and ``noise_scale`` 1.
    state
        What the method has learned.
    file : pathlib.Path, optional
        The file that holds the model, if any does.
    sha256 : str
        Of that file, as it was read or written; empty if there is none.
    fingerprint : str
        Of the dataset, the configuration and the model that the fit began with; empty in older
        files.
    """

    sources: tuple[str, ...]
    source_shapes: dict[str, tuple[int, ...]]
    unit: u.UnitBase
    noise_scale: float
    before_psf: dict[str, list[bool]]
    training: TrainingData
    of_noise: bool = False
    state: object = None
    file: Path | None = None
    sha256: str = ""
    fingerprint: str = ""

    @classmethod
    def before(cls, dataset, initial=None, *, of_noise=False, seeing=()) -> "FittedState":
        """What is known of a dataset before anything is learned.

        Parameters
        ----------
        dataset : `~astro_ddprism.MultiViewDataset`
            The views.
        initial : FittedState, optional
            A model to start from. The flux that is 1 inside it stays so; where units do not
            compare, it is the noise.
        of_noise : bool
            Whether fluxes are learned in units of the noise of each view.
        seeing : tuple of float
            See `TrainingData`.
        """
        unit, noise_scale = dataset.unit, float(dataset.noise_scale)
        if of_noise:
            unit, noise_scale = u.dimensionless_unscaled, 1.0
        elif initial is not None and not initial.of_noise:
            try:
                noise_scale = float(_flux(initial.noise_scale * initial.unit, unit))
            except u.UnitConversionError:
                logger.warning(
                    "initial: its flux is in %s, that of the dataset in %s: starting as if their "
                    "noise were the same",
                    str(initial.unit) or "no unit",
                    str(unit) or "no unit",
                )
        return cls(
            sources=tuple(dataset.sources),
            source_shapes={s: tuple(shape) for s, shape in dataset.source_shapes.items()},
            unit=unit,
            noise_scale=noise_scale,
            before_psf={
                source: sorted(
                    {is_before_psf(v, source) for v in dataset.values() if source in v.sources}
                )
                for source in dataset.sources
            },
            training=TrainingData.of(
                dataset, initial="" if initial is None else initial.name, seeing=seeing
            ),
            of_noise=of_noise,
        )

    @property
    def name(self) -> str:
        """Name of the file that holds the model; empty if none does."""
        return "" if self.file is None else self.file.name

    def tree(self) -> dict:
        """Plain numbers and names, for a file; without the method's state."""
        return {
            "sources": list(self.sources),
            "source_shapes": {s: list(shape) for s, shape in self.source_shapes.items()},
            "unit": self.unit.to_string(),
            "noise_scale": self.noise_scale,
            "before_psf": self.before_psf,
            "training": self.training.state(),
            "of_noise": self.of_noise,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_tree(cls, tree) -> "FittedState":
        """What `tree` told."""
        sources = tuple(tree["sources"])
        positive("noise_scale", tree["noise_scale"])
        return cls(
            sources=sources,
            source_shapes={s: tuple(tree["source_shapes"][s]) for s in sources},
            unit=u.Unit(tree["unit"]),
            noise_scale=float(tree["noise_scale"]),
            before_psf={s: list(found) for s, found in tree["before_psf"].items()},
            training=TrainingData.from_state(tree["training"]),
            of_noise=bool(tree.get("of_noise", False)),
            fingerprint=str(tree.get("fingerprint", "")),
        )

    def scale(self, view) -> float:
        """The flux, in the view's unit, that is 1 inside.

        Raises
        ------
        InputError
            If the view's unit is none like the model's; or the noise of its images is asked for,
            and not known.
        """
        if self.of_noise:
            return _noise_of_images(view)
        try:
            return float(_flux(self.noise_scale * self.unit, view.unit))
        except u.UnitConversionError as error:
            raise InputError(
                f"view {view.name!r}: flux in {str(view.unit) or 'no unit'}; "
                f"expected a unit like the model's, {str(self.unit) or 'no unit'}: give the unit "
                "of the image (--unit) or its zero point (--zero-point)"
            ) from error

    def check_view(self, view):
        """Refuse a view whose sources, unit or images are not those of the model.

        Raises
        ------
        InputError
            Naming what was found and what the model has learned.
        """
        label = f"view {view.name!r}"
        for source in view.sources:
            if source not in self.sources:
                raise InputError(
                    f"{label}: holds the source {source!r}; expected sources of the model, "
                    f"{', '.join(self.sources)}"
                )
            shape = view.source_shapes[source]
            if shape != self.source_shapes[source]:
                raise InputError(
                    f"{label}: source {source!r} has the shape {shape}; "
                    f"expected {self.source_shapes[source]} as in the model"
                )
            before = is_before_psf(view, source)
            if before not in self.before_psf[source]:
                light = "as seen through the PSF", "before the PSF"
                raise InputError(
                    f"{label}: source {source!r} is light {light[before]}; "
                    f"expected light {light[not before]}, as the model has learned it"
                )
        self.scale(view)
        through_psf = not any(is_before_psf(view, source) for source in view.sources)
        check_view(view, self.training, through_psf=through_psf, of_noise=self.of_noise)


def positive(name, number) -> float:
    """A number of a file that is finite and above 0.

    Raises
    ------
    InputError
        Naming what it is, if it is another.
    """
    plain = isinstance(number, int | float) and not isinstance(number, bool)
    if not (plain and 0 < number < MOST):
        raise InputError(f"{name}: found {number!r}, expected a positive finite number")
    return float(number)


def checked_numbers(tree, name):
    """Refuse a tree with floating-point numbers that are none.

    Raises
    ------
    InputError
        Naming the first of them.
    """
    parts = tree.items() if isinstance(tree, Mapping) else ()
    for key, part in enumerate(tree) if isinstance(tree, list) else parts:
        checked_numbers(part, f"{name}, {key}")
    if isinstance(tree, float | np.ndarray) and not np.all(np.isfinite(tree)):
        raise InputError(f"{name}: found numbers that are not finite, expected finite ones")


def _noise_of_images(view) -> float:
    """The noise of a pixel of a view's images, the same for any of its observations."""
    known = [image.conditions for image in view.images.values()]
    if any(conditions is None for conditions in known):
        raise InputError(
            f"view {view.name!r}: found no images of which the noise is known, expected some, as "
            "the model's fluxes are in units of it"
        )
    return float(np.median(np.concatenate([_flux(c.noise, view.unit) for c in known])))


def _flux(quantity, unit):
    """A flux in another unit; maggies are those of the AB system."""
    return quantity.to_value(unit, AB_FLUX)


class _Column:
    """An array of a view, a part at a time."""

    def __init__(self, view, name):
        self.view, self.name = view, name
        self.shape = view.data.shape

    def __iter__(self):
        return (getattr(part, self.name) for part in self.view.parts())


def contents(dataset) -> dict:
    """All that a fit sees of a dataset, as a tree."""
    return {
        name: {
            instrument: {
                "unit": str(image.unit),
                **{name: _Column(image, name) for name in ("data", "variance", "mask")},
                "noise": None if image.noise is None else image.noise.state(),
                "mixing": {source: op.state() for source, op in image.mixing.items()},
            }
            for instrument, image in view.images.items()
        }
        for name, view in dataset.items()
    }


def digest(tree):
    """SHA-256 of a tree of arrays, lists, numbers and strings.

    Parameters
    ----------
    tree : mapping
        The tree; the order of its keys counts.

    Returns
    -------
    digest : str
        Hexadecimal.

    Examples
    --------
    >>> digest({"a": [1.0, 2.0]}) == digest({"a": [1.0, 3.0]})
    False
    """
    sha256 = hashlib.sha256()

    def update(node):
        if isinstance(node, dict):
            node = list(node.items())
        if isinstance(node, (list, tuple)):
            sha256.update(f"{len(node)} items".encode())
            for part in node:
                update(part)
        elif isinstance(node, np.ndarray):
            sha256.update(f"{node.dtype} {node.shape}".encode())
            rows = row_slices(len(node), node[:1].nbytes) if node.ndim else [...]
            for some in rows:
                sha256.update(np.ascontiguousarray(node[some]))
                release_pages()
        elif isinstance(node, _Column):
            for number, part in enumerate(node):
                if not number:
                    sha256.update(f"{part.dtype} {node.shape}".encode())
                sha256.update(np.ascontiguousarray(part))
        else:
            sha256.update(repr(node).encode())

    update(tree)
    return sha256.hexdigest()


def in_half_precision(tree):
    """The same tree with the weights of the networks, and nothing else, in half precision.

    Parameters
    ----------
    tree : mapping
        The tree of the state of a method.

    Returns
    -------
    tree : dict
        It reads as the other does, with weights that are rounded to 11 bits.
    """

    def rounded(node):
        if isinstance(node, dict):
            return {name: rounded(part) for name, part in node.items()}
        if isinstance(node, list):
            return [rounded(part) for part in node]
        # A network's own numbers are arrays; single ones, such as the scale of the data, stay.
        is_weights = isinstance(node, np.ndarray) and node.dtype == np.float32 and node.ndim
        return node.astype(np.float16) if is_weights else node

    return {name: rounded(part) if name in _NETWORKS else part for name, part in tree.items()}
