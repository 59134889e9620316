"""What a fit has learned, as one record: whoever holds it has all of it, or none."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from astropy import units as u

from ..diffusion.learning.em import EMState
from ..errors import InputError
from ..units import AB_FLUX
from .checks import TrainingData, check_view
from .state import state_from_tree, tree_from_state

__all__ = ["FittedState"]

logger = logging.getLogger(__name__)


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
    psf : dict of str to list of bool
        Whether a source is the light before a PSF, in any and in all of the views.
    training : `~astro_ddprism.separator.checks.TrainingData`
        What it was learned from.
    em : `~astro_ddprism.diffusion.learning.em.EMState`
        The priors, and what a fit goes on from.
    file : pathlib.Path, optional
        The file that holds the model, if any does.
    """

    sources: tuple[str, ...]
    source_shapes: dict[str, tuple[int, ...]]
    unit: u.UnitBase
    noise_scale: float
    psf: dict[str, list[bool]]
    training: TrainingData
    em: EMState
    file: Path | None = None

    @classmethod
    def before(cls, dataset, initial=None) -> "FittedState":
        """What is known of a dataset before anything is learned.

        Parameters
        ----------
        dataset : `~astro_ddprism.MultiViewDataset`
            The views.
        initial : FittedState, optional
            A model to start from. The flux that is 1 inside it stays so; where units do not
            compare, it is the noise.
        """
        sources, unit, noise_scale = (
            tuple(dataset.sources),
            dataset.unit,
            float(dataset.noise_scale),
        )
        if initial is not None:
            try:
                noise_scale = _flux(initial.noise_scale * initial.unit, unit)
            except u.UnitConversionError:
                logger.warning(
                    "initial: its flux is in %s, that of the dataset in %s: starting as if their "
                    "noise were the same",
                    str(initial.unit) or "no unit",
                    str(unit) or "no unit",
                )
        return cls(
            sources=sources,
            source_shapes={s: tuple(shape) for s, shape in dataset.source_shapes.items()},
            unit=unit,
            noise_scale=noise_scale,
            psf={
                s: sorted({_has_psf(v, s) for v in dataset.values() if s in v.sources})
                for s in sources
            },
            training=TrainingData.of(dataset, initial="" if initial is None else initial.name),
            em=EMState(),
        )

    @property
    def name(self) -> str:
        """Name of the file that holds the model; empty if none does."""
        return "" if self.file is None else self.file.name

    def tree(self) -> dict:
        """Plain arrays, numbers and names, for a file."""
        return {
            "sources": list(self.sources),
            "source_shapes": {s: list(shape) for s, shape in self.source_shapes.items()},
            "unit": self.unit.to_string(),
            "noise_scale": self.noise_scale,
            "psf": self.psf,
            "training": self.training.state(),
            "em": tree_from_state(self.em),
        }

    @classmethod
    def from_tree(cls, tree, assemble) -> "FittedState":
        """What `tree` told; ``assemble`` makes the `Assembly` that builds a record's networks."""
        sources = tuple(tree["sources"])
        # Older files do not tell.
        unknown = {"n_observations": {}, "conditions": {}, "initial": ""}
        fitted = cls(
            sources=sources,
            source_shapes={s: tuple(tree["source_shapes"][s]) for s in sources},
            unit=u.Unit(tree["unit"]),
            noise_scale=float(tree["noise_scale"]),
            psf={s: list(psf) for s, psf in tree["psf"].items()},
            training=TrainingData.from_state(tree.get("training", unknown)),
            em=EMState(),
        )
        # Older files hold one number for all sources.
        one = dict.fromkeys(sources, tree.get("sigma_max"))
        return fitted.with_em({"sigma_max": one, **tree["em"]}, assemble)

    def with_em(self, tree, assemble) -> "FittedState":
        """The same with what a tree of `tree_from_state` holds."""
        sigma_max = {source: float(top) for source, top in tree["sigma_max"].items()}
        assembly = assemble(replace(self, em=EMState(sigma_max=sigma_max)))
        em = state_from_tree(tree, assembly.denoiser, assembly.posterior, assembly.device)
        return replace(self, em=em)

    def scale(self, view) -> float:
        """The flux, in the view's unit, that is 1 inside."""
        try:
            return _flux(self.noise_scale * self.unit, view.unit)
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
            psf = _has_psf(view, source)
            if psf not in self.psf[source]:
                light = "as seen through the PSF", "before the PSF"
                raise InputError(
                    f"{label}: source {source!r} is light {light[psf]}; "
                    f"expected light {light[not psf]}, as the model has learned it"
                )
        self.scale(view)
        through_psf = not any(_has_psf(view, source) for source in view.sources)
        check_view(view, self.training, through_psf=through_psf)


def _flux(quantity, unit) -> float:
    """A flux in another unit."""
    return float(quantity.to_value(unit, AB_FLUX))


def _has_psf(view, source) -> bool:
    """Whether a source is the light before a PSF, or in a frame of its own, in any image."""
    return any(image.mixing[source].before_psf for image in view.images.values())
