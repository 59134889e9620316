"""
Candidates by log_prob
======================

A prior is not only a generator of galaxies: it says how probable an image is as a galaxy. Here are
candidates, some of which are galaxies and some of which are not, in the order that the prior gives
them.
"""

import matplotlib.pyplot as plt
import numpy as np
from astropy import units as u
from astropy.visualization import AsinhStretch, ImageNormalize

from astro_ddprism import DiffusionSourceSeparator
from astro_ddprism.simulate.population import simulate_field

separator = DiffusionSourceSeparator.read("kids-r", progress=False)
shape = separator.source_shapes_["galaxy"]
size = shape[-1]

# %%
# Galaxies without noise, as they are, alone. All candidates have the same total flux, 5 µJy.

field = simulate_field((256, 256), seed=2, fwhm=2.65)
catalog = field.catalog
is_plain = (catalog["kind"] == "galaxy") & (np.abs(catalog["magnitude"].value - 22) < 1)
is_plain &= catalog["half_light_radius"].value > 0.5
middle = size // 2
galaxies = []
for row in np.flatnonzero(is_plain)[:3]:
    x0, y0 = (round(catalog[axis][row]) - middle for axis in "xy")
    galaxies.append(field.render(row, x0, y0, (size, size)).value)

y, x = np.mgrid[:size, :size] - middle
pair = galaxies[0] + np.roll(galaxies[1], (5, 6), axis=(0, 1))
off_centre = np.roll(galaxies[0], (7, -6), axis=(0, 1))
trail = np.exp(-((y - 0.4 * x) ** 2) / 2)
ring = np.exp(-((np.hypot(x, y) - 8) ** 2) / 3)
chequers = 1.0 * ((x + y) % 2 == 0)

candidates = {f"galaxy {i + 1}": image for i, image in enumerate(galaxies)} | {
    "two galaxies": pair,
    "off its centre": off_centre,
    "ring": ring,
    "satellite's trail": trail,
    "chequers": chequers,
}
images = np.stack([5 * image / image.sum() for image in candidates.values()])[:, None]

# %%
# The density is over all pixels, in nats, so that differences are what counts: a difference of 10
# makes one image :math:`e^{10}` times as probable as the other. What is no galaxy at all ends far
# behind. Among galaxies the order says less: how sharp an image is weighs more than where it lies,
# and one that is off its centre may come before one that is not. Compare like with like.

log_prob = separator.log_prob(images * u.uJy, "galaxy", seed=1)
order = np.argsort(-log_prob)
[list(candidates)[i] for i in order]

# %%
# All of them, from the most probable to the least.

figure, axes = plt.subplots(2, 4, figsize=(9, 5.4), layout="constrained")
norm = ImageNormalize(vmin=0, vmax=0.3, stretch=AsinhStretch(0.05))
for rank, (ax, i) in enumerate(zip(axes.flat, order, strict=True), 1):
    shown = ax.imshow(images[i, 0], norm=norm, cmap="gray", origin="lower")
    difference = log_prob[i] - log_prob[order[0]]
    ax.set_title(f"{rank}. {list(candidates)[i]}\n{difference:+.0f} nats", fontsize=10)
    ax.set(xticks=[], yticks=[])
figure.suptitle("Log density as a galaxy, against the most probable of them")
figure.colorbar(shown, ax=axes, label="flux of a pixel [µJy]", ticks=[0, 0.03, 0.1, 0.3])
figure
