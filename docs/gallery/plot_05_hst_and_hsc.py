"""
HST and HSC together
====================

Two instruments see the same galaxies: one with pixels of 0.056 arcsec from space, the other with
pixels of 0.168 arcsec and a point-spread function five times as wide. A source is one; each image
is what an instrument makes of it. Both images are simulated from one catalog, and separated
together.
"""

import dataclasses

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty

from astro_ddprism import GaussianSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.plotting import plot_instruments
from astro_ddprism.psf import MoffatPSF
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.simulate.profiles import MoffatRenderer

hst = simulate_field(
    (480, 480),
    seed=6,
    pixel_scale=0.056 * u.arcsec,
    fwhm=2.5,
    noise=0.002 * u.uJy,
    galaxy_density=200 / u.arcmin**2,
    galaxy_magnitudes=(22.0, 26.5),
    star_density=0 / u.arcmin**2,
    n_bad_columns=0,
)

# %%
# The same objects on pixels three times as large, through the atmosphere.

catalog = hst.catalog.copy()
for axis in "xy":
    catalog[axis] = (catalog[axis] + 0.5) / 3 - 0.5
noise = 0.006
seen = dataclasses.replace(
    hst, catalog=catalog, renderer=MoffatRenderer(4.2), pixel_scale=0.168 * u.arcsec
).render(np.arange(len(catalog)), shape=(160, 160))
pixels = seen.value + noise * np.random.default_rng(6).normal(size=seen.shape)
hsc = CCDData(
    pixels,
    uncertainty=StdDevUncertainty(np.full(seen.shape, noise)),
    wcs=hst.image.wcs[::3, ::3],
    unit=u.uJy,
)

# %%
# Galaxies are detected on the first image, cut out of both, and given one frame of pixels, on
# which the sources live. The PSFs tell how each instrument sees it.

views = MultiViewDataset.from_image(
    {"hst": hst.image, "hsc": hsc},
    psf={"hst": MoffatPSF(2.5 * 0.056 * u.arcsec, 3.5), "hsc": MoffatPSF(0.706 * u.arcsec, 3.5)},
    size=1.8 * u.arcsec,
    n_random=100,
    detection={"min_snr": 20},
)
views

# %%
# Gaussian priors, learned in seconds, from both instruments at once.

separator = GaussianSourceSeparator(
    warm_start={"name": "gaussian", "rank_new": 8}, progress=False
).fit(views)
samples = separator.sample(views, n_samples=6, seed=1)
print("reduced chi-squared, median:", {
    name: round(float(np.median(image.chi2)), 2) for name, image in samples.images.items()
})  # fmt: skip

# %%
# Four galaxies of middling brightness. On the left the sources on their own pixels: the galaxy and
# the other light (*los*), each in a stretch of its own; then for each instrument its image, what
# the sources make of it, and what is left over, in units of the noise.

order = np.argsort(-samples.flux("galaxy").mean(axis=0)[:, 0].value)
figure = plot_instruments(samples, order[len(order) // 4 :][:4])
figure
