"""
A first separation
==================

An image of a galaxy holds the light of everything else on its line of sight. Here a survey image
is simulated, so that the truth is known; its galaxies are found, cut out and separated from the
other light by a model that comes with the package; and what comes out is held against the truth.
"""

import numpy as np

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.plotting import plot_separation
from astro_ddprism.simulate.population import simulate_field

# %%
# An image as a wide ground-based survey takes it in the *r* band: pixels of 0.34 arcsec, a
# point-spread function of 0.9 arcsec, noise such that a star of magnitude 25 is five times as
# bright as its error.

field = simulate_field((320, 320), seed=4, fwhm=2.65)
field.image.shape, field.image.unit

# %%
# Galaxies are detected, and a cutout of 32 × 32 pixels is taken around each. No random positions
# are needed, since nothing is learned here. The width of the PSF could be measured on stars, but
# this small image has hardly any.

views = MultiViewDataset.from_image(
    field.image, psf_fwhm=0.9, n_random=0, detection={"min_snr": 25}
)
views

# %%
# The model knows what galaxies look like, and what the light on their lines of sight looks like.
# It draws both, jointly, again and again: each draw explains the cutout, and their scatter is the
# error.

separator = DiffusionSourceSeparator.read("kids-r", progress=False)
samples = separator.sample(views, n_samples=6, seed=1)
samples

# %%
# The catalog has a row for each galaxy: fluxes in an aperture of 6 pixels radius, with their
# errors, and much more.

catalog = samples.catalog(aperture=6)
catalog["id", "sky_coord", "galaxy_aperture_flux", "galaxy_aperture_flux_error", "flags"][:5]

# %%
# From left to right: the cutout, the galaxy and the other light as they were separated, both as
# they truly are, and what is left over, in units of the noise. All panels of a row share one scale
# of brightness. Shown are the four galaxies with the most light of others.

truth = field.truth_of(samples.view)
other = np.nan_to_num(truth.los.value.sum(axis=(1, 2, 3)) / truth.galaxy.value.sum(axis=(1, 2, 3)))
rows = np.argsort(-other)[:4]

figure = plot_separation(
    samples,
    rows,
    {"galaxy": truth.galaxy, "los": truth.los},
    words={"los": "other light"},
    labels=[f"galaxy {samples.view.ids[row]}" for row in rows],
)
figure
