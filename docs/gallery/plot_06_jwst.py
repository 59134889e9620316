"""
A mosaic of JWST
================

NIRCam's mosaics (``i2d``) hold surface brightness in MJy/sr, with ``ERR`` and ``DQ``. A small one
is simulated and read, and its galaxies are separated from the light around them; the truth is
beside them.
"""

import tempfile
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits

from astro_ddprism import GaussianSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.plotting import plot_separation
from astro_ddprism.simulate.population import simulate_field

path = Path(tempfile.mkdtemp()) / "jw01345_nircam_f200w_i2d.fits"
pixel = 0.06 * u.arcsec
field = simulate_field(
    (512, 512),
    seed=7,
    pixel_scale=pixel,
    fwhm=2.2,
    noise=0.0002 * u.uJy,
    galaxy_density=30 / u.arcmin**2,
    galaxy_magnitudes=(23.5, 29.0),
    star_density=0 / u.arcmin**2,
)

area = (pixel**2).to_value(u.sr)
brightness = 1e-12 / area  # MJy/sr in a microjansky for each pixel
header = field.image.wcs.to_header()
header["BUNIT"], header["PIXAR_SR"] = "MJy/sr", area
do_not_use = 1
fits.HDUList(
    [
        fits.PrimaryHDU(header=fits.Header({"TELESCOP": "JWST", "FILTER": "F200W"})),
        fits.ImageHDU((field.image.data * brightness).astype("f4"), header, name="SCI"),
        fits.ImageHDU(field.image.uncertainty.array * brightness, name="ERR"),
        fits.ImageHDU(np.where(field.image.mask, do_not_use, 0).astype("u4"), name="DQ"),
    ]
).writeto(path)

# %%
# Surface brightness becomes flux by the area of a pixel. Mosaics that were drizzled to small
# pixels share noise between neighbours: ``correlated_noise=2`` then measures how much, in the sky.
# Pixels of this one are independent.

views = MultiViewDataset.from_image(
    path, psf=False, size=32, n_random=250, detection={"min_snr": 15}
)
print("\n".join(views["galaxy"].conditions.provenance))

# %%
# Gaussian priors, learned in seconds. For a real mosaic take
# ``DiffusionSourceSeparator(**preset("galaxies"))``.

separator = GaussianSourceSeparator(
    warm_start={"name": "gaussian", "rank_new": 24}, progress=False
).fit(views)
samples = separator.sample(views, n_samples=8, seed=1)

# %%
# Four galaxies of middling brightness with other light about them, as observed, as separated, and
# as they truly are. A Gaussian prior knows how pixels vary together, and not that light is
# positive: beside galaxies much brighter than most, it leaves dark places.

truth = field.truth_of(samples.view)
own, other = (light.value.sum(axis=(1, 2, 3)) for light in (truth.galaxy, truth.los))
blended = np.flatnonzero(truth.matched & np.isfinite(other) & (other > 0.3 * own))
rows = blended[np.argsort(-own[blended])][len(blended) // 4 :][:4]
figure = plot_separation(
    samples,
    rows,
    {"galaxy": truth.galaxy, "los": truth.los},
    words={"los": "other light"},
    labels=[f"galaxy {samples.view.ids[row]}" for row in rows],
)
figure
