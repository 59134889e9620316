"""A simulated survey: tiles of one field, which overlap, and a model of it that is quick."""

__all__ = ["DETECTION", "PSF_FWHM", "catalog_of", "galaxies_of", "make_tiles", "n_missing",
           "n_twice", "same"]  # fmt: skip

from pathlib import Path

import numpy as np
import pyarrow.dataset
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table

from astro_ddprism import GaussianSourceSeparator, MultiViewDataset
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey import detect_objects, read_image, select_galaxies

DETECTION = {"min_snr": 10}
PSF_FWHM = 0.85  # arcsec
NEAR = 1.5 * u.arcsec


def make_tiles(folder: Path, configuration: dict) -> list[Path]:
    """Write ``field.fits``, its tiles, and ``gaussian.asdf``, Gaussian priors of the first.

    Parameters
    ----------
    folder : Path
        Where to.
    configuration : dict
        ``across`` (tiles on a side of the square that they fill), ``side`` and ``overlap`` in
        pixels, ``density`` of galaxies (of magnitude 24, per square arcminute) and ``seed``.

    Returns
    -------
    tiles : list of Path
        Row by row.
    """
    across, side, overlap = (configuration[name] for name in ("across", "side", "overlap"))
    step = side - overlap
    tiles = {
        folder / f"t{i:02}{j:02}.fits": tuple(slice(k * step, k * step + side) for k in (i, j))
        for i in range(across)
        for j in range(across)
    }
    if not (folder / "field.fits").exists():
        field = simulate_field(
            (across * step + overlap,) * 2,
            galaxy_magnitudes=(17.0, 25.0),
            galaxy_density=configuration["density"] / u.arcmin**2,
            seed=configuration["seed"],
        )
        for path, where in tiles.items():
            field.image[where].write(path, overwrite=True)
        field.image.write(folder / "field.fits")
    if not (folder / "gaussian.asdf").exists():
        views = MultiViewDataset.from_image(
            next(iter(tiles)), size=32, psf_fwhm=PSF_FWHM, n_random=100, detection=DETECTION
        )
        separator = GaussianSourceSeparator(device="cpu", progress=False)
        separator.fit(views).write(folder / "gaussian.asdf")
    return list(tiles)


def catalog_of(folder: Path) -> Table:
    """The data set of a run, by id, read by what reads Parquet without this package."""
    data = pyarrow.dataset.dataset(folder / "catalog", partitioning="hive").to_table()
    table = Table({name: np.asarray(data[name].to_pylist()) for name in data.column_names})
    table.sort("id")
    return table


def same(first: Table, second: Table) -> bool:
    """Whether two catalogs agree row by row, to the last bit."""
    return first.colnames == second.colnames and all(
        np.array_equal(first[n], second[n], equal_nan=first[n].dtype.kind == "f")
        for n in first.colnames
    )


def n_twice(table: Table) -> int:
    """Pairs of rows of two tiles within 1.5 arcseconds of one another."""
    where = SkyCoord(table["ra"], table["dec"], unit="deg")
    first, second, *_ = where.search_around_sky(where, NEAR)
    return int(np.sum((first < second) & (table["tile"][first] != table["tile"][second])))


def galaxies_of(path: Path, min_snr: float, margin: float) -> SkyCoord:
    """Where the clear galaxies of an image are that is searched as a whole.

    Larger than its stars by a fifth, since each tile tells stars by those that it has, and so many
    pixels from its edges, where no cutout fits.
    """
    image = read_image(path)
    objects = detect_objects(image)
    stars = np.median(objects["half_light_radius"][objects["star"]])
    found = select_galaxies(objects, min_snr=min_snr)
    ny, nx = image.data.shape[-2:]
    inside = np.minimum.reduce([found["x"], found["y"], nx - 1 - found["x"], ny - 1 - found["y"]])
    return found["sky_centroid"][(inside > margin) & (found["half_light_radius"] > 1.2 * stars)]


def n_missing(table: Table, galaxies: SkyCoord) -> int:
    """Galaxies that no row is within 1.5 arcseconds of."""
    where = SkyCoord(table["ra"], table["dec"], unit="deg")
    return int(np.sum(galaxies.match_to_catalog_sky(where)[1] > NEAR))
