"""Views and datasets in ASDF files: the converters that `asdf` finds.

With the package installed, ``asdf.open("views.asdf")["astro_ddprism"]["dataset"]`` is a
`~astro_ddprism.MultiViewDataset`: `asdf` finds the extension through the entry point
``asdf.extensions``. It asks for it whenever a file is opened, one of this package or not, and so
nothing here loads PyTorch: the converters name their types, and reach them through the package's
public names once a file holds one.
"""

from asdf.extension import Converter, Extension

import astro_ddprism

from ..io.asdf import plain, wrapped

__all__ = ["format_version", "get_extensions"]

_URI = "asdf://astro-ddprism.org"


class _StateConverter(Converter):
    """An object as its state; subclasses name its type."""

    def to_yaml_tree(self, obj, tag, ctx):  # noqa: ARG002
        return wrapped(obj.state())

    def from_yaml_tree(self, node, tag, ctx):  # noqa: ARG002
        kind = getattr(astro_ddprism, self.types[0].rpartition(".")[2])
        return kind.from_state(plain(node))


class _DatasetConverter(_StateConverter):
    tags = (f"{_URI}/tags/dataset-1.0.0",)
    types = ("astro_ddprism.views.dataset.MultiViewDataset",)


class _ViewConverter(_StateConverter):
    tags = (f"{_URI}/tags/view-1.0.0",)
    types = ("astro_ddprism.views.view.View",)


class _MultiInstrumentViewConverter(_StateConverter):
    tags = (f"{_URI}/tags/multi-instrument-view-1.0.0",)
    types = ("astro_ddprism.views.multi.MultiInstrumentView",)


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


def format_version(dataset) -> int:
    """The lowest version of the format of files whose readers know all that a dataset holds.

    Parameters
    ----------
    dataset : `~astro_ddprism.MultiViewDataset`
        What is to be written.

    Returns
    -------
    version : int
        3 with photon noise of the sources; 2 with noise that is more than its variance, sources on
        pixels of their own, or several images of an observation; else 1.
    """
    images = [image for view in dataset.values() for image in view.images.values()]
    if any(image.effective_gain is not None for image in images):
        return 3
    return 2 if any(_is_of_version_2(view) for view in dataset.values()) else 1


def _is_of_version_2(view):
    """Whether a view has several images, noise of its own or sources on pixels of their own."""
    return (
        list(view.images) != [""]
        or view.source_wcs is not None
        or any(image.noise is not None for image in view.images.values())
    )
