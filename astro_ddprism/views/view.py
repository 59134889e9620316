r"""Observations that hold the same sources, what they hold and how well they are known.

A `View` is a set of observations

.. math:: y_i = \sum_\beta A_i^\beta x_i^\beta + \eta_i, \qquad \eta_i \sim \mathcal{N}(0, \Sigma_i)

as plain arrays in memory: the pixels :math:`y`, their variance :math:`\operatorname{diag} \Sigma`
(and, where :math:`\Sigma` has more to it, the `~astro_ddprism.mixing.Noise` that says it), a mixing
operator :math:`A^\beta` for each source, and where on the sky the pixels are. Only `View.batch`
makes tensors, of a mini-batch at a time.

Masked pixels carry no information. So that no code can read one by mistake, a view holds 0 for its
flux and infinity for its variance, whatever the input held there.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from ..errors import InputError
from ..io.mapped import release_pages, row_slices
from ..io.wcs import PackedWCS, pack_wcs, unpack_wcs
from ..mixing import (
    DiagonalNoise,
    MixingOperator,
    PhotonNoise,
    noise_from_state,
    operator_from_state,
)
from ..survey.conditions import SurveyConditions
from ..units import AB_FLUX
from .base import Batch, Observations
from .pixels import (
    are_clean,
    checked_flags,
    checked_pixels,
    checked_unit,
    checked_variance,
    plain_values,
)

__all__ = ["View"]


class View(Observations):
    """Observations that hold the same sources.

    Parameters
    ----------
    data : ndarray or Quantity, shape (N, ..., ny, nx) or (N, m)
        Linear flux of ``N`` observations. Pixels that are NaN, infinite or masked (also as a masked
        array or a `~astropy.utils.masked.Masked` quantity) carry no information.
    variance : float, ndarray or Quantity, optional
        Variance of Gaussian noise that is independent in every pixel, of the shape of ``data`` or
        one that broadcasts to it; without a unit in ``unit**2``. Pixels where it is 0, NaN or
        infinite carry no information.
    noise : `~astro_ddprism.mixing.Noise`, optional
        Gaussian noise of any other covariance, in ``unit``, for all observations. Either this or
        ``variance`` is given.
    effective_gain : float, ndarray or Quantity, optional
        Electrons for each unit of flux, without a unit in ``electron / unit``: a number, one for
        each band (shape (bands,)), or a map (an exposure map, of a shape that broadcasts to that of
        ``data``). The sources then have photon noise of their own, of the variance
        ``max(A x, 0) / effective_gain``, and ``variance`` or ``noise`` is that of the background
        alone (`~astro_ddprism.mixing.PhotonNoise`). Infinite where there is no such noise.
    mixing : mapping of str to MixingOperator
        How each source enters the observations.
    mask : ndarray of bool, optional
        True at bad pixels, of a shape that broadcasts to that of ``data``.
    unit : Unit or str, optional
        Unit of the flux. By default that of ``data``, or dimensionless.
    wcs : sequence of N `~astropy.wcs.WCS`, optional
        Celestial world coordinates of each observation's pixels.
    source_wcs : sequence of N `~astropy.wcs.WCS`, optional
        Celestial world coordinates of each observation's sources, where they have pixels of their
        own (`~astro_ddprism.frame.SourceFrame`).
    coordinates : SkyCoord, shape (N,), optional
        Position of each observation's target.
    saturated : ndarray of bool, optional
        True at pixels that are known to be saturated, of the shape of ``data``; they are masked.
    ids : sequence of N, optional
        Names of the observations, by default ``"0"`` to ``str(N - 1)``.
    name : str, optional
        Name of the view.
    conditions : `~astro_ddprism.survey.conditions.SurveyConditions`, optional
        What the images are like that the observations were cut out of, where that is known.

    Attributes
    ----------
    data : ndarray, shape (N, *observation_shape)
        Flux in ``unit``, 0 at masked pixels; float32, or float64 where fluxes or variances lie
        outside the range of float32.
    variance : ndarray, shape (N, *observation_shape)
        Variance in ``unit**2``, infinite at masked pixels; of the type of ``data``. That of the
        background, without the photon noise of the sources.
    noise : Noise, or None
        Noise in ``unit`` that is more than its variance.
    mask : ndarray of bool, shape (N, *observation_shape)
        True at every pixel that carries no information.
    unit : Unit
    mixing : dict of str to MixingOperator
    wcs, source_wcs : list of WCS, or None
    coordinates : SkyCoord, or None
    saturated : ndarray of bool, shape (N, *observation_shape), or None
        True at pixels that are known to be saturated; None where nothing is known of any.
    ids : ndarray of str, shape (N,)
    name : str
    conditions : SurveyConditions, or None

    Raises
    ------
    InputError
        If shapes or units do not fit together, a variance is negative, an effective gain is not
        positive, an observation has no valid pixel, a WCS is not celestial or the unit is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from astro_ddprism import View
    >>> from astro_ddprism.mixing import Identity
    >>> y = np.ones((3, 1, 4, 4))
    >>> y[0, 0, 0, 0] = np.nan
    >>> los = Identity((1, 4, 4))
    >>> view = View(y, variance=0.01, mixing={"los": los}, unit="uJy", name="random")
    >>> view
    <View 'random': 3 observations of shape (1, 4, 4) in uJy, sources: los>
    >>> int(view.mask.sum())
    1
    >>> view[[2, 0]].ids.tolist()
    ['2', '0']
    """

    def __init__(
        self,
        data,
        *,
        mixing,
        variance=None,
        noise=None,
        effective_gain=None,
        mask=None,
        unit=None,
        wcs=None,
        source_wcs=None,
        coordinates=None,
        saturated=None,
        ids=None,
        name="",
        conditions=None,
    ):
        self.name = str(name)
        self.unit = checked_unit(unit, data, self._error)
        if saturated is not None:
            saturated = checked_flags("saturated", saturated, np.shape(data), self._error)
        self.saturated = saturated
        if are_clean(data, variance, noise, mask, saturated, self.unit, self._error):
            self.data, self._variance, self.mask, self.noise = data, variance, mask, noise
        else:
            if saturated is not None:
                mask = saturated if mask is None else np.asarray(mask) | saturated
            variance = checked_variance(data, variance, noise, self._error)
            self.data, self._variance, self.mask = checked_pixels(
                data, variance, mask, self.unit, self._error
            )
            self.noise = None if noise is None else noise.to("cpu").masked(self.mask)
        if effective_gain is not None:
            self.noise = self._photon_noise(effective_gain)
        if not (isinstance(ids, np.ndarray) and ids.dtype.kind == "U"):
            ids = np.array([str(i) for i in (range(len(self)) if ids is None else ids)])
        self.ids = ids
        self._check_length("ids", self.ids.shape)
        self._check_information()
        self.mixing = self._checked_mixing(mixing)
        self.wcs = self._checked_wcs("wcs", wcs)
        self.source_wcs = self._checked_wcs("source_wcs", source_wcs)
        self.conditions = conditions
        self.coordinates = coordinates
        if coordinates is not None:
            if not isinstance(coordinates, SkyCoord):
                raise self._error("coordinates", type(coordinates).__name__, "a SkyCoord")
            self._check_length("coordinates", coordinates.shape)

    # -- what a view is ----------------------------------------------------------------------

    @property
    def images(self) -> dict[str, "View"]:
        """The view itself, as its only image."""
        return {"": self}

    @property
    def variance(self) -> np.ndarray:
        """Variance of every pixel; of noise that lies in a file it is computed each time."""
        if self._variance is not None:
            return self._variance
        variance = self.noise.to("cpu", torch.float64).variance.numpy()
        return np.where(self.mask, np.inf, variance).astype(self.data.dtype)

    @property
    def source_shapes(self) -> dict[str, tuple[int, ...]]:  # noqa: D102
        return {source: operator.source_shape for source, operator in self.mixing.items()}

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self.data.shape[1:]

    @property
    def effective_gain(self) -> u.Quantity | None:
        """Electrons for each unit of flux; of length 1 along axes on which it does not depend.

        None where the noise of the sources themselves is not known.
        """
        if not isinstance(self.noise, PhotonNoise):
            return None
        return u.Quantity(self.noise.effective_gain.numpy(), u.electron / self.unit)

    def __len__(self):
        return len(self.data)

    def n_valid(self, index=slice(None)) -> np.ndarray:  # noqa: D102
        rows, counts = self.rows(index), []
        for some in row_slices(len(rows), self.mask[:1].nbytes):
            mask = self.mask[rows[some]]
            counts.append((~mask).reshape(len(mask), -1).sum(1))
            release_pages()
        return np.concatenate(counts) if counts else np.zeros(0, int)

    def masked_fraction(self) -> float:
        """Part of the pixels without information, of observations with any that has some."""
        n_valid = self.n_valid()
        n_valid = n_valid[n_valid > 0]
        return 1 - n_valid.sum() / max(len(n_valid) * self.data[0].size, 1)

    def __getitem__(self, index) -> "View":
        index = self.rows(index)
        new = copy.copy(self)
        for name in ("data", "mask", "ids"):
            setattr(new, name, getattr(self, name)[index])
        new._variance = None if self._variance is None else self._variance[index]
        new.saturated = None if self.saturated is None else self.saturated[index]
        new.noise = None if self.noise is None else self.noise[index]
        new.mixing = {source: operator[index] for source, operator in self.mixing.items()}
        for name in ("wcs", "source_wcs"):
            wcs = getattr(self, name)
            if wcs is not None:
                wcs = wcs[index] if isinstance(wcs, PackedWCS) else [wcs[i] for i in index]
            setattr(new, name, wcs)
        new.coordinates = None if self.coordinates is None else self.coordinates[index]
        return new

    def __copy__(self):
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __getstate__(self):
        # A WCS pickles itself as a FITS file, rounded; packed, it comes back to the last bit.
        state = self.__dict__.copy()
        for name in ("wcs", "source_wcs"):
            state[name] = None if state[name] is None else pack_wcs(state[name])
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        for name in ("wcs", "source_wcs"):
            packed = state[name]
            setattr(self, name, None if packed is None else unpack_wcs(packed))

    def __repr__(self):
        unit = f" in {self.unit}" if self.unit != u.dimensionless_unscaled else ""
        return (
            f"<View {self.name!r}: {len(self)} observations of shape {self.observation_shape}"
            f"{unit}, sources: {', '.join(self.sources)}>"
        )

    def to(self, unit) -> "View":  # noqa: D102
        data = u.Quantity(self.data, self.unit)
        if self.noise is None:
            noise = {"variance": u.Quantity(self.variance, self.unit**2)}
        else:
            unit = checked_unit(unit, None, self._error)
            factor = plain_values("data", u.Quantity(1, self.unit), unit, self._error)[0]
            noise = {"noise": self.noise.rescaled(float(factor))}
        new = type(self)(
            data,
            **noise,
            mixing=self.mixing,
            mask=self.mask,
            unit=unit,
            wcs=self.wcs,
            source_wcs=self.source_wcs,
            coordinates=self.coordinates,
            saturated=self.saturated,
            ids=self.ids,
            name=self.name,
            conditions=None if self.conditions is None else self.conditions.to(unit),
        )
        new.rejected = self.rejected
        return new

    def batch(self, index=slice(None), *, scale=1.0, device="cpu", dtype=torch.float32) -> Batch:  # noqa: D102
        index = self.rows(index)
        if isinstance(scale, u.Quantity):
            scale = scale.to_value(self.unit, AB_FLUX)
        # In float64 until it is scaled: variances of fluxes in W / m2 leave the range of float32.
        y = self.data[index].astype(np.float64) / scale
        if self.noise is None:
            variance = self._variance[index].astype(np.float64) / scale**2
            noise = DiagonalNoise(torch.as_tensor(variance), self.mask[index])
        else:
            noise = self.noise[index].rescaled(1 / scale)
        return Batch(
            y=torch.as_tensor(y).to(device=device, dtype=dtype),
            mixing={
                source: operator[index].to(device=device, dtype=dtype)
                for source, operator in self.mixing.items()
            },
            noise=noise.to(device, dtype),
        )

    def state(self) -> dict:
        """Plain values from which `from_state` rebuilds the view.

        Returns
        -------
        state : dict
            Arrays, the unit, the coordinates, and the states of operators, noise and conditions.
        """
        own = self.noise is not None
        state = {
            "name": self.name,
            "unit": self.unit,
            "ids": self.ids,
            "data": self.data,
            **({"noise": self.noise.state()} if own else {"variance": self.variance}),
            "mask": self.mask,
            "mixing": [
                {"source": source, **operator.state()} for source, operator in self.mixing.items()
            ],
            "wcs": None if self.wcs is None else pack_wcs(self.wcs),
            "coordinates": self.coordinates,
        }
        if self.source_wcs is not None:
            state["source_wcs"] = pack_wcs(self.source_wcs)
        # Older readers pass over it.
        if self.saturated is not None and self.saturated.any():
            state["saturated"] = self.saturated
        if self.conditions is not None:
            state["conditions"] = self.conditions.state()
        return state

    @classmethod
    def from_state(cls, state) -> Self:
        """Build the view from what `state` returned.

        Parameters
        ----------
        state : mapping

        Returns
        -------
        view : View
        """
        arguments = {name: state[name] for name in ("name", "unit", "ids", "data", "mask")}
        for name in ("variance", "saturated", "coordinates"):
            arguments[name] = state.get(name)
        for name in ("wcs", "source_wcs"):
            wcs = state.get(name)
            arguments[name] = None if wcs is None else unpack_wcs(wcs)
        mixing = {}
        for operator in state["mixing"]:
            own = {key: value for key, value in operator.items() if key != "source"}
            mixing[operator["source"]] = operator_from_state(own)
        if "noise" in state:
            arguments["noise"] = noise_from_state(state["noise"])
        if "conditions" in state:
            arguments["conditions"] = SurveyConditions.from_state(state["conditions"])
        return cls(**arguments, mixing=mixing)

    # -- what a view may be ------------------------------------------------------------------

    def _check_length(self, argument, shape):
        if shape != (len(self),):
            raise self._error(argument, f"shape {shape}", f"({len(self)},), one per observation")

    def _photon_noise(self, effective_gain) -> PhotonNoise:
        """The noise that the view has so far as that of the background of its sources."""
        gain, masked = plain_values(
            "effective_gain", effective_gain, u.electron / self.unit, self._error
        )
        gain = np.where(masked, np.inf, gain)
        shape = self.data.shape
        if gain.ndim == 1 and len(shape) == 4:  # one for each band
            gain = gain[:, None, None]
        if isinstance(self.noise, PhotonNoise):
            raise self._error("effective_gain", "one beside that of the noise", "one of the two")
        background = self.noise
        if background is None:
            background = DiagonalNoise(torch.as_tensor(self.variance), self.mask)
        try:
            return PhotonNoise(background, gain)
        except InputError as error:
            view = f"view {self.name!r}" if self.name else "view"
            raise InputError(f"{view}: {error}") from error

    def _check_information(self):
        n_valid = self.n_valid()
        if not n_valid.all():
            raise self._error(
                "mask",
                f"no valid pixel in {self._empty(n_valid)}",
                "at least one valid pixel in each",
            )

    def _checked_mixing(self, mixing) -> dict[str, MixingOperator]:
        if not isinstance(mixing, Mapping) or not mixing:
            raise self._error("mixing", repr(mixing), "a mixing operator for each source")
        for source, operator in mixing.items():
            argument = f"mixing[{source!r}]"
            if not isinstance(operator, MixingOperator):
                raise self._error(argument, type(operator).__name__, "a MixingOperator")
            if operator.observation_shape != self.observation_shape:
                raise self._error(
                    argument,
                    f"observations of shape {operator.observation_shape}",
                    f"that of the data, {self.observation_shape}",
                )
            if operator.n_observations not in (None, len(self)):
                raise self._error(argument, f"{operator.n_observations} observations", len(self))
        return {str(source): operator for source, operator in mixing.items()}

    def _checked_wcs(self, argument, wcs) -> list[WCS] | None:
        if wcs is None:
            return None
        if isinstance(wcs, WCS) or not isinstance(wcs, Sequence):
            raise self._error(argument, type(wcs).__name__, "a list with one WCS per observation")
        self._check_length(argument, (len(wcs),))
        packed = isinstance(wcs, PackedWCS)  # of few headers
        for i, one in zip(self.ids, wcs.bases if packed else wcs, strict=not packed):
            if not isinstance(one, WCS) or one.naxis != 2 or not one.has_celestial:
                axes = getattr(getattr(one, "wcs", None), "ctype", [type(one).__name__])
                found = f"{' '.join(map(repr, axes))} for observation {i}"
                raise self._error(argument, found, "a celestial 2-D WCS")
        return wcs if packed else list(wcs)
