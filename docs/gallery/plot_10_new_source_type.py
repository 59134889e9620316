"""
A new type of source: spectra behind the sky's own light
========================================================

Nothing in the method knows of galaxies, or of images. A fibre of a spectrograph that points at a
galaxy sees its spectrum and that of the night sky, whose lines change from minute to minute; a
fibre beside it sees the sky alone. These are two views of two sources, given as plain arrays.
"""

import matplotlib.pyplot as plt
import numpy as np
from astropy import units as u

from astro_ddprism import GaussianSourceSeparator, MultiViewDataset

rng = np.random.default_rng(11)
wavelength = np.linspace(7200, 7600, 128)  # angstrom
unit = u.Unit("1e-17 erg / (s cm2 AA)")


def line(centre, width=4.0):
    return np.exp(-(((wavelength - centre) / width) ** 2) / 2)


# %%
# The sky: three families of lines, each of which goes up and down as one, on a faint continuum. The
# galaxies of a cluster: a slope, and three emission lines, each galaxy with its own velocity.

families = [sum(line(c) for c in rng.uniform(7200, 7600, 6)) for _ in range(3)]


def draw_sky(n):
    strengths = rng.lognormal(1.0, 0.5, (n, 3))
    return 1.0 + strengths @ np.array(families)


def draw_galaxies(n):
    slope = rng.normal(0, 0.3, (n, 1)) * (wavelength - 7400) / 200
    redshift = rng.normal(0.124, 0.0015, n)  # of a cluster
    strength = rng.lognormal(0.5, 0.4, n)
    lines = [
        a * sum(f * line(rest * (1 + z), 8.0) for rest, f in ((6548, 0.3), (6563, 1), (6583, 0.5)))
        for z, a in zip(redshift, strength, strict=True)
    ]
    return 1.0 + slope + np.array(lines)


def observe(light):
    variance = 0.05 + 0.03 * light  # photons: bright lines are noisier
    return {
        "data": (light + np.sqrt(variance) * rng.normal(size=light.shape)) * unit,
        "variance": variance * unit**2,
    }


sky, galaxies = draw_sky(2000), draw_galaxies(2000)
identity = np.eye(len(wavelength))
views = MultiViewDataset.from_arrays(
    {
        "beside": observe(draw_sky(2000)) | {"mixing": {"sky": identity}},
        "galaxy": observe(sky + galaxies) | {"mixing": {"sky": identity, "galaxy": identity}},
    }
)
views

# %%
# From here on nothing differs from images of galaxies. Both sources vary about a mean, which the
# means and covariances of the two views tell: the warm start ``moments`` makes Gaussian priors of
# these. The sky may vary in three ways, since lines of one family go up and down as one; galaxies
# in eight.

separator = GaussianSourceSeparator(
    warm_start={"name": "moments", "rank": 3, "rank_new": 8}, progress=False
).fit(views)
samples = separator.sample(views["galaxy"][:100], n_samples=16, seed=1)
mean, std = samples.mean["galaxy"].value, samples.std["galaxy"].value

# %%
# What is usually done is to subtract the mean of the fibres beside.

plain = samples.view.data - views["beside"].data.mean(axis=0)
truth = galaxies[:100]
for name, estimate in (("mean sky subtracted", plain), ("separated", mean)):
    print(f"{name}: off by {np.sqrt(np.mean((estimate - truth) ** 2)):.2f} (rms) of {unit}")

row = 4
figure, axes = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
axes[0].plot(wavelength, samples.view.data[row], color="0.3", label="observed: galaxy and sky")
axes[0].plot(wavelength, samples.mean["sky"].value[row], color="C0", label="separated sky")
axes[1].plot(wavelength, plain[row], color="C3", label="mean sky subtracted")
axes[2].fill_between(
    wavelength, *(mean[row] + s * std[row] for s in (-1, 1)), color="C1", alpha=0.4
)
axes[2].plot(wavelength, mean[row], color="C1", label="separated galaxy, with its error")
for ax in axes[1:]:
    ax.plot(wavelength, truth[row], color="black", linewidth=0.9, label="true galaxy")
    ax.set_ylim(-1, truth[row].max() + 1.5)
for ax in axes:
    ax.legend(loc="upper right", fontsize=9)
figure.supylabel(f"flux density [{unit:unicode}]", fontsize=10)
axes[-1].set_xlabel("wavelength [Å]")
figure
