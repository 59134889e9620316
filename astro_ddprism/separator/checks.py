r"""Whether a model fits the images that it is asked to separate.

A prior knows its sources on pixels of one size, blurred as they were in the images that it was
learned from, down to the noise of these. Of another image,

* a **pixel scale** that differs by more than a tenth, or, for sources that are seen through the
  PSF, a **PSF** whose width differs by more than a fifth, makes every source one that the prior
  has never seen: its posterior would be wrong, and nothing in the result would tell. That is an
  error;
* **noise** that differs does not make the posterior wrong, which takes each pixel's own. But a
  prior says little of what its images hid in their noise, and its galaxies were bright enough to
  be detected there. From a factor of 2 on that is worth a warning;
* the **unit** of flux is converted, where it can be: light adds in all of them.
"""

import logging
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.nddata import NDData

from ..errors import InputError
from ..survey.conditions import SurveyConditions, angle_text, angles_text
from ..survey.images import SurveyImage
from ..units import AB_FLUX
from ..views.base import Observations
from ..views.dataset import MultiViewDataset

__all__ = [
    "TrainingData",
    "as_dataset",
    "as_seed",
    "as_view",
    "check_conditions",
    "check_view",
    "is_before_psf",
    "usable",
]

logger = logging.getLogger(__name__)

SCALE_TOLERANCE = 0.1
FWHM_TOLERANCE = 0.2
NOISE_FACTOR = 2.0
NEAR_END = 1.05
MOST_NOISE = 2.0**24


# What a user may have in place of views, and how views are made of it.
_IMAGES = "MultiViewDataset.from_image(image, psf=...)"
_WAYS = (
    (NDData | SurveyImage, _IMAGES),
    (str | Path, f"MultiViewDataset.read(path) of an ASDF file, or {_IMAGES} of an image"),
    (np.ndarray, "MultiViewDataset.from_arrays({...}), with mixing operators and a variance"),
)


def as_dataset(given) -> MultiViewDataset:
    """What to fit; anything else is refused, with what to write.

    Raises
    ------
    InputError
    """
    if isinstance(given, MultiViewDataset):
        return given
    if isinstance(given, Observations):
        way = f"MultiViewDataset({{{given.name or 'name'!r}: view, ...}})"
    elif isinstance(given, Mapping):
        way = "MultiViewDataset(views) of named views, or MultiViewDataset.from_arrays(arrays)"
    else:
        way = next((way for kind, way in _WAYS if isinstance(given, kind)), _IMAGES)
    raise InputError(f"dataset: found a {type(given).__name__}, expected a MultiViewDataset: {way}")


def as_view(given) -> Observations:
    """What to separate: a view, or the richest of a dataset; anything else is refused.

    Raises
    ------
    InputError
        It says what to write.
    """
    if isinstance(given, Observations):
        return given
    if isinstance(given, MultiViewDataset):
        return given.richest
    if isinstance(given, numbers.Number):
        raise InputError(
            f"view: found the number {given}, expected a view; how many samples, n_samples says: "
            f"sample(n_samples={given}) of the priors, sample(view, n_samples={given})"
        )
    way = next((way for kind, way in _WAYS if isinstance(given, kind)), _IMAGES)
    own = " (several images of one sky: a list of them)" if isinstance(given, list | tuple) else ""
    raise InputError(
        f"view: found a {type(given).__name__}, expected a view or a MultiViewDataset: {way}{own}"
    )


def as_seed(seed) -> int:
    """The seed of random numbers: a number, or one that a generator draws.

    Raises
    ------
    InputError
        If it is neither.
    """
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(2**31))
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and seed >= 0:
        return int(seed)
    raise InputError(f"seed: found {seed!r}, expected a number from 0 on, or a numpy Generator")


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on.

    Parameters
    ----------
    n_observations : dict of str to int
        Number of observations of each view.
    conditions : dict of str to SurveyConditions
        What the images of each instrument are like (a single one is called ``""``); empty for data
        that are no images, or of which nothing is known.
    initial : str
        The model that the fit started from; empty if from none.
    seeing : tuple of float
        Range of widths of the PSF, in pixels, that it was shown besides those of the images; or
        none.
    """

    n_observations: dict[str, int]
    conditions: dict[str, SurveyConditions] = field(default_factory=dict)
    initial: str = ""
    seeing: tuple[float, ...] = ()

    @classmethod
    def of(cls, dataset, initial="", seeing=()) -> "TrainingData":
        """What a dataset holds.

        Parameters
        ----------
        dataset : `~astro_ddprism.MultiViewDataset`
            The views.
        initial : str
            The model that the fit starts from.
        seeing : tuple of float
            Range of widths of the PSF that it is shown.

        Returns
        -------
        TrainingData
        """
        images = {}
        for view in dataset.values():
            for name, image in view.images.items():
                images.setdefault(name, []).append(image.conditions)
        conditions = {name: SurveyConditions.combined(some) for name, some in images.items()}
        return cls(
            {name: len(view) for name, view in dataset.items()},
            {name: one for name, one in conditions.items() if one is not None},
            initial,
            tuple(seeing),
        )

    def state(self) -> dict:
        """Numbers, lists and names, for a file."""
        return {
            "n_observations": dict(self.n_observations),
            "conditions": {name: one.state() for name, one in self.conditions.items()},
            "initial": self.initial,
            "seeing": list(self.seeing),
        }

    @classmethod
    def from_state(cls, state: Mapping) -> "TrainingData":
        """What `state` told."""
        conditions = {n: SurveyConditions.from_state(c) for n, c in state["conditions"].items()}
        return cls(
            dict(state["n_observations"]),
            conditions,
            state["initial"],
            tuple(state.get("seeing", ())),
        )

    def lines(self) -> list[str]:
        """For people."""
        views = ", ".join(f"{n} observations of {name}" for name, n in self.n_observations.items())
        start = f", starting from {self.initial}" if self.initial else ""
        lines = [f"trained on {views}{start}"]
        for name, conditions in self.conditions.items():
            lines += [f"{name}: {line}" if name else line for line in conditions.lines()]
        if self.seeing:
            lines.append("for a PSF of FWHM {:.2g} to {:.2g} pixels".format(*self.seeing))
        return lines


def check_conditions(found, expected, *, label, through_psf=True, of_noise=False, seeing=()):
    """Refuse images that a model cannot know, and warn of what it knows little of.

    Parameters
    ----------
    found, expected : SurveyConditions
        Of the images, and of those that the model was trained on.
    label : str
        What messages call the images.
    through_psf : bool
        Whether the sources are the light as seen through the PSF; of the light before it, the
        image's own PSF is known and need not be the model's.
    of_noise : bool
        Whether the model's fluxes are in units of the noise of any image.
    seeing : tuple of float
        The range of widths of the PSF that the model knows, in pixels, or none.

    Raises
    ------
    InputError
        If the pixel scales differ by more than 10 %, or the widths of the PSF by more than 20 %, or
        are beyond the range of the model.
    """
    scale = (found.pixel_scale / expected.pixel_scale).to_value(u.one)
    if abs(scale - 1) > SCALE_TOLERANCE:
        raise InputError(
            f"{label}: found pixels of {angle_text(found.pixel_scale, '.3f')}, expected "
            f"{angle_text(expected.pixel_scale, '.3f')} within {SCALE_TOLERANCE:.0%}, as the model "
            "was trained on: resample the image to them, or fine-tune the model on views of its own"
        )
    if seeing:
        _check_range(found, seeing, label)
    elif through_psf:
        _check_widths(found, expected, label)
    if not of_noise:
        _compare_noise(found, expected, label)


def check_view(view, training, *, through_psf=True, of_noise=False):
    """`check_conditions` of all images of a view, against those that a model was trained on.

    Parameters
    ----------
    view : `~astro_ddprism.views.base.Observations`
        The view.
    training : TrainingData
        What the model was trained on. A model of data that are no images fits any view.
    through_psf : bool
        Whether the sources are the light as seen through the PSF.
    of_noise : bool
        Whether the model's fluxes are in units of the noise of any image.

    Raises
    ------
    InputError
        As for `check_conditions`.
    """
    known = training.conditions
    for instrument, image in view.images.items() if known else ():
        label = f"view {view.name!r}" + (f", {instrument}" if instrument else "")
        if image.conditions is None:
            if training.seeing:
                raise InputError(
                    f"{label}: found no width of the PSF, expected one, of which the model is told"
                )
            logger.warning(
                "%s: what its images are like is not known; the model fits such as it was %s",
                label,
                "; ".join(training.lines()),
            )
            continue
        # The sources have pixels of one scale, whatever instrument sees them.
        expected = known.get(instrument, next(iter(known.values())))
        check_conditions(
            image.conditions,
            expected,
            label=label,
            through_psf=through_psf,
            of_noise=of_noise,
            seeing=training.seeing,
        )


def _check_range(found, seeing, label):
    """Refuse a PSF beyond the range that a model knows, and warn near its ends."""
    low, high = seeing
    known = "the model knows a FWHM of {:.2g} to {:.2g} pixels".format(*seeing)
    if found.psf_fwhm is None:
        raise InputError(
            f"{label}: the width of the PSF is not known, as too few stars were found, and {known}:"
            " give that of the image as psf_fwhm (--psf-fwhm)"
        )
    widths = (found.psf_fwhm / found.pixel_scale).to_value(u.one)
    text = ", ".join(f"{width:.2f}" for width in widths)
    if widths.min() < low or widths.max() > high:
        raise InputError(
            f"{label}: found a PSF of FWHM {text} pixels; {known}: resample or convolve the image, "
            "or fine-tune the model on views of it"
        )
    if widths.min() < low * NEAR_END or widths.max() > high / NEAR_END:
        logger.warning("%s: a PSF of FWHM %s pixels is near the end: %s", label, text, known)


def _check_widths(found, expected, label):
    if expected.psf_fwhm is None:
        return
    if found.psf_fwhm is None:
        logger.warning(
            "%s: the width of the PSF is not known, as too few stars were found; the model was "
            "trained on a FWHM of %s: give that of the image as psf_fwhm (--psf-fwhm)",
            label,
            angles_text(expected.psf_fwhm),
        )
        return
    if found.psf_fwhm.shape != expected.psf_fwhm.shape:
        return  # other bands than the model's: the shapes of the sources tell
    ratio = (found.psf_fwhm / expected.psf_fwhm).to_value(u.one)
    if np.abs(ratio - 1).max() > FWHM_TOLERANCE:
        remedy = (
            "convolve it to that width"
            if ratio.max() < 1
            else "take an image of better seeing, or use a model of a sharper one"
        )
        raise InputError(
            f"{label}: found a PSF of FWHM {angles_text(found.psf_fwhm)}, expected "
            f"{angles_text(expected.psf_fwhm)} within {FWHM_TOLERANCE:.0%}, as the model was "
            f"trained on: {remedy}, or fine-tune the model on views of this image (if the width "
            "was measured wrongly, give it as psf_fwhm, --psf-fwhm)"
        )


def _compare_noise(found, expected, label):
    try:
        noise = found.noise.to(expected.unit, AB_FLUX)
    except u.UnitConversionError:
        return  # of fluxes that cannot be compared the separator tells
    if noise.shape != expected.noise.shape:
        return
    ratio = (noise / expected.noise).to_value(u.one)
    worst = ratio[np.argmax(np.abs(np.log(ratio)))]
    if not 1 / NOISE_FACTOR <= worst <= NOISE_FACTOR:
        meaning = (
            "the model does not know what its own images hid in their noise"
            if worst < 1
            else "galaxies that can be detected here are the brightest of the model's"
        )
        logger.warning(
            "%s: the noise is %.3g times that of the images that the model was trained on; %s: "
            "fine-tune the model on views of this image",
            label,
            worst,
            meaning,
        )


def usable(view) -> np.ndarray:
    """The observations of a view in which every number is one that can be computed with.

    A flux of over :math:`2^{24}` times its noise is one beside which single precision does not hold
    the noise any more: damage, not light. It would spoil what is learned from all others.

    Parameters
    ----------
    view : `~astro_ddprism.views.base.Observations`
        The view.

    Returns
    -------
    rows : ndarray of int

    Raises
    ------
    InputError
        If there is none.
    """
    absurd = np.concatenate([_is_absurd(part) for part in view.parts()])
    if absurd.all():
        raise InputError(
            f"view {view.name!r}: found pixels of over {MOST_NOISE:.2g} times their noise in all "
            "observations, expected some without"
        )
    if absurd.any():
        logger.warning(
            "view %r: %d of %d observations hold pixels of over %.2g times their noise, and are "
            "left out: %s",
            view.name, absurd.sum(), len(view), MOST_NOISE, ", ".join(view.ids[absurd][:5]),
        )  # fmt: skip
    return np.flatnonzero(~absurd)


def _is_absurd(view) -> np.ndarray:
    absurd = np.zeros(len(view), dtype=bool)
    for image in view.images.values():
        with np.errstate(over="ignore", invalid="ignore"):
            limit = MOST_NOISE * np.sqrt(image.variance.astype(float))
            here = ~image.mask & ~(np.abs(image.data) <= limit)
        absurd |= here.reshape(len(view), -1).any(axis=1)
    return absurd


def is_before_psf(view, source) -> bool:
    """Whether a source is the light before a PSF, or in a frame of its own, in any image."""
    return any(image.mixing[source].before_psf for image in view.images.values())
