"""``ddprism info``: what files hold."""

import asdf
import numpy as np
from astropy import units as u

from ..io.fits_in import open_fits
from ..io.reading import open_input
from ..models import find_model
from ..separator import SourceSeparator
from ..separator.checks import TrainingData
from ..survey.mosaic import describe_image
from ..views.dataset import MultiViewDataset

__all__ = ["info", "is_views"]


def info(args):
    """Tell what a file holds.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.

    Returns
    -------
    told : dict
        For ``--json``: what the file holds.
    """
    path = find_model(args.file)
    if args.json:
        return {"file": str(path), **_facts(path)}
    lines = _asdf_info(path) if is_views(path) else _image_info(path)
    print("\n".join([f"{path}:", *(f"  {line}" for line in lines)]))
    return {}


def is_views(path) -> bool:
    """Whether a file is an ASDF file of this package, and not an image.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    bool
    """
    return _is_asdf(path) and "roman" not in _head(path)


def _is_asdf(path):
    with open_input(path) as file:
        return file.read(5) == b"#ASDF"


def _head(path):
    try:
        with open_input(path) as file:
            head = asdf.util.load_yaml(file)
    except Exception:  # a damaged file: reading it says how  # noqa: BLE001
        head = None
    return head if isinstance(head, dict) else {}


def _asdf_info(path):
    head = _head(path).get("astro_ddprism")
    is_model = isinstance(head, dict) and head.get("kind") == "model"
    return _model_info(path) if is_model else _views_info(path)


def _facts(path) -> dict:
    """What a file holds, as numbers, names, lists and dictionaries."""
    if not is_views(path):
        return _image_facts(path)
    if _head(path).get("astro_ddprism", {}).get("kind") == "model":
        return _model_facts(SourceSeparator.read(path, device="cpu"))
    dataset = MultiViewDataset.read(path)
    return {
        "kind": "views",
        "unit": str(dataset.unit),
        "noise_scale": dataset.noise_scale,
        "views": {
            name: {
                "n_observations": len(view),
                "sources": {s: list(shape) for s, shape in view.source_shapes.items()},
                "images": {
                    instrument: {
                        "n_observations": int(np.count_nonzero(image.n_valid())),
                        "shape": list(image.observation_shape),
                        "conditions": image.conditions and image.conditions.state(),
                    }
                    for instrument, image in view.images.items()
                },
            }
            for name, view in dataset.items()
        },
    }


def _model_facts(separator):
    history = getattr(separator, "history_", None)
    return {
        "kind": "model",
        "sources": {s: list(shape) for s, shape in separator.source_shapes_.items()},
        "unit": str(separator.unit_),
        "noise_scale": separator.noise_scale_,
        "training": separator.training_.state(),
        "config": separator.config,
        "history": None
        if history is None
        else {name: u.Quantity(history[name]).value.tolist() if name != "source" else
              list(map(str, history[name])) for name in history.colnames},
    }  # fmt: skip


def _image_facts(path):
    facts = {"kind": "image"}
    if not _is_asdf(path):
        with open_fits(path) as hdus:
            primary = {c.keyword: c.value for c in hdus[0].header.cards if c.keyword.strip()}
            primary.pop("HISTORY", None)
            facts["header"] = {key: str(v) if v is not None else None for key, v in primary.items()}
            facts["extensions"] = [
                {
                    "name": hdu.name,
                    "shape": [len(hdu.data)] if not hdu.is_image else list(hdu.shape),
                    "unit": hdu.header.get("BUNIT"),
                }
                for hdu in hdus
            ]
        if primary.get("CREATOR") == "astro-ddprism":
            return {**facts, "kind": "product"}
    return {**facts, "serves_as": describe_image(path)}


def _views_info(path):
    dataset = MultiViewDataset.read(path)
    yield f"views, in {str(dataset.unit) or 'no unit'}, noise {dataset.noise_scale:.4g} a pixel"
    for name, conditions in TrainingData.of(dataset).conditions.items():
        yield from (f"{name}: {line}" if name else line for line in conditions.lines())
    for name, view in dataset.items():
        for instrument, image in view.images.items():
            shape = " x ".join(map(str, image.data.shape[1:]))
            label = f"{name}, {instrument}" if instrument else name
            n_seen = np.count_nonzero(image.n_valid())
            yield (
                f"{label}: {n_seen} observations of {shape} pixels, "
                f"sources {', '.join(view.sources)}, "
                f"{image.masked_fraction():.2%} masked"
            )


def _model_info(path):
    separator = SourceSeparator.read(path, device="cpu")
    unit = str(separator.unit_) or "no unit"
    if separator.in_units_of_noise:
        unit = "units of the noise of an image"
    yield f"model of {', '.join(separator.sources_)}, in {unit}"
    for source, shape in separator.source_shapes_.items():
        yield f"{source}: {' x '.join(map(str, shape))} pixels"
    yield from separator.training_.lines()
    yield from _options(separator.config)
    if hasattr(separator, "history_"):
        yield from separator.history_.pformat(max_lines=-1, max_width=-1)


def _options(tree, prefix=""):
    """Lines of a configuration, as a TOML file would have them with dotted keys."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {value}"


def _image_info(path):
    """What the file holds, and of an image, what would serve as what."""
    creator = None
    if not _is_asdf(path):
        with open_fits(path) as hdus:
            creator = hdus[0].header.get("CREATOR")
            yield from _fits_info(path)
    if creator != "astro-ddprism":
        yield from describe_image(path)


def _fits_info(path):
    with open_fits(path) as hdus:
        for card in hdus[0].header.cards:
            if card.keyword not in {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", ""}:
                yield f"{card.keyword:<8} {card.value}  {card.comment}".rstrip()
        for i, hdu in enumerate(hdus):
            shape = f"{len(hdu.data)} rows" if not hdu.is_image else " x ".join(map(str, hdu.shape))
            yield f"{i} {hdu.name}: {shape or 'no data'} {hdu.header.get('BUNIT', '')}".rstrip()
