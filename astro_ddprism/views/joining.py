"""Views of several tiles as one: rows one after the other, under names of their own."""

import copy

import numpy as np
import torch
from astropy.coordinates import SkyCoord
from astropy.table import vstack

from ..errors import InputError
from ..io.mapped import joined_rows
from ..io.wcs import PackedWCS
from ..mixing import DiagonalNoise
from ..mixing.joined import join_noises, join_operators
from ..survey.conditions import SurveyConditions
from .multi import MultiInstrumentView
from .view import View

__all__ = ["join_views"]


def join_views(views, names=None):
    """Put observations of several views into one.

    Parameters
    ----------
    views : sequence of View or MultiInstrumentView
        Of the same sources, and images of the same shapes (of the same instruments). Fluxes are
        converted to the unit of the first.
    names : sequence of str, optional
        A name for each view, such as that of its tile: observations are then called ``NAME/ID``.

    Returns
    -------
    view : View or MultiInstrumentView

    Raises
    ------
    InputError
        If the views do not hold the same, or two observations have one id.
    """
    views = list(views)
    if not views or not all(type(view) is type(views[0]) for view in views):
        found = ", ".join(type(view).__name__ for view in views) or "none"
        raise InputError(f"views: found {found}, expected several views of one kind")
    if names is not None:
        names = [str(name) for name in names]
        if len(names) != len(views):
            raise InputError(f"names: found {len(names)} of them, expected one for each view")
        views = [_renamed(view, name) for view, name in zip(views, names, strict=True)]
    ids = np.concatenate([view.ids for view in views])
    known, counts = np.unique(ids, return_counts=True)
    if len(known) < len(ids):
        raise InputError(
            f"ids: found {str(known[counts > 1][0])!r} {counts.max()} times, expected each once: "
            "give names=[...], one for each view, which then begin the ids"
        )
    for view in views[1:]:
        if view.source_shapes != views[0].source_shapes:
            raise InputError(
                f"views: found sources {view.source_shapes}, expected {views[0].source_shapes}"
            )
    unit = views[0].unit
    views = [view if view.unit == unit else view.to(unit) for view in views]
    joined = _joined_images(views) if isinstance(views[0], MultiInstrumentView) else _joined(views)
    rejected = [v.rejected for v in views if v.rejected is not None and len(v.rejected)]
    joined.rejected = vstack(rejected) if rejected else None
    return joined


def _renamed(view, name):
    view = copy.copy(view)
    if isinstance(view, MultiInstrumentView):
        return MultiInstrumentView(
            {key: _renamed(image, name) for key, image in view.images.items()}, name=view.name
        )
    view.ids = np.array([f"{name}/{i}" for i in view.ids])
    return view


def _joined_images(views):
    images = {}
    for view in views:
        if list(view.images) != list(views[0].images):
            raise InputError(
                f"views: found instruments {', '.join(view.images)}, expected "
                f"{', '.join(views[0].images)}"
            )
    for name in views[0].images:
        images[name] = _joined([view.images[name] for view in views])
    return MultiInstrumentView(images, name=views[0].name)


def _joined(views) -> View:
    first, counts = views[0], [len(view) for view in views]
    for view in views[1:]:
        if view.observation_shape != first.observation_shape:
            raise InputError(
                f"views: found observations of shape {view.observation_shape}, expected "
                f"{first.observation_shape}"
            )
    options = {}
    for name in ("wcs", "source_wcs"):
        lists = [getattr(view, name) for view in views]
        options[name] = None if any(one is None for one in lists) else PackedWCS.joined(lists)
    places = [view.coordinates for view in views]
    if all(place is not None for place in places):
        frame = places[0].frame.replicate_without_data()
        places = [place.transform_to(frame).spherical for place in places]
        lon, lat = (np.concatenate([getattr(p, name) for p in places]) for name in ("lon", "lat"))
        options["coordinates"] = SkyCoord(lon, lat, frame=frame)
    if all(view.noise is None for view in views):
        options["variance"] = joined_rows([view.variance for view in views])
    else:
        options["noise"] = join_noises([_noise(view) for view in views])
    if any(view.saturated is not None for view in views):
        options["saturated"] = joined_rows(
            np.broadcast_to(False, v.mask.shape) if v.saturated is None else v.saturated
            for v in views
        )
    return type(first)(
        joined_rows(view.data for view in views),
        mask=joined_rows(view.mask for view in views),
        mixing={
            source: join_operators([view.mixing[source] for view in views], counts)
            for source in first.sources
        },
        unit=first.unit,
        ids=np.concatenate([view.ids for view in views]),
        name=first.name,
        conditions=SurveyConditions.combined(view.conditions for view in views),
        **options,
    )


def _noise(view):
    if view.noise is not None:
        return view.noise
    return DiagonalNoise(torch.as_tensor(view.variance), view.mask)
