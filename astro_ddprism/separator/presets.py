"""Configurations by name: what is known to work for a kind of data."""

import logging

from ..errors import InputError

__all__ = ["PRESETS", "preset", "preset_for"]

logger = logging.getLogger(__name__)

PRESETS = {
    "galaxies": {
        "posterior": {
            "name": "amortized",
            "templates": ("galaxy",),
            "flux_factors": {"galaxy": (0.2, 4.0)},
        },
        "n_em_iterations": 1,
        "training": {"held_out": 0.1},
    },
    "none": {},
}
"""Parameters of `~astro_ddprism.DiffusionSourceSeparator`: ``galaxies`` are those that separate
blended galaxies best from images on one pixel grid; ``none`` are the defaults, for everything."""


def preset(name) -> dict:
    """The parameters of a preset.

    Parameters
    ----------
    name : str
        One of `PRESETS`.

    Returns
    -------
    parameters : dict
        For ``DiffusionSourceSeparator(**parameters)``.

    Raises
    ------
    InputError
        If there is none of this name.

    Examples
    --------
    >>> from astro_ddprism import DiffusionSourceSeparator
    >>> from astro_ddprism.separator.presets import preset
    >>> DiffusionSourceSeparator(**preset("galaxies")).posterior.templates
    ('galaxy',)
    """
    if name not in PRESETS:
        raise InputError(f"preset: found {name!r}, expected one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])


def preset_for(dataset) -> str:
    """The name of the preset for what a dataset holds.

    Parameters
    ----------
    dataset : MultiViewDataset
        The views.

    Returns
    -------
    name : str
        ``galaxies`` where they hold galaxies and line-of-sight light as images on one pixel grid.
    """
    shapes = dataset.source_shapes
    one_grid = {"los", "galaxy"} == set(shapes) and len(set(shapes.values())) == 1
    one_grid &= all(len(shape) == 3 for shape in shapes.values())
    one_grid &= all(list(view.images) == [""] for view in dataset.values())
    return "galaxies" if one_grid else "none"
