"""
Judging a fit
=============

Three questions that tell whether to trust a separator: did its training settle; do its draws
explain the observations to the noise; and, where a truth is known, does it lie within the errors
as often as it should? They are asked of the model that comes with the package, on a simulated
field that it has never seen.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.evaluate.metrics import interval_coverage
from astro_ddprism.simulate.population import simulate_field

separator = DiffusionSourceSeparator.read("kids-r", progress=False)
print("\n".join(separator.training_.lines()))

# %%
# The history of the fit is kept in the model's file. Each row is an EM iteration of a source:
# losses should have stopped falling, residuals have a standard deviation near 1, and hardly a draw
# contradict its observation.

history = separator.history_
history

# %%
# Injected galaxies would be the test on a real image (:doc:`/injection`); here all of the field is
# simulated.

field = simulate_field((384, 384), seed=12, fwhm=2.65)
views = MultiViewDataset.from_image(
    field.image, psf_fwhm=0.9, n_random=0, detection={"min_snr": 20}
)
samples = separator.sample(views, n_samples=12, seed=1)

# %%
# The truth of each galaxy, in an aperture of 6 pixels, and the fluxes of all draws.

aperture = 6
truth = field.truth_of(samples.view)
size = samples.view.data.shape[-1]
y, x = np.mgrid[:size, :size] - size // 2
inside = np.hypot(x, y) < aperture
flux = samples.component("galaxy").value[..., 0, inside].sum(axis=-1)
true = truth.galaxy.value[:, 0, inside].sum(axis=1)
known = truth.matched & np.isfinite(true)

levels = np.array([0.3, 0.5, 0.68, 0.8])
inside_interval = [interval_coverage(flux[:, known], true[known], level) for level in levels]
expected_scatter = np.sqrt(levels * (1 - levels) / known.sum())
residual = samples.residual()
residual = residual[np.isfinite(residual)]

# %%
# Left: residuals of single draws, in units of the noise, against a normal distribution of width 1.
# Narrower is no fault: a draw also fits a part of the noise. Right: how often the truth lies in
# the central interval of a given probability. Points within the band are what a perfect posterior
# would give with so few galaxies.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
bins = np.linspace(-5, 5, 61)
axes[0].hist(residual, bins, density=True, color="0.75", label=f"width {residual.std():.2f}")
axes[0].plot(bins, norm.pdf(bins), color="black", label="width 1")
axes[0].set(
    yscale="log",
    ylim=(1e-5, 1),
    xlabel="residual [standard deviations of the noise]",
    ylabel="density of pixels",
)
axes[1].fill_between(
    levels, levels - expected_scatter, levels + expected_scatter, color="0.85", label="expected"
)
axes[1].plot(levels, levels, color="black")
axes[1].plot(levels, inside_interval, "o-", label=f"{known.sum()} galaxies")
axes[1].set(
    xlabel="probability of the interval", ylabel="fraction of true fluxes in it", ylim=(0, 1)
)
for ax in axes:
    ax.legend()
figure
