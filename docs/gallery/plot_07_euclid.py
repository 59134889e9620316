"""
Mosaics of Euclid
=================

Euclid's MER mosaics are one image a file; noise and flags are files of their own, whose names have
other times in them, so that all three are given. Their zero point is the keyword ``MAGZERO``.
Small ones are simulated; their galaxies are separated and taken out of the image.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.visualization import AsinhStretch, ImageNormalize

from astro_ddprism import GaussianSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.canvas import Canvas
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey import read_image

folder = Path(tempfile.mkdtemp())
field = simulate_field(
    (384, 384),
    seed=9,
    pixel_scale=0.1 * u.arcsec,
    fwhm=1.8,
    noise=0.003 * u.uJy,
    galaxy_density=120 / u.arcmin**2,
    galaxy_magnitudes=(22.5, 27.0),
    star_density=0 / u.arcmin**2,
)

zero_point = 24.6
factor = 10 ** (0.4 * (zero_point - 23.9))  # pixel values in a microjansky
header = field.image.wcs.to_header()
header["TELESCOP"], header["INSTRUME"], header["MAGZERO"] = "EUCLID", "VIS", zero_point
planes = {
    "BGSUB-MOSAIC-VIS": (field.image.data * factor).astype("f4"),
    "MOSAIC-VIS-RMS": (field.image.uncertainty.array * factor).astype("f4"),
    "MOSAIC-VIS-FLAG": field.image.mask.astype("i4"),
}
for name, plane in planes.items():
    fits.writeto(folder / f"EUC_MER_{name}.fits", plane, header)

# %%
# For an exposure of VIS, with the quadrants in one file, ``hdu="3-4.F.SCI"`` names one; its noise
# and flags are then found by themselves.

image = read_image(
    folder / "EUC_MER_BGSUB-MOSAIC-VIS.fits",
    uncertainty=folder / "EUC_MER_MOSAIC-VIS-RMS.fits",
    mask=folder / "EUC_MER_MOSAIC-VIS-FLAG.fits",
)
print("\n".join(image.provenance))

# %%
# Priors are learned from 300 random positions and from the detected galaxies; all galaxies are
# separated.

views = MultiViewDataset.from_image(
    image, psf=False, size=32, n_random=300, detection={"min_snr": 12}
)
separator = GaussianSourceSeparator(
    warm_start={"name": "gaussian", "rank_new": 8}, progress=False
).fit(views)
samples = separator.sample(views, n_samples=8, seed=1)
canvas = Canvas(image)
canvas.add(samples)
canvas.write(folder / "tile.fits")

# %%
# The image, its separated galaxies, and the image without them: galaxies that were too faint to be
# detected, and the faint light that lies upon the others. Where it is white, too much was taken: a
# Gaussian prior does not know that light is positive. A diffusion model does (:doc:`/choosing`).

norm = ImageNormalize(vmin=-0.01, vmax=1, stretch=AsinhStretch(0.02))
without = image.data[0] - canvas.galaxies[0]
panels = {"image": image.data[0], "separated galaxies": canvas.galaxies[0], "without them": without}
figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained", sharey=True)
side = 0.1 * image.shape[-1]
for ax, (title, values) in zip(axes, panels.items(), strict=True):
    values = np.where(image.mask[0], np.nan, values)
    shown = ax.imshow(values, norm=norm, cmap="gray_r", origin="lower", extent=(0, side, 0, side))
    ax.set(title=title, xlabel="arcsec")
axes[0].set_ylabel("arcsec")
figure.colorbar(shown, ax=axes, label="flux of a pixel [µJy]", ticks=[0, 0.03, 0.1, 0.3, 1])
figure
