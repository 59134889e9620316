"""Fluxes by scarlet2, in an interpreter that has it; nothing here imports this package.

    PYTHON run_scarlet2.py INPUT.npz OUTPUT.npz

INPUT holds ``data`` and ``variance`` (K, ny, nx), in units of the noise; ``centres`` (K, M, 2) as
(y, x), the galaxy's first, NaN where there are fewer sources; ``psf`` (ky, kx). OUTPUT holds of
the galaxy of each cutout the ``flux`` (K,), NaN where the fit failed, the rendered ``model``
(K, ny, nx), and the ``seconds`` (K,) of a processor core that it took.

The settings are those of scarlet2's quick start: one extended source with a free morphology at each
position, initialized by its Gaussian moments (``init.from_gaussian_moments``; where that fails, as
compact as the PSF of the model); positive spectra with steps of 5 %, morphologies between 0 and 1
with steps of 0.1; ``Scene.fit`` until nothing changes by more than 1e-4, or 1,000 steps. There is
no prior of morphologies, whose weights do not come with scarlet2.
"""

import contextlib
import io
import sys
import time
from functools import partial

import numpy as np

MAX_ITER = 1000
E_REL = 1e-4


def fit(data, variance, centres, psf):
    """Fit one cutout.

    Parameters
    ----------
    data, variance : ndarray, shape (ny, nx)
        What is seen and its noise.
    centres : ndarray, shape (M, 2)
        Positions (y, x) of all sources.
    psf : ndarray, shape (ky, kx)
        Of the image.

    Returns
    -------
    flux : float
        Of the first source.
    model : ndarray, shape (ny, nx)
        The first source as it is seen.
    """
    import jax.numpy as jnp
    import scarlet2 as sc
    from numpyro.distributions import constraints

    observation = sc.Observation(data[None], 1 / variance[None], psf=sc.ArrayPSF(psf[None]))
    with sc.Scene(sc.Frame.from_observations(observation)) as scene:
        for centre in centres:
            centre = jnp.asarray(centre)
            try:
                spectrum, morphology = sc.init.from_gaussian_moments(observation, centre)
                usable = bool(jnp.isfinite(morphology).all() & jnp.isfinite(spectrum).all())
            except (ValueError, IndexError, UnboundLocalError):  # a source at the edge of the box
                usable = False
            if not usable:
                spectrum = sc.init.pixel_spectrum(observation, centre)
                morphology = sc.init.compact_morphology()
            sc.Source(centre, jnp.maximum(spectrum, 1e-6), morphology)
    with sc.Parameters(scene):
        for i, source in enumerate(scene.sources):
            sc.Parameter(
                source.spectrum,
                name=f"spectrum:{i}",
                constraint=constraints.positive,
                stepsize=partial(sc.relative_step, factor=0.05),
            )
            sc.Parameter(
                source.morphology,
                name=f"morphology:{i}",
                constraint=constraints.unit_interval,
                stepsize=0.1,
            )
    fitted = scene.fit(observation, max_iter=MAX_ITER, e_rel=E_REL, progress_bar=False)
    galaxy = fitted.sources[0]
    model = observation.render(fitted.evaluate_source(galaxy))[0]
    return float(sc.measure.flux(galaxy)[0]), np.asarray(model)


def main(source, target):
    """Fit all cutouts of a file."""
    import scarlet2 as sc

    sc.set_validation(False)
    with np.load(source) as file:
        arrays = dict(file)
    number = len(arrays["data"])
    flux, seconds = np.full(number, np.nan), np.zeros(number)
    model = np.full(arrays["data"].shape, np.nan, dtype=np.float32)
    for i in range(number):
        centres = arrays["centres"][i]
        started = time.process_time()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                flux[i], model[i] = fit(
                    arrays["data"][i],
                    arrays["variance"][i],
                    centres[np.isfinite(centres).all(axis=1)],
                    arrays["psf"],
                )
        except Exception as error:  # of any of its libraries: one failed fit  # noqa: BLE001
            print(f"cutout {i}: {type(error).__name__}: {error}", file=sys.stderr)
        seconds[i] = time.process_time() - started
    np.savez(target, flux=flux, model=model, seconds=seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
