"""
A brick of the Legacy Surveys
=============================

The DESI Legacy Surveys publish bricks: ``image``, ``invvar`` and ``maskbits``, files of their own,
in nanomaggies. A small brick of this layout is simulated, deep and crowded so that few pixels hold
many blends. It is read by the name of its image alone, priors are learned from it, and the
separated fluxes are held against the truth.
"""

import tempfile
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits

from astro_ddprism import GaussianSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.plotting import plot_separation
from astro_ddprism.simulate.population import simulate_field

folder = Path(tempfile.mkdtemp())
field = simulate_field(
    (384, 384),
    seed=3,
    pixel_scale=0.262 * u.arcsec,
    fwhm=4.4,
    noise=0.01 * u.uJy,
    galaxy_density=60 / u.arcmin**2,
    galaxy_magnitudes=(20.5, 26.0),
    star_density=0 / u.arcmin**2,
)

nanomaggies = 1 / 3.631  # in a microjansky
header = field.image.wcs.to_header()
header["BRICK"], header["IMTYPE"], header["FILTER"] = "1800p000", "image", "r"
header["BUNIT"] = "nanomaggy"
saturated_in_r = 8
planes = {
    "image-r.fits.fz": (field.image.data * nanomaggies).astype("f4"),
    "invvar-r.fits.fz": ((field.image.uncertainty.array * nanomaggies) ** -2).astype("f4"),
    "maskbits.fits.fz": np.where(field.image.mask, saturated_in_r, 0).astype("i2"),
}
for name, plane in planes.items():
    hdu = fits.CompImageHDU(plane, header, compression_type="GZIP_1", quantize_level=0)
    hdu.writeto(folder / f"legacysurvey-1800p000-{name}")

# %%
# ``invvar`` and ``maskbits`` are found beside the image. Nanomaggies are no unit of the FITS
# standard and become microjansky. The view *random* holds what lies on lines of sight, the view
# *galaxy* a galaxy and such light.

views = MultiViewDataset.from_image(
    folder / "legacysurvey-1800p000-image-r.fits.fz",
    psf=False,
    size=24,
    n_random=300,
    detection={"min_snr": 15},
)
print("\n".join(views["galaxy"].conditions.provenance))
views

# %%
# A separator with Gaussian priors is learned in seconds. For a real brick use
# ``DiffusionSourceSeparator(**preset("galaxies"))``: it takes longer, knows far more of what
# galaxies look like, and has the same functions.

separator = GaussianSourceSeparator(
    warm_start={"name": "gaussian", "rank_new": 24}, progress=False
).fit(views)
samples = separator.sample(views, n_samples=8, seed=1)

# %%
# By how much are fluxes in an aperture of 6 pixels off, where at least a tenth of the light in it
# is not the galaxy's?

aperture = 6
separated = samples.flux("galaxy", aperture).mean(axis=0)[:, 0].to_value(u.uJy)
y, x = np.mgrid[:24, :24] - 12
inside = np.hypot(x, y) < aperture
truth = field.truth_of(samples.view)
own, other, observed = (
    light[:, 0, inside].sum(axis=1)
    for light in (truth.galaxy.value, truth.los.value, samples.view.data)
)
blended = truth.matched & (other > 0.1 * (own + other))
for name, flux in (("observed", observed), ("separated", separated)):
    error = np.median(np.abs(flux / own - 1)[blended])
    print(f"{name}: fluxes of {blended.sum()} blended galaxies are off by {error:.0%} (median)")

# %%
# Four of them, with the truth.

rows = np.flatnonzero(blended)[np.argsort(-own[blended])[:4]]
figure = plot_separation(
    samples,
    rows,
    {"galaxy": truth.galaxy, "los": truth.los},
    words={"los": "other light"},
    labels=[f"galaxy {samples.view.ids[row]}" for row in rows],
)
figure
