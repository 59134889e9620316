"""What the options of a separator may be."""

from dataclasses import fields
from numbers import Integral, Real
from typing import get_type_hints

import numpy as np

from ..diffusion.learning.symmetries import SYMMETRIES
from ..diffusion.networks.base import BACKBONES
from ..diffusion.posteriors.solvers import SOLVERS
from ..diffusion.sampling.samplers import SAMPLERS
from ..errors import InputError

__all__ = ["check_options"]

_CHOICES = {
    "network": (None, *BACKBONES),
    "posterior": ("moment-matching", "amortized"),
    "precision": ("float32", "bfloat16"),
    "sampler": tuple(SAMPLERS),
    "solver": tuple(SOLVERS),
}
_TYPES = {
    int: (Integral, "an integer"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a text"),
    dict: (dict, "a table of options"),
}
_MAY_BE_ZERO = {"seed", "n_em_iterations", "warm_start_iterations", "n_redraws"}


def check_options(separator):
    """Refuse options that cannot be used, before any work begins.

    Parameters
    ----------
    separator : DiffusionSourceSeparator
        Its options, by the names and types of its fields.

    Raises
    ------
    InputError
        Naming the first option that is wrong.
    """
    types = get_type_hints(type(separator))
    for option in fields(separator):
        value = getattr(separator, option.name)
        if option.name in _CHOICES:
            _expect(value in _CHOICES[option.name], option.name, value, _listed(option.name))
        elif types[option.name] in _TYPES:
            kind, expected = _TYPES[types[option.name]]
            right = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
            _expect(right, option.name, value, expected)
        if types[option.name] in (int, float):
            least = "zero or more" if option.name in _MAY_BE_ZERO else "a positive number"
            _expect(value > 0 or (value == 0 and option.name in _MAY_BE_ZERO),
                    option.name, value, least)  # fmt: skip
    _expect(separator.chain_start <= 1, "chain_start", separator.chain_start, "a number in (0, 1]")
    _expect(
        separator.sigma_min < separator.sigma_max,
        "sigma_min, sigma_max",
        (separator.sigma_min, separator.sigma_max),
        "sigma_min < sigma_max",
    )
    templates = separator.templates
    _expect(not isinstance(templates, str), "templates", templates, "a sequence of names")
    for source, factors in separator.flux_factors.items():
        numbers = np.shape(factors) == (2,) and all(isinstance(f, Real) for f in factors)
        right = numbers and 0 < factors[0] <= factors[1]
        _expect(right, f"flux_factors[{source!r}]", factors, "two positive numbers in order")
    for source, names in (separator.symmetries or {}).items():
        _expect(
            not isinstance(names, str) and set(names) <= set(SYMMETRIES),
            f"symmetries[{source!r}]",
            names,
            f"names out of {', '.join(SYMMETRIES)}",
        )


def _expect(right, name, value, expected):
    if not right:
        raise InputError(f"{name}: found {value!r}, expected {expected}")


def _listed(name):
    return "one of " + ", ".join(str(choice) for choice in _CHOICES[name])
