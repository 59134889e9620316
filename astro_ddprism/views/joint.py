r"""From the stamps of several instruments to a view of common sources.

Every instrument's images of a position show the same sources, in its own pixels and through its own
PSF. The sources live in a `~astro_ddprism.frame.SourceFrame`, and the headers tell the operator
that leads from there to each image (`~astro_ddprism.mixing.instrument_operator`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable

from ..errors import InputError
from ..frame import SourceFrame
from ..mixing import instrument_operator
from ..psf import PSF, PointPSF, open_psf
from ..survey.stamps import Stamps
from .multi import InstrumentImages, MultiInstrumentView
from .noise import noise_of

__all__ = ["ObservedStamps", "make_views"]


@dataclass(frozen=True)
class ObservedStamps:
    """What several instruments saw of the positions of a view.

    Parameters
    ----------
    stamps : dict of str to `Stamps`
        The images of each instrument.
    ids : sequence of str
        Names of the observations.
    coordinates : `~astropy.coordinates.SkyCoord`, shape (N,)
        The positions.
    sources : sequence of str
        The sources that the observations hold.
    rejected : `~astropy.table.QTable`, optional
        Positions that nobody saw.
    """

    stamps: dict[str, Stamps]
    ids: Sequence[str]
    coordinates: SkyCoord
    sources: Sequence[str]
    rejected: QTable | None = None

    def __len__(self):
        return len(self.ids)


def make_views(observed, *, psf=None, bands=None, frame=None):
    """Find the operator of every image.

    Parameters
    ----------
    observed : mapping of str to ObservedStamps
        The images of each view.
    psf : mapping of str to PSF, path or sequence of these, optional
        The PSF of each instrument (`~astro_ddprism.psf`): of all its images, or of each, of all
        views in their order. A file is read by `open_psf`.
    bands : mapping of str to array_like, shape (image's bands, source's bands), optional
        Share of each of the source's bands in each band of an instrument. Instruments that are not
        in it have the source's own bands.
    frame : SourceFrame or mapping, optional
        Where the sources live, or options of `SourceFrame.from_images` (``scale``, ``size``,
        ``n_bands``, ``position_angle``), which chooses it.

    Returns
    -------
    dict of str to MultiInstrumentView

    Raises
    ------
    InputError
        If PSFs, bands, frame and images do not fit together; names the view, the instrument and,
        where it is one image's fault, its file.
    """
    instruments = list(dict.fromkeys(i for view in observed.values() for i in view.stamps))
    _check_names("psf", psf, instruments, all_of_them=True)
    _check_names("bands", bands, instruments)
    psfs = dict(_psfs(observed, psf))
    bands = bands or {}
    wcs = {
        (name, instrument): stamps.complete_wcs(view.coordinates)
        for name, view in observed.items()
        for instrument, stamps in view.stamps.items()
    }
    if not isinstance(frame, SourceFrame):
        frame = _choose_frame(observed, wcs, psfs, bands, dict(frame or {}))
    views = {}
    for name, view in observed.items():
        common = {
            "coordinates": view.coordinates,
            "source_wcs": [frame.wcs(place) for place in view.coordinates],
            "ids": view.ids,
        }
        images = {}
        for instrument, stamps in view.stamps.items():
            try:
                operator = instrument_operator(
                    wcs[name, instrument],
                    stamps.shape,
                    frame=frame,
                    coordinates=view.coordinates,
                    psf=psfs[name, instrument],
                    bands=bands.get(instrument),
                    names=stamps.labels,
                )
            except InputError as error:
                raise InputError(f"view {name!r}, {instrument}: {error}") from error
            images[instrument] = InstrumentImages(
                stamps.data,
                **noise_of(stamps.variance, stamps.autocorrelation),
                effective_gain=stamps.effective_gain,
                mask=stamps.mask,
                saturated=stamps.saturated,
                unit=stamps.unit,
                mixing=dict.fromkeys(view.sources, operator),
                wcs=wcs[name, instrument],
                name=instrument,
                conditions=_in_frame(stamps.conditions, frame),
                **common,
            )
        views[name] = MultiInstrumentView(images, name=name)
    return views


def _in_frame(conditions, frame):
    """What images are like, whose sources have pixels of their own."""
    return None if conditions is None else replace(conditions, pixel_scale=frame.scale)


def _check_names(argument, given, instruments, *, all_of_them=False):
    if given is None:
        return
    names = list(given) if isinstance(given, Mapping) else [repr(given)]
    unknown = [name for name in names if name not in instruments]
    missing = [name for name in instruments if name not in names] if all_of_them else []
    if unknown or missing:
        raise InputError(
            f"{argument}: found {', '.join(map(str, names)) or 'none'}, expected one for each of "
            f"{', '.join(instruments)}"
        )


def _psfs(observed, given):
    """For each view and instrument, one PSF or one for each observation; None without any."""
    if given is None:
        for name, view in observed.items():
            yield from (((name, instrument), None) for instrument in view.stamps)
        return
    for instrument, psf in given.items():
        views = [(name, len(view)) for name, view in observed.items() if instrument in view.stamps]
        if isinstance(psf, str | Path) or not isinstance(psf, Sequence):
            psf = _read(psf)
            yield from (((name, instrument), psf) for name, _ in views)
            continue
        n = sum(length for _, length in views)
        if len(psf) != n:
            raise InputError(
                f"psf[{instrument!r}]: found a list of {len(psf)}, expected one for each of {n} "
                "observations"
            )
        distinct = {id(one): PointPSF() if one is None else _read(one) for one in psf}
        each = iter(psf)
        for name, length in views:
            yield (name, instrument), [distinct[id(next(each))] for _ in range(length)]


def _read(psf):
    return open_psf(psf, fine=True) if isinstance(psf, str | Path) else psf


def _choose_frame(observed, wcs, psfs, bands, options):
    """The frame that does justice to all images of all views."""
    n_bands = {
        instrument: np.shape(bands[instrument])[-1] if instrument in bands else stamps.shape[0]
        for view in observed.values()
        for instrument, stamps in view.stamps.items()
    }
    if "n_bands" not in options:
        options["n_bands"] = next(iter(n_bands.values()))
    if set(n_bands.values()) != {options["n_bands"]}:
        found = ", ".join(f"{n} of {instrument}" for instrument, n in n_bands.items())
        raise InputError(
            f"bands: found {found}, expected {options['n_bands']} of all, or the shares of as many "
            "bands of the source in those of an instrument"
        )
    frames = [
        SourceFrame.from_images(
            [
                (wcs[name, instrument], stamps.shape, _typical(psfs[name, instrument]))
                for instrument, stamps in view.stamps.items()
            ],
            view.coordinates,
            names=[stamps.labels for stamps in view.stamps.values()],
            **options,
        )
        for name, view in observed.items()
    ]
    finest = min(frames, key=lambda frame: frame.scale)
    widest = max(frame.scale * frame.shape[-1] for frame in frames)
    n = math.ceil((widest / finest.scale).to_value(u.one) - 1e-6)
    return replace(finest, shape=(options["n_bands"], n, n))


def _typical(psf):
    """Of the PSFs of several images, the first one."""
    if not isinstance(psf, list):
        _check_psf(psf)
        return psf
    known = [one for one in psf if not isinstance(one, PointPSF)]
    _check_psf(known[0] if known else None)
    return known[0] if known else None


def _check_psf(psf):
    if psf is not None and not isinstance(psf, PSF):
        raise InputError(
            f"psf: found {type(psf).__name__}, which has no scale, expected one of "
            "astro_ddprism.psf, such as ImagePSF(image, oversampling=1) for a PSF on the pixels of "
            "its image, or a file whose header tells"
        )
