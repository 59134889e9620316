r"""Views whose observations consist of several images, by different instruments.

An observation is one position on the sky; a `MultiInstrumentView` holds the images that several
instruments took of it, each with its own pixels, bands, WCS, PSF and noise:

.. math:: y_i^k = \sum_\beta A_i^{k \beta} x_i^\beta + \eta_i^k , \qquad k = 1, \dots, K

for the instruments :math:`k`. The sources :math:`x_i^\beta` are the same in all images, and all
images constrain them together. An observation that an instrument did not see is masked there, and
only there.
"""

import copy
from collections.abc import Mapping

import numpy as np
import torch

from .base import Observations
from .view import View

__all__ = ["InstrumentImages", "MultiInstrumentView"]


class InstrumentImages(View):
    """The images of one instrument out of several, some of which may be missing.

    Takes the arguments of a `~astro_ddprism.View`. An observation that the instrument did not see
    has no valid pixel; its WCS and its mixing operators may be any.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism.views.multi import InstrumentImages
    >>> from astro_ddprism.mixing import Identity
    >>> unseen = np.array([False, True, False]).reshape(3, 1, 1, 1)
    >>> images = InstrumentImages(
    ...     np.ones((3, 1, 4, 4)), variance=1.0, mask=unseen, mixing={"los": Identity((1, 4, 4))}
    ... )
    >>> images.n_valid()
    array([16,  0, 16])
    """

    def _check_information(self):
        """Whether anyone saw an observation is for the `MultiInstrumentView` to say."""


class MultiInstrumentView(Observations):
    """Observations that hold the same sources, each seen by one or more instruments.

    Parameters
    ----------
    images : mapping of str to View
        The images of each instrument, of all observations in the same order; of those that did not
        see all of them, as `InstrumentImages`. Shapes, bands, noise and mixing operators are each
        instrument's own; the sources and their shapes are the same. Fluxes are converted to the
        unit of the first instrument.
    name : str, optional
        Name of the view.

    Attributes
    ----------
    images : dict of str to View
    coordinates : SkyCoord, or None
        Those of the first instrument that has any.

    Raises
    ------
    InputError
        If the instruments disagree on the observations or on the sources, units cannot be
        converted, or no instrument saw an observation.

    Examples
    --------
    A source of 4 x 4 pixels, seen as it is and as the mean of all its pixels:

    >>> import numpy as np
    >>> from astro_ddprism import View
    >>> from astro_ddprism.views.multi import MultiInstrumentView
    >>> from astro_ddprism.mixing import DenseMatrix, Identity
    >>> fine = View(np.ones((3, 1, 4, 4)), variance=1.0, mixing={"los": Identity((1, 4, 4))})
    >>> mean = DenseMatrix(np.full((1, 16), 1 / 16), (1, 4, 4), (1, 1, 1))
    >>> coarse = View(np.ones((3, 1, 1, 1)), variance=0.01, mixing={"los": mean})
    >>> MultiInstrumentView({"fine": fine, "coarse": coarse}, name="random")
    <MultiInstrumentView 'random': 3 observations, sources: los
      fine: 3 of shape (1, 4, 4)
      coarse: 3 of shape (1, 1, 1)>
    """

    def __init__(self, images, *, name=""):
        self.name = str(name)
        if not isinstance(images, Mapping) or not images:
            raise self._error("images", repr(images), "a view for each instrument")
        self._images = {}
        for instrument, image in images.items():
            argument = f"images[{instrument!r}]"
            if not isinstance(image, View):
                raise self._error(argument, type(image).__name__, "a View")
            if not isinstance(instrument, str) or not instrument:
                raise self._error("images", repr(instrument), "names of instruments")
            image = copy.copy(image)
            image.name = instrument
            self._images[instrument] = image
        first = next(iter(self._images.values()))
        self.unit, self.ids = first.unit, first.ids
        for instrument, image in self._images.items():
            self._check_image(instrument, image, first)
            if image.unit != self.unit:
                self._images[instrument] = image.to(self.unit)
        n_valid = self.n_valid()
        if not n_valid.all():
            raise self._error(
                "images",
                f"no valid pixel of any instrument in {self._empty(n_valid)}",
                "each observation to be seen by at least one",
            )

    def _check_image(self, instrument, image, first):
        argument = f"images[{instrument!r}]"
        if len(image) != len(first):
            raise self._error(argument, f"{len(image)} observations", len(first))
        differ = np.flatnonzero(image.ids != first.ids)
        if len(differ):
            i = differ[0]
            found = f"observation {str(image.ids[i])!r} in place {i}"
            raise self._error(argument, found, f"{str(first.ids[i])!r}, as {first.name} has it")
        if image.source_shapes != first.source_shapes:
            raise self._error(
                argument, f"sources {image.source_shapes}", f"those of {first.name}, "
                f"{first.source_shapes}"
            )  # fmt: skip
        if (image.source_wcs is None) != (first.source_wcs is None):
            found = "no source_wcs" if image.source_wcs is None else "a source_wcs"
            raise self._error(argument, found, "one for all instruments or none")

    @property
    def images(self) -> dict[str, View]:
        """The images of each instrument."""
        return dict(self._images)

    @property
    def source_shapes(self) -> dict[str, tuple[int, ...]]:  # noqa: D102
        return next(iter(self._images.values())).source_shapes

    @property
    def coordinates(self):
        """Position of each observation's target: SkyCoord, shape (N,), or None."""
        known = [image.coordinates for image in self._images.values()]
        return next((each for each in known if each is not None), None)

    @property
    def source_wcs(self):
        """World coordinates of each observation's sources: list of N WCS, or None."""
        return next(iter(self._images.values())).source_wcs

    def n_valid(self, index=slice(None)) -> np.ndarray:  # noqa: D102
        return sum(image.n_valid(index) for image in self._images.values())

    def __getitem__(self, index) -> "MultiInstrumentView":
        index = self.rows(index)
        new = copy.copy(self)
        new.ids = self.ids[index]
        new._images = {name: image[index] for name, image in self._images.items()}
        return new

    def to(self, unit) -> "MultiInstrumentView":  # noqa: D102
        images = {name: image.to(unit) for name, image in self._images.items()}
        return MultiInstrumentView(images, name=self.name)

    def batch(self, index=slice(None), *, scale=1.0, device="cpu", dtype=torch.float32):  # noqa: D102
        return tuple(
            image.batch(index, scale=scale, device=device, dtype=dtype)
            for image in self._images.values()
        )

    def state(self) -> dict:
        """Plain values from which `from_state` rebuilds the view.

        Returns
        -------
        state : dict
            The name, and the ``View.state`` of each instrument's images.
        """
        return {"name": self.name, "images": [image.state() for image in self._images.values()]}

    @classmethod
    def from_state(cls, state) -> "MultiInstrumentView":
        """Build the view from what `state` returned.

        Parameters
        ----------
        state : mapping

        Returns
        -------
        view : MultiInstrumentView
        """
        images = [InstrumentImages.from_state(image) for image in state["images"]]
        return cls({image.name: image for image in images}, name=state["name"])

    def __repr__(self):
        unit = f" in {self.unit}" if str(self.unit) else ""
        head = f"<MultiInstrumentView {self.name!r}: {len(self)} observations{unit}, sources: "
        lines = [
            f"  {name}: {np.count_nonzero(image.n_valid())} of shape {image.observation_shape}"
            for name, image in self._images.items()
        ]
        return "\n".join([head + ", ".join(self.sources), *lines]) + ">"
