"""
A coadd of HSC or LSST
======================

The pipelines of HSC and LSST write coadds as three extensions, ``IMAGE``, ``MASK`` and
``VARIANCE``; the mask's header names its bits. A small file of this layout is simulated and read.
The model that comes with the package knows pixels twice as large, so the coadd is binned 2 × 2
before it is separated.
"""

import tempfile
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty, block_reduce

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.posterior.plotting import plot_separation
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey import read_image

path = Path(tempfile.mkdtemp()) / "calexp-HSC-R-9813-4,4.fits"
field = simulate_field(
    (512, 512),
    seed=5,
    pixel_scale=0.168 * u.arcsec,
    fwhm=5.2,
    noise=0.006 * u.uJy,
    saturation=100 * u.uJy,
)

flux_of_magnitude_0 = 10 ** (0.4 * 27.0)  # HSC's coadds have a zero point of 27 mag
factor = flux_of_magnitude_0 / 3631e6  # counts in a microjansky
bits = {"BAD": 0, "SAT": 1, "CR": 3, "DETECTED": 5, "NO_DATA": 8, "REJECTED": 11}
mask = np.where(field.image.mask, 2 ** bits["SAT"], 0) | np.where(
    field.model > 0.05, 2 ** bits["DETECTED"], 0
)
header = field.image.wcs.to_header()
names = fits.Header([(f"HIERARCH MP_{name}", bit) for name, bit in bits.items()])
fits.HDUList(
    [
        fits.PrimaryHDU(header=fits.Header({"FLUXMAG0": flux_of_magnitude_0})),
        fits.ImageHDU((field.image.data * factor).astype("f4"), header, name="IMAGE"),
        fits.ImageHDU(mask.astype("i4"), names, name="MASK"),
        fits.ImageHDU((field.image.uncertainty.array * factor) ** 2, name="VARIANCE"),
    ]
).writeto(path)

# %%
# The format is known by the names of the extensions. ``DETECTED`` is no defect; bits like ``CR``
# tell, in a coadd, that one exposure of many was left out, and are none either. Coadds of LSST, in
# nanojansky, are read in the same way.

image = read_image(path)
print("\n".join(image.provenance))

# %%
# Flux adds, variance adds, and a pixel is bad if one of its four is.

data, variance = (block_reduce(plane[0], 2) for plane in (image.data, image.variance))
binned = CCDData(
    data,
    uncertainty=StdDevUncertainty(np.sqrt(variance)),
    mask=block_reduce(image.mask[0], 2) > 0,
    wcs=image.wcs[::2, ::2],
    unit=image.unit,
)
views = MultiViewDataset.from_image(binned, psf_fwhm=0.9, n_random=0, detection={"min_snr": 40})
separator = DiffusionSourceSeparator.read("kids-r", progress=False)
samples = separator.sample(views, n_samples=6, seed=1)

# %%
# Five galaxies of middling brightness; where a galaxy is much brighter than those that the model
# was trained on, other light may be dark in its core. The greys of each row tell the flux of a
# pixel, in its unit; the bar is a length on the sky.

order = np.argsort(-samples.flux("galaxy", aperture=6).mean(axis=0)[:, 0].value)
figure = plot_separation(samples, order[len(order) // 3 :][:5], words={"los": "other light"})
figure
