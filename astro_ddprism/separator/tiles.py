"""Separations of many observations, in parts: memory stays flat, and a run that is killed goes on.

The observations are taken some at a time, always the same ones together. What is drawn of them is
reduced at once, to a product and a catalog of their own in a folder beside the output; then all
parts are put together. A run that is killed leaves the folder, and the next with the same
observations, model and options goes on behind the parts that are whole: the draws of an observation
depend on nothing but the seed and its name, so that the product is that of an unbroken run.
"""

__all__ = ["separate_view"]

import logging
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from astropy.table import QTable, vstack

from .. import __version__
from ..diffusion import ranks
from ..errors import InputError
from ..io.fits_in import open_fits
from ..io.fits_join import join_fits
from ..io.outputs import check_room, replacing
from ..posterior.grid import SourceGrid
from ..posterior.reading import read_product, view_hdu
from ..progress import Progress
from ..steps import step
from .state import contents, digest

logger = logging.getLogger(__name__)

# Numbers that are drawn at a time, and observations.
MOST_DRAWN, MOST_AT_A_TIME = 1 << 24, 256


@step("writing")
def separate_view(
    separator, view, path, *, n_samples=16, seed=None, overwrite=False, keep_samples=False,
    aperture=None, sources=None, zero_point=None, whole=None, product=True,
) -> QTable | None:  # fmt: skip
    """Separate all observations of a view, and write the product, in parts.

    Parameters
    ----------
    separator : SourceSeparator
        What has learned the sources.
    view : View or MultiInstrumentView
        The observations.
    path : path-like
        The FITS product to be (`~astro_ddprism.posterior.product.product_hdus`). A run that was
        killed has left its parts beside it, from which this one goes on.
    n_samples : int
        Draws of each observation.
    seed : int, optional
        Of the draws; by default the separator's.
    overwrite : bool
        Whether an existing product is replaced.
    keep_samples : bool
        Whether the product holds the samples themselves.
    aperture, sources, zero_point
        As for `PosteriorSamples.catalog`.
    whole : callable, optional
        Called with the samples of all observations, which then are one part.
    product : bool
        Whether to write the product; else the catalog is all that is made.

    Returns
    -------
    catalog : QTable or None
        As of `PosteriorSamples.catalog`. Of several processes that share the draws, the first
        alone writes, and has it.

    Raises
    ------
    InputError
        If view and model do not fit together, the aperture is none, or the product cannot be
        written.
    """
    path = Path(path)
    if aperture is not None:
        SourceGrid(view).aperture_radius(aperture)
    sizes = [int(np.prod(shape)) for shape in view.source_shapes.values()]
    step = int(np.clip(MOST_DRAWN // (max(1, n_samples) * sum(sizes)), 1, MOST_AT_A_TIME))
    step = step if whole is None else max(1, len(view))
    firsts = range(0, len(view), step)

    def draw(first):
        some = view if len(firsts) == 1 else view[first : first + step]
        return separator.sample(some, n_samples=n_samples, seed=seed)

    if not ranks.is_first():
        for first in firsts:
            draw(first)
        return None
    alone = ranks.n_ranks() == 1  # else the others draw anew, and so does the first
    if product:
        numbers = 2 * sum(image.data[0].size for image in view.images.values())
        numbers += (2 + keep_samples * n_samples) * sum(sizes)
        check_room(path, 2 * 4 * len(view) * numbers)
    with replacing(path, overwrite) if product else nullcontext() as whole_product:
        parts = _Parts(path, _fingerprint(separator, view, n_samples, seed, step, keep_samples,
                                          aperture, sources, zero_point, product))  # fmt: skip
        try:
            catalogs = []
            for first in Progress(separator.progress)(firsts, "observations, in parts"):
                catalog = parts.read(first, product) if alone and whole is None else None
                if catalog is None:
                    samples = draw(first)
                    if whole is not None:
                        whole(samples)
                    catalog = samples.catalog(aperture, sources=sources, zero_point=zero_point)
                    if product:
                        made = parts.product(first)
                        samples.write(made, True, samples=keep_samples, catalog=catalog)
                    parts.write(first, catalog)
                catalogs.append(catalog)
            if product:
                products = [parts.product(first) for first in firsts]
                views = []
                if keep_samples:  # each part holds its own
                    views = [view_hdu(view, read_product(products[0])[2])]
                with open(whole_product, "rb+") as stream:
                    join_fits(products, stream, lambda name: int(name.endswith("_SAMPLES")), views)
        finally:  # of all but a kill
            parts.remove()
    meta = catalogs[0].meta
    catalog = vstack(catalogs, metadata_conflicts="silent")
    catalog.meta = meta
    return catalog


def _fingerprint(separator, view, *options) -> str:
    """All that a product depends on."""
    places = [
        None if image.wcs is None else [wcs.to_header_string() for wcs in image.wcs]
        for image in view.images.values()
    ]
    sky = view.coordinates
    tree = {
        "version": __version__,
        "model": separator.digest(),
        "ids": list(map(str, view.ids)),
        "places": [places, None if sky is None else [sky.ra.deg, sky.dec.deg]],
        "view": contents({view.name: view}),
        "options": list(map(str, options)),
    }
    return digest(tree)


class _Parts:
    """The folder of the parts of a product; those of another are cleared away."""

    def __init__(self, path, fingerprint):
        self.folder = path.resolve().with_name(f".{path.name}.parts")
        told = self.folder / "fingerprint"
        if self.folder.is_dir() and not (told.is_file() and told.read_text() == fingerprint):
            self.remove()
        elif self.folder.is_dir():
            logger.info("%s: going on with what a run that was killed has left", path)
        self.folder.mkdir(exist_ok=True)
        told.write_text(fingerprint)

    def product(self, first) -> Path:
        """The file of the part that begins with an observation."""
        return self.folder / f"{first}.fits"

    def read(self, first, product):
        """The catalog of a part; None where it, or the product, is not whole."""
        done = self.folder / f"{first}.ecsv"
        try:
            if not done.is_file():
                raise InputError("not made yet")
            with open_fits(self.product(first)) if product else nullcontext():
                return QTable.read(done, format="ascii.ecsv")
        except (InputError, OSError, ValueError):
            self.product(first).unlink(missing_ok=True)
            done.unlink(missing_ok=True)
            return None

    def write(self, first, catalog):
        """Keep a part, whose product was written before."""
        with replacing(self.folder / f"{first}.ecsv") as part:
            catalog.write(part, format="ascii.ecsv", overwrite=True)

    def remove(self):
        """Clear the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)
