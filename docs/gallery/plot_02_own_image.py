"""
Your own image
==============

What an image of your own must hold is its flux and its WCS; noise, sky, mask, zero point and PSF
are found, or told. Here such an image is made: counts with the sky still in them, and no word of
their noise. The galaxies are separated, and pasted back onto the image's pixels: the image without
its galaxies is what one looks at first.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.visualization import AsinhStretch, ImageNormalize

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.canvas import Canvas
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey import read_image

folder = Path(tempfile.mkdtemp())
field = simulate_field((256, 256), seed=8, fwhm=2.65)

counts_per_microjansky = 10 ** (0.4 * (30.0 - 23.9))  # a zero point of 30 mag
header = field.image.wcs.to_header()
header["BUNIT"], header["MAGZERO"], header["FILTER"] = "adu", 30.0, "r"
pixels = np.where(field.image.mask, np.nan, field.image.data) * counts_per_microjansky + 1200
fits.writeto(folder / "mine_r.fits", pixels.astype("f4"), header)

# %%
# One function reads it. What the file does not hold is asked for: the level of the sky, the noise,
# as the sky itself shows it, and the keyword that tells the zero point, through which counts
# become microjansky. A line each says what served as what.

image = read_image(
    folder / "mine_r.fits", estimate_noise=True, subtract_background=True, zero_point="MAGZERO"
)
print("\n".join(image.provenance))

# %%
# Detection, cutouts, separation. ``ddprism cutouts`` and ``ddprism separate`` do the same on the
# command line, with the same options.

views = MultiViewDataset.from_image(image, psf_fwhm=0.9, n_random=0, detection={"min_snr": 30})
separator = DiffusionSourceSeparator.read("kids-r", progress=False)
samples = separator.sample(views, n_samples=6, seed=1)

# %%
# The separated galaxies, and all the rest, on the image's own pixels (``--tile`` on the command
# line). Between the cutouts nothing is known, and the image is shown as it is.

canvas = Canvas(image)
canvas.add(samples)
canvas.write(folder / "tile.fits")
rest = np.where(canvas.coverage > 0, image.data[0] - canvas.galaxies[0], image.data[0])

norm = ImageNormalize(vmin=-0.05, vmax=2, stretch=AsinhStretch(0.05))
panels = {"image": image.data[0], "its galaxies": canvas.galaxies[0], "without them": rest}
figure, axes = plt.subplots(
    1, 3, figsize=(11, 4.2), layout="constrained", sharey=True, subplot_kw={"projection": image.wcs}
)
for ax, (title, values) in zip(axes, panels.items(), strict=True):
    shown = ax.imshow(np.where(image.mask[0], np.nan, values), norm=norm, cmap="gray_r")
    ax.set_title(title)
    ax.coords[0].set_axislabel("right ascension")
    ax.coords[0].set_ticks(number=3)
    ax.coords[1].set_axislabel("declination" if ax is axes[0] else " ")
    ax.coords[1].set_ticklabel_visible(ax is axes[0])
figure.colorbar(shown, ax=axes, label="flux of a pixel [µJy]", ticks=[0, 0.1, 0.5, 2])
figure
