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
from dataclasses import dataclass

import numpy as np
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.utils.masked import Masked
from astropy.wcs import WCS

from ..errors import InputError
from ..mixing import DiagonalNoise, MixingOperator, Noise, PhotonNoise
from ..units import AB_FLUX
from .base import Observations

__all__ = ["Batch", "View"]


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
        self.unit = self._checked_unit(unit, data)
        if saturated is not None:
            saturated = self._checked_flags("saturated", saturated, np.shape(data))
            mask = saturated if mask is None else np.asarray(mask) | saturated
        self.saturated = saturated
        self._set_pixels(data, self._checked_variance(data, variance, noise), mask)
        self.noise = None if noise is None else noise.to("cpu").masked(self.mask)
        if effective_gain is not None:
            self.noise = self._photon_noise(effective_gain)
        self.ids = np.array([str(i) for i in (range(len(self)) if ids is None else ids)])
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
    def source_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each source that the observations hold."""
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
        mask = self.mask[self._rows(index)]
        return (~mask).reshape(len(mask), -1).sum(1)

    def __getitem__(self, index) -> "View":
        """Some of the observations.

        Parameters
        ----------
        index : int, slice, array of int or bool
            Which observations; repeats are allowed, and one observation is a view of length 1.

        Returns
        -------
        view : View
        """
        index = self._rows(index)
        new = copy.copy(self)
        for name in ("data", "variance", "mask", "ids"):
            setattr(new, name, getattr(self, name)[index])
        new.saturated = None if self.saturated is None else self.saturated[index]
        new.noise = None if self.noise is None else self.noise[index]
        new.mixing = {source: operator[index] for source, operator in self.mixing.items()}
        for name in ("wcs", "source_wcs"):
            wcs = getattr(self, name)
            setattr(new, name, None if wcs is None else [wcs[i] for i in index])
        new.coordinates = None if self.coordinates is None else self.coordinates[index]
        return new

    def __repr__(self):
        unit = f" in {self.unit}" if self.unit != u.dimensionless_unscaled else ""
        return (
            f"<View {self.name!r}: {len(self)} observations of shape {self.observation_shape}"
            f"{unit}, sources: {', '.join(self.sources)}>"
        )

    def to(self, unit) -> "View":
        """The same observations in another unit of flux.

        Parameters
        ----------
        unit : Unit or str

        Returns
        -------
        view : View

        Raises
        ------
        InputError
            If the flux cannot be converted to this unit.
        """
        data = u.Quantity(self.data, self.unit)
        if self.noise is None:
            noise = {"variance": u.Quantity(self.variance, self.unit**2)}
        else:
            unit = self._checked_unit(unit, None)
            factor = self._values("data", u.Quantity(1, self.unit), unit)[0]
            noise = {"noise": self.noise.rescaled(float(factor))}
        return type(self)(
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

    def batch(self, index=slice(None), *, scale=1.0, device="cpu", dtype=torch.float32) -> Batch:
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
        batch : Batch
        """
        index = self._rows(index)
        if isinstance(scale, u.Quantity):
            scale = scale.to_value(self.unit, AB_FLUX)
        # In float64 until it is scaled: variances of fluxes in W / m2 leave the range of float32.
        y = self.data[index].astype(np.float64) / scale
        if self.noise is None:
            variance = self.variance[index].astype(np.float64) / scale**2
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

    # -- what a view may be ------------------------------------------------------------------

    def _check_length(self, argument, shape):
        if shape != (len(self),):
            raise self._error(argument, f"shape {shape}", f"({len(self)},), one per observation")

    def _checked_flags(self, argument, flags, shape):
        flags = np.asarray(flags)
        if flags.dtype != bool or flags.shape != shape:
            found = f"shape {flags.shape} of type {flags.dtype}"
            raise self._error(argument, found, f"bool, of the shape of the data, {shape}")
        return flags

    def _checked_unit(self, unit, data):
        if unit is None:
            unit = getattr(data, "unit", None) or u.dimensionless_unscaled
        try:
            known = u.Unit(unit)
        except (TypeError, ValueError):
            known = None
        # Magnitudes do not add as light does.
        linear = isinstance(known, u.UnitBase) and not isinstance(known, u.UnrecognizedUnit)
        if not linear or u.dex in known.decompose().bases:
            raise self._error("unit", repr(str(unit)), "a linear unit that astropy.units knows")
        return known

    def _values(self, argument, values, unit):
        """The plain array of any kind of array, and its own mask."""
        mask = np.False_
        if isinstance(values, Masked):
            values, mask = values.unmasked, values.mask
        elif isinstance(values, np.ma.MaskedArray):
            values, mask = values.data, np.ma.getmaskarray(values)
        if isinstance(values, u.Quantity):
            try:
                values = u.Quantity(values, dtype=float).to_value(unit, AB_FLUX)
            except u.UnitConversionError as error:
                raise self._error(argument, f"unit {values.unit}", f"one like {unit}") from error
        values = np.asarray(values)
        if values.dtype.kind not in "biuf":
            raise self._error(argument, f"an array of type {values.dtype}", "real numbers")
        return values, mask

    def _checked_variance(self, data, variance, noise):
        """The variance of every pixel, from either of the two arguments that tell it."""
        if (variance is None) == (noise is None):
            found = "neither" if noise is None else "both"
            raise self._error("variance, noise", found, "one of the two")
        if noise is None:
            return variance
        if not isinstance(noise, Noise):
            raise self._error("noise", type(noise).__name__, "one of astro_ddprism.mixing")
        shape = noise.n_observations, *noise.shape
        if shape != np.shape(data):
            raise self._error("noise", f"shape {shape}", f"that of the data, {np.shape(data)}")
        # In float64: variances of fluxes in W / m2 leave the range of float32.
        return noise.to("cpu", torch.float64).variance.numpy()

    def _photon_noise(self, effective_gain) -> PhotonNoise:
        """The noise that the view has so far as that of the background of its sources."""
        gain, masked = self._values("effective_gain", effective_gain, u.electron / self.unit)
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
            raise InputError(
                f"view {self.name!r}: {error}" if self.name else f"view: {error}"
            ) from error

    def _set_pixels(self, data, variance, mask):
        data, masked_data = self._values("data", data, self.unit)
        variance, masked_variance = self._values("variance", variance, self.unit**2)
        if data.ndim < 2 or data.size == 0:
            raise self._error("data", f"shape {data.shape}", "(n_observations, ..., ny, nx)")
        mask = np.False_ if mask is None else np.asarray(mask)
        if mask.dtype != bool:
            raise self._error("mask", f"an array of type {mask.dtype}", "bool, True at bad pixels")
        for argument, values in (("variance", variance), ("mask", mask)):
            try:
                np.broadcast_to(values, data.shape)
            except ValueError as error:
                raise self._error(
                    argument, f"shape {values.shape}", f"that of the data, {data.shape}"
                ) from error
        mask = mask | masked_data | masked_variance | ~np.isfinite(data)
        n_negative = np.count_nonzero((variance < 0) & ~mask)
        if n_negative:
            raise self._error(
                "variance", f"{n_negative} negative values", "positive ones, or 0 where unknown"
            )
        self.mask = mask | ~((variance > 0) & np.isfinite(variance))
        data, variance = np.where(self.mask, 0, data), np.where(self.mask, np.inf, variance)
        dtype = self._dtype(data, variance)
        self.data, self.variance = data.astype(dtype), variance.astype(dtype)

    def _dtype(self, data, variance):
        """The shorter type that holds these values, so that faint units lose nothing."""
        limits, valid = np.finfo(np.float32), variance[~self.mask]
        fits = valid.size == 0 or (
            valid.min() >= limits.tiny and max(valid.max(), np.abs(data).max()) <= limits.max
        )
        return np.float32 if fits else np.float64

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
        for i, one in zip(self.ids, wcs, strict=True):
            if not isinstance(one, WCS) or one.naxis != 2 or not one.has_celestial:
                axes = getattr(getattr(one, "wcs", None), "ctype", [type(one).__name__])
                found = f"{' '.join(map(repr, axes))} for observation {i}"
                raise self._error(argument, found, "a celestial 2-D WCS")
        return list(wcs)
