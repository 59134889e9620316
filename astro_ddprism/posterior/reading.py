"""Products that hold their samples, read back.

A product is for other programs, which need no noise, masks and mixing operators. So that a product
with samples is all that they were, the extension ``VIEW`` holds the view and the provenance: the
bytes of an ASDF file.
"""

import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits

from ..errors import InputError
from ..io.asdf import read_tree, write_tree
from ..io.fits import card_text
from ..io.fits_in import open_fits
from ..views.dataset import MultiViewDataset
from ..views.files import format_version, get_extensions

__all__ = ["extension_name", "read_product", "view_hdu"]

VIEW = "VIEW"


def extension_name(*words) -> str:
    """Name of an extension: upper case; what is not printable ASCII is escaped, as in Python."""
    return card_text("_".join(word for word in words if word).upper())


def view_hdu(view, provenance) -> fits.ImageHDU:
    """The view of posterior samples and their provenance, as an extension of bytes.

    Parameters
    ----------
    view : View or MultiInstrumentView
        What was observed.
    provenance : dict
        Of the samples.

    Returns
    -------
    hdu : ImageHDU
    """
    dataset = MultiViewDataset({view.name or "view": view})
    provenance = {name: _plain(value) for name, value in provenance.items()}
    tree = {"kind": "views", "dataset": dataset, "provenance": provenance, "name": view.name}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "view.asdf"
        write_tree(
            path,
            tree,
            compression="zlib",
            extensions=get_extensions(),
            format_version=format_version(dataset),
        )
        return fits.ImageHDU(np.fromfile(path, np.uint8), name=VIEW)


def read_product(path):
    """Samples, view and provenance of a product.

    Parameters
    ----------
    path : path-like
        A product with samples.

    Returns
    -------
    samples : dict of str to ndarray, shape (n_samples, N, *source_shape)
    view : View or MultiInstrumentView
    provenance : dict

    Raises
    ------
    InputError
        If the file is no product, is damaged, or does not hold the samples.
    """
    with open_fits(path) as hdus:
        if hdus[0].header.get("CREATOR") != "astro-ddprism":
            raise InputError(f"{path}: found a FITS file of another kind, expected a product")
        if VIEW not in hdus:
            raise InputError(
                f"{path}: found a product without its samples, expected one that was written with "
                "samples=True (ddprism separate --keep-samples)"
            )
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / "view.asdf"
            inside.write_bytes(np.asarray(hdus[VIEW].data, dtype=np.uint8).tobytes())
            tree = read_tree(inside, "views", get_extensions(), label=f"{path}, HDU {VIEW}")
        view = next(iter(tree["dataset"].values()))
        view.name = tree["name"]
        samples = {}
        for source in view.sources:
            name = extension_name(source, "SAMPLES")
            if name not in hdus:
                raise InputError(f"{path}: found no HDU {name}, expected the samples of {source}")
            values = hdus[name].data
            samples[source] = values.astype(values.dtype.newbyteorder("="))
    return samples, view, dict(tree["provenance"])


def _plain(value):
    """A value that YAML knows."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
