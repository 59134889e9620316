"""
Thousands of tiles
==================

A survey is many images that overlap. All are separated by one function, which runs on the
processes of one machine or on those of a cluster, goes on where it was stopped, and makes one
catalog in which every object of the sky is one row. Here are four small tiles in place of
thousands.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS

from astro_ddprism import separate_tiles
from astro_ddprism.simulate.population import simulate_field

folder = Path(tempfile.mkdtemp())
field = simulate_field((288, 288), seed=13, fwhm=2.65)
image, side = field.image, 168
paths = []
for j, y0 in enumerate((0, 120)):
    for i, x0 in enumerate((0, 120)):
        part = np.s_[y0 : y0 + side, x0 : x0 + side]
        header = image.wcs[part].to_header()
        header["BUNIT"] = "uJy"
        hdus = [
            fits.PrimaryHDU(),
            fits.ImageHDU(image.data[part], header, name="SCI"),
            fits.ImageHDU(image.uncertainty.array[part], name="ERR"),
            fits.ImageHDU(image.mask[part].astype("u1"), name="MASK"),
        ]
        paths.append(folder / f"tile-{j}{i}.fits")
        fits.HDUList(hdus).writeto(paths[-1])

# %%
# ``n_workers=0`` does all in this process. By default a process is started for each GPU, or for
# every two cores, and ``scheduler="tcp://node7:8786"`` takes the workers of a cluster. The command
# is ``ddprism survey``.

options = {
    "n_samples": 4,
    "seed": 1,
    "n_workers": 0,
    "progress": False,
    "psf_fwhm": 0.9,
    "detection": {"min_snr": 25},
}
records = separate_tiles(paths, "kids-r", folder / "survey", **options)
for record in records:
    print(record.name, record.status, record.counts)

# %%
# Run again, it does what is missing or has changed: here nothing.

again = separate_tiles(paths, "kids-r", folder / "survey", **options)
made = [record.times != first.times for record, first in zip(again, records, strict=True)]
print(sum(made), "of", len(made), "tiles were made again")

# %%
# The catalog is a Parquet data set that is partitioned by tile. An object in the overlap of tiles
# is separated where it lies deepest, and is there once.

catalog = pq.read_table(folder / "survey" / "catalog")
tile = np.array(catalog["tile"].to_pylist())
ra, dec, flux = (catalog[name].to_numpy() for name in ("ra", "dec", "galaxy_flux"))

figure, ax = plt.subplots(figsize=(6.5, 5.8), layout="constrained")
for number, path in enumerate(paths):
    wcs = WCS(fits.getheader(path, "SCI"))
    corners = wcs.calc_footprint(axes=(side, side))
    ax.fill(*corners.T, facecolor=f"C{number}", alpha=0.12, edgecolor=f"C{number}")
    own = tile == path.stem
    ax.scatter(
        ra[own], dec[own], 15 + 10 * flux[own].clip(0, 20), color=f"C{number}", label=path.stem
    )
ax.invert_xaxis()
ax.ticklabel_format(useOffset=False)
ax.set(
    title="Separated galaxies, by the tile that they come from",
    xlabel="right ascension [deg]",
    ylabel="declination [deg]",
)
ax.legend(title="larger: brighter")
figure
