"""How right posterior draws of known light are, from faint to bright."""

import itertools

import numpy as np
from scipy.stats import t as student

__all__ = ["summarise"]

#: Brightest pixels, in units of the noise, at which observations are told apart.
DECADES = (0.5, 3.0, 30.0, 300.0, 3000.0)


def coverage(truth: np.ndarray, draws: np.ndarray, level: float):
    """How many truths are in the interval of Student's t about the mean of their draws."""
    n = len(draws)
    half = student.ppf((1 + level) / 2, n - 1) * draws.std(axis=0, ddof=1) * (1 + 1 / n) ** 0.5
    return float(np.mean(abs(truth - draws.mean(axis=0)) < half)) if truth.size else None


def summarise(view, truth: np.ndarray, draws: np.ndarray, chi2: np.ndarray) -> dict:
    """What draws of one source tell of its truth, of shapes (n, N, ny, nx) and (N, ny, nx)."""
    draws = np.nan_to_num(draws.astype(float), nan=0.0, posinf=1e9, neginf=-1e9)
    flux, fluxes = truth.sum(axis=(1, 2)), draws.sum(axis=(2, 3))
    peak = truth.max(axis=(1, 2))
    error = np.sqrt(np.square(draws.mean(axis=0) - truth).mean(axis=(1, 2)))
    bright = view.data[:, 0] > 2  # chosen by the data, which leaves calibrated draws calibrated
    limit = max(2.0, 1 + 6 * np.sqrt(2 / float(np.mean(view.n_valid()))))

    def row(chosen):
        relative = fluxes.mean(axis=0)[chosen] / flux[chosen] - 1
        low, middle, high = np.percentile(relative, [15.87, 50, 84.13])
        pixels = truth[chosen][bright[chosen]], draws[:, chosen][:, bright[chosen]]
        return {
            "n": int(chosen.sum()),
            "bias": float(middle),
            "scatter": float(high - low) / 2,
            "rms_error": float(np.median(error[chosen])),
            "flux_68": coverage(flux[chosen], fluxes[:, chosen], 0.68),
            "flux_95": coverage(flux[chosen], fluxes[:, chosen], 0.95),
            "pixels_68": coverage(*pixels, 0.68),
            "pixels_95": coverage(*pixels, 0.95),
            "chi2": float(np.median(chi2[:, chosen])),
            "failed": float(np.mean(~(chi2[:, chosen] < limit))),
        }

    bins = list(itertools.pairwise(DECADES))
    return {
        **row(peak >= DECADES[0]),
        "decades": [
            {"peaks": f"{low:g} to {high:g}", "peak": float(np.sqrt(low * high)), **row(chosen)}
            for low, high in bins
            if (chosen := (peak >= low) & (peak < high)).any()
        ],
    }
