"""Models and datasets as ASDF files: written whole or not at all, read whole or refused.

A file is one tree below the key ``astro_ddprism`` (ASDF has keys of its own at the top). ``kind``
says what it holds (``"views"`` or ``"model"``), ``format_version`` and ``software`` say who wrote
it; the rest belongs to the module that writes the kind. Large arrays are binary blocks with
checksums, and everything else is YAML that a text editor shows. Units, sky coordinates and tables
are stored by asdf-astropy; views and `~astro_ddprism.MultiViewDataset` by the converters below,
which `asdf` finds through the entry point ``asdf.extensions``: with the package installed,
``asdf.open("views.asdf")["astro_ddprism"]["dataset"]`` is a `~astro_ddprism.MultiViewDataset`.
"""

import struct
import warnings
from pathlib import Path

import asdf
import numpy as np
import yaml
from asdf.exceptions import (
    AsdfConversionWarning,
    AsdfPackageVersionWarning,
    AsdfWarning,
    ValidationError,
)
from asdf.extension import Converter, Extension

from .. import __version__
from ..errors import InputError
from .fits import replacing
from .wcs import pack_wcs, unpack_wcs

__all__ = ["FORMAT_VERSION", "get_extensions", "read_tree", "write_tree"]

FORMAT_VERSION = 3
"""Version of the layout of the tree; it grows when an older reader would misread a file.

A file has the lowest version whose readers know all that it holds: 3 with photon noise of the
sources; 2 with noise that is more than its variance, sources on pixels of their own, or several
images of an observation; else 1.
"""

_KINDS = {"views": "a dataset of views", "model": "a model"}
_ROOT = "astro_ddprism"
_URI = "asdf://astro-ddprism.org"
# What asdf raises on a damaged file, as found by cutting files short and flipping their bytes.
_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OSError,
    EOFError,
    RuntimeError,
    struct.error,
    yaml.YAMLError,
    ValidationError,
    AsdfWarning,
)


def write_tree(path, tree, overwrite=False, compression=None):
    """Write an ASDF file. A write that is killed leaves an old file whole.

    Parameters
    ----------
    path : path-like
        The file to be.
    tree : mapping
        What to write, with its ``kind``: ``"views"`` or ``"model"``. Values may be dictionaries,
        lists, numbers, strings, arrays, units, quantities, tables, sky coordinates, views and
        datasets.
    overwrite : bool
        Whether to replace an existing file.
    compression : str, optional
        ``"zlib"`` or ``"bzp2"``: how to compress large arrays, without loss.

    Raises
    ------
    InputError
        If the file exists and may not be replaced, or cannot be made.
    """
    if tree.get("kind") not in _KINDS:
        raise InputError(f"kind: found {tree.get('kind')!r}, expected one of {', '.join(_KINDS)}")
    head = {
        "kind": tree["kind"],
        "format_version": _format_version(tree),
        "software": {"name": "astro-ddprism", "version": __version__},
    }
    file = asdf.AsdfFile({_ROOT: {**head, **tree}}, extensions=get_extensions())
    with replacing(path, overwrite) as temporary:
        file.write_to(temporary, all_array_compression=compression)


def read_tree(path, kind):
    """Read an ASDF file that `write_tree` wrote.

    Parameters
    ----------
    path : path-like
        The file.
    kind : {"views", "model"}
        What it must hold.

    Returns
    -------
    tree : dict
        What was written. Arrays are in memory and the file is closed.

    Raises
    ------
    InputError
        If the file does not exist, is no ASDF file, is damaged, was written by a newer version or
        holds another kind.
    """
    path = Path(path)
    _check_magic(path)
    try:
        # The plain YAML comes first: the objects of a newer version may have no converter here.
        _check_head(path, asdf.util.load_yaml(path).get(_ROOT, {}), kind)
        with warnings.catch_warnings():
            # asdf goes on, with a warning, where bytes between blocks or nodes make no sense.
            warnings.filterwarnings("error", message="Read invalid bytes", category=AsdfWarning)
            warnings.simplefilter("error", AsdfConversionWarning)
            # Whether this software can read the file, its format version tells.
            warnings.simplefilter("ignore", AsdfPackageVersionWarning)
            return _load(path)
    except InputError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: found a truncated or damaged ASDF file ({type(error).__name__}: {reason}), "
            f"expected {_KINDS[kind]}"
        ) from error


def _format_version(tree):
    """The lowest version whose readers know all that a tree holds."""
    views = tree["dataset"].values() if "dataset" in tree else ()
    images = [image for view in views for image in view.images.values()]
    if any(image.effective_gain is not None for image in images):
        return 3
    return 2 if any(_is_of_version_2(view) for view in views) else 1


def _is_of_version_2(view):
    """Whether a view has several images, noise of its own or sources on pixels of their own."""
    return (
        list(view.images) != [""]
        or view.source_wcs is not None
        or any(image.noise is not None for image in view.images.values())
    )


def _load(path):
    with asdf.open(
        path,
        lazy_load=False,
        memmap=False,
        validate_checksums=True,
        extensions=get_extensions(),
    ) as file:
        return dict(file[_ROOT])


def _check_magic(path):
    try:
        with open(path, "rb") as file:
            magic = file.read(5)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if magic != b"#ASDF":
        found = {b"": "an empty file", b"SIMPL": "a FITS file"}.get(magic, "something else")
        raise InputError(f"{path}: found {found}, expected an ASDF file")


def _check_head(path, tree, kind):
    version, found = tree.get("format_version"), tree.get("kind")
    if version is None or found is None:
        raise InputError(
            f"{path}: found an ASDF file that astro-ddprism did not write, expected {_KINDS[kind]}"
        )
    if int(version) > FORMAT_VERSION:
        software = tree.get("software", {}).get("version", "unknown")
        raise InputError(
            f"{path}: found format version {version}, written by astro-ddprism {software}; this is "
            f"astro-ddprism {__version__}, which reads versions up to {FORMAT_VERSION}: update it"
        )
    if found != kind:
        raise InputError(f"{path}: found {_KINDS.get(found, found)}, expected {_KINDS[kind]}")


class _DatasetConverter(Converter):
    tags = (f"{_URI}/tags/dataset-1.0.0",)
    types = ("astro_ddprism.views.dataset.MultiViewDataset",)

    def to_yaml_tree(self, obj, tag, ctx):  # noqa: ARG002
        # A list, since a YAML mapping has no order, and that of the views orders the sources.
        return {"views": list(obj.values())}

    def from_yaml_tree(self, node, tag, ctx):  # noqa: ARG002
        from ..views.dataset import MultiViewDataset

        return MultiViewDataset({view.name: view for view in node["views"]})


class _ViewConverter(Converter):
    tags = (f"{_URI}/tags/view-1.0.0",)
    types = ("astro_ddprism.views.view.View",)

    def to_yaml_tree(self, obj, tag, ctx):  # noqa: ARG002
        return _view_node(obj)

    def from_yaml_tree(self, node, tag, ctx):  # noqa: ARG002
        from ..views.view import View

        return View(**_view_arguments(node))


class _MultiInstrumentViewConverter(Converter):
    tags = (f"{_URI}/tags/multi-instrument-view-1.0.0",)
    types = ("astro_ddprism.views.multi.MultiInstrumentView",)

    def to_yaml_tree(self, obj, tag, ctx):  # noqa: ARG002
        return {"name": obj.name, "images": [_view_node(image) for image in obj.images.values()]}

    def from_yaml_tree(self, node, tag, ctx):  # noqa: ARG002
        from ..views.multi import InstrumentImages, MultiInstrumentView

        images = [InstrumentImages(**_view_arguments(image)) for image in node["images"]]
        return MultiInstrumentView({image.name: image for image in images}, name=node["name"])


def _view_node(view) -> dict:
    own = view.noise is not None
    node = {
        "name": view.name,
        "unit": view.unit,
        "ids": view.ids,
        "data": view.data,
        **({"noise": view.noise.state()} if own else {"variance": view.variance}),
        "mask": view.mask,
        "mixing": [
            {"source": source, **operator.state()} for source, operator in view.mixing.items()
        ],
        "wcs": None if view.wcs is None else pack_wcs(view.wcs),
        "coordinates": view.coordinates,
    }
    if view.source_wcs is not None:
        node["source_wcs"] = pack_wcs(view.source_wcs)
    # Older readers pass over it.
    if view.saturated is not None and view.saturated.any():
        node["saturated"] = view.saturated
    if view.conditions is not None:
        node["conditions"] = view.conditions.state()
    return node


def _view_arguments(node) -> dict:
    from ..mixing import noise_from_state, operator_from_state
    from ..survey.conditions import SurveyConditions

    # asdf gives arrays that load themselves when touched; the view must outlive the open file.
    arguments = {name: np.array(node[name]) for name in ("data", "mask", "ids")}
    if "noise" in node:
        arguments["noise"] = noise_from_state(_in_memory(dict(node["noise"])))
    else:
        arguments["variance"] = np.array(node["variance"])
    if "saturated" in node:
        arguments["saturated"] = np.array(node["saturated"])
    arguments["mixing"] = mixing = {}
    for state in node["mixing"]:
        state = _in_memory(dict(state))
        source = state.pop("source")
        mixing[source] = operator_from_state(state)
    for name in ("wcs", "source_wcs"):
        wcs = node.get(name)
        arguments[name] = None if wcs is None else unpack_wcs(_in_memory(wcs))
    if "conditions" in node:
        arguments["conditions"] = SurveyConditions.from_state(node["conditions"])
    others = {name: node[name] for name in ("unit", "name")}
    return {**arguments, **others, "coordinates": node.get("coordinates")}


def _in_memory(node):
    """The same tree with plain arrays."""
    if isinstance(node, dict):
        return {key: _in_memory(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_in_memory(value) for value in node]
    return np.array(node) if hasattr(node, "__array__") else node


class _AstroDdprismExtension(Extension):
    extension_uri = f"{_URI}/extensions/core-1.0.0"
    converters = (_DatasetConverter(), _ViewConverter(), _MultiInstrumentViewConverter())
    tags = tuple(tag for converter in converters for tag in converter.tags)


def get_extensions():
    """The `asdf` extensions of this package, for the entry point ``asdf.extensions``.

    Returns
    -------
    extensions : list of `asdf.extension.Extension`
    """
    return [_AstroDdprismExtension()]
