"""A demonstration: simulate a field, separate its galaxies, and compare with the truth.

Everything from ``field.fits`` on is done by the functions that a user calls, on a file as a user
has it; the truth is looked at when all is done. Errors are of fluxes in an aperture about each
detected galaxy. The comparison that counts is over galaxies whose aperture holds more than a tenth
of light from elsewhere; there, the observed cutout is wrong by that light, and photutils' deblended
segments by what they cannot take out of it.
"""

import dataclasses
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..errors import InputError
from ..evaluate.deblended import deblended_aperture_flux
from ..evaluate.metrics import interval_coverage, median_absolute_error, residual_std
from ..io.outputs import replacing
from ..posterior.apertures import aperture_flux, aperture_weights
from ..posterior.plotting import plot_separation
from ..separator import DiffusionSourceSeparator
from ..simulate.population import simulate_field
from ..survey.noise import measure_background
from ..views.dataset import MultiViewDataset

try:
    import resource
except ImportError:  # Windows
    resource = None

__all__ = ["DemoSettings", "demo", "evaluate", "format_metrics", "run_demo"]


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What the demonstration does: the numbers that trade its quality for its time.

    Parameters
    ----------
    shape : tuple of int
        ``(ny, nx)`` of the simulated field.
    size : int
        Of the cutouts, in pixels.
    n_random : int, optional
        Number of random positions; by default twice that of galaxies.
    deconvolve : bool
        Whether to give the PSF to the views, so that the sources are the light before it.
    detection : dict
        Options of `astro_ddprism.survey.detect_galaxies`.
    separator : dict
        Options of `~astro_ddprism.DiffusionSourceSeparator`.
    n_samples : int
        Posterior samples of each galaxy.
    aperture : float
        Radius of the aperture of fluxes, in pixels.
    contamination : float
        Smallest fraction of line-of-sight light in the aperture of the galaxies that are compared.
    n_rows : int
        Galaxies in the picture: half of them separated best, half worst.
    model : str, optional
        A model that is taken as it is, in place of learning one.
    """

    shape: tuple[int, int] = (1536, 1536)
    size: int = 24
    n_random: int | None = None
    deconvolve: bool = False
    detection: dict = dataclasses.field(default_factory=lambda: {"min_snr": 25})
    separator: dict = dataclasses.field(
        default_factory=lambda: {
            "posterior": {
                "name": "amortized",
                "templates": ("galaxy",),
                "flux_factors": {"galaxy": (0.2, 4.0)},
                "n_images": 120_000,
                "n_matched": 1,
                "variety": {"shapes": True},
            },
            "training": {"n_first_images": 32_000, "n_images": 10_000, "batch_size": 64},
            "n_em_iterations": 1,
        }
    )
    n_samples: int = 16
    aperture: float = 6.0
    contamination: float = 0.1
    n_rows: int = 8
    model: str | None = None


# What ``--quick`` does: the simulated field is like that of the model that comes with the package.
QUICK = DemoSettings(shape=(640, 640), size=32, n_random=0, model="kids-r", n_samples=8, n_rows=6)


def demo(args):
    """Run the command ``ddprism demo``.

    Parameters
    ----------
    args : `argparse.Namespace`
        The arguments.
    """
    settings = QUICK if args.quick else DemoSettings()
    run_demo(
        args.out, seed=args.seed, device=args.device, settings=settings, progress=not args.quiet
    )


def run_demo(out="ddprism-demo", *, seed=0, device="auto", settings=None, progress=True):
    """Simulate a field, learn its priors, separate its galaxies and compare with the truth.

    Leaves in ``out``, in place of what an earlier run left there: ``field.fits`` (see
    `~astro_ddprism.simulate.field.SimulatedField.write`), ``views.asdf``, ``model.asdf`` (where one
    is learned), ``separated.fits``, ``catalog.ecsv``, ``demo.png`` and ``metrics.json``.

    Parameters
    ----------
    out : path-like
        A folder, made if it does not exist.
    seed : int
        Of the field and of all that follows.
    device : str
        Where to fit and sample.
    settings : DemoSettings, optional
        What to do.
    progress : bool
        Whether to say what is being done and how long it takes.

    Returns
    -------
    metrics : dict
        What ``metrics.json`` holds, see `evaluate`; and of the run ``wall_time_s``,
        ``peak_memory_bytes``, ``device``, ``versions``, ``settings``, ``seed`` and ``times_s``, the
        seconds that each step took.

    Raises
    ------
    InputError
        If ``out`` cannot be a folder.
    """
    settings = DemoSettings() if settings is None else settings
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder: {error.strerror}") from error
    clock = _Clock(progress)

    with clock("simulate a field"):
        field = simulate_field(settings.shape, seed=seed)
        field.write(out / "field.fits", overwrite=True)
    with clock("cut out galaxies and random positions"):
        views = MultiViewDataset.from_image(
            out / "field.fits",
            psf=field.psf if settings.deconvolve else False,
            size=settings.size,
            n_random=settings.n_random,
            detection=settings.detection,
            seed=seed,
        )
        views.write(out / "views.asdf", overwrite=True)
    model = settings.model
    if model is None:
        model = out / "model.asdf"
        with clock("learn the priors"):
            separator = DiffusionSourceSeparator(
                sources=("los", "galaxy"),
                device=device,
                seed=seed,
                progress=progress,
                **settings.separator,
            ).fit(views)
            separator.write(model, overwrite=True)
    with clock("separate the galaxies"):
        separator = DiffusionSourceSeparator.read(model, device=device, progress=progress)
        samples = separator.sample(views["galaxy"], n_samples=settings.n_samples, seed=seed)
        catalog = samples.catalog(settings.aperture, progress=progress)
        samples.write(out / "separated.fits", overwrite=True, catalog=catalog)
        with replacing(out / "catalog.ecsv", overwrite=True) as path:
            catalog.write(path, format="ascii.ecsv", overwrite=True)
    with clock("compare with the truth"):
        metrics, rows, labels = evaluate(samples, field, settings)
        truth = field.truth_of(samples.view)
        figure = plot_separation(
            samples,
            rows,
            {"galaxy": truth.galaxy, "los": truth.los},
            labels=labels,
            words={"los": "other light"},
        )
        with replacing(out / "demo.png", overwrite=True) as path:
            figure.savefig(path, format="png")

    metrics |= {
        "n_galaxies": len(views["galaxy"]),
        "n_randoms": len(views.get("random", ())),
        "wall_time_s": clock.total,
        "times_s": clock.times,
        "peak_memory_bytes": _peak_memory(),
        **_machine(device),
        "seed": seed,
        "settings": dataclasses.asdict(settings),
    }
    with replacing(out / "metrics.json", overwrite=True) as path:
        path.write_text(json.dumps(metrics, indent=2, default=str) + "\n")
    print(format_metrics(metrics))
    print(
        f"\nLook at {out / 'demo.png'}: galaxies that were separated well, and badly; all of it is "
        f"in {out}"
    )
    return metrics


def evaluate(samples, field, settings=None):
    """Compare separated galaxies with the truth.

    Used are the galaxies whose brightest true object within two pixels is a galaxy, and whose
    aperture lies on the field and holds no masked pixel; "contaminated" are those of them whose
    aperture holds more than a fraction ``settings.contamination`` of line-of-sight light.

    Parameters
    ----------
    samples : PosteriorSamples
        Of the field's galaxies.
    field : SimulatedField
        The truth.
    settings : DemoSettings, optional
        Aperture, contamination and number of rows of the picture.

    Returns
    -------
    metrics : dict
        Counts ``n_used`` and ``n_contaminated``; median absolute errors of the aperture fluxes of
        contaminated galaxies in microjansky, ``error_separated``, ``error_observed`` and
        ``error_photutils_METHOD`` (see `astro_ddprism.evaluate.deblended`); ``photutils_method``,
        the one with the least error; the ratios
        ``aperture_error_vs_observed`` and ``aperture_error_vs_photutils``; the fraction of true
        fluxes in the central 68 % posterior interval, ``coverage_68`` of all galaxies used and
        ``coverage_68_contaminated``; and ``residual_std``. A figure that cannot be had of so few
        galaxies or samples is None.
    rows : ndarray of int
        Observations for the picture, of the brightest contaminated ones: those whose fluxes are
        most right, then those whose are most wrong.
    labels : list of str
        What to call them, with the errors of their fluxes.
    """
    settings = DemoSettings() if settings is None else settings
    view, radius, unit = samples.view, settings.aperture, field.image.unit
    positions = samples.positions
    truth = field.truth_of(view)
    galaxy, los = (
        aperture_flux(images.to_value(unit), radius, positions)[:, 0]
        for images in (truth.galaxy, truth.los)
    )
    observed = aperture_flux(view.data * view.unit.to(unit), radius, positions)[:, 0]
    # As the view sees it, so that a deconvolved source is compared with the same light.
    component = samples.component("galaxy").to_value(unit)
    draws = aperture_flux(component, radius, positions)[..., 0]

    inside = aperture_weights(positions, radius, view.data.shape[-2:])[:, None] > 0
    used = truth.matched & np.isfinite(galaxy + los) & ~(inside & view.mask).any(axis=(1, 2, 3))
    contaminated = used & (los > settings.contamination * (galaxy + los))
    estimates = {"separated": draws.mean(axis=0), "observed": observed}
    peers = _photutils(field, view, radius)
    estimates |= {f"photutils_{method}": flux for method, flux in peers.items()}
    # One set of galaxies for all: those of which every method has a flux.
    compared = contaminated & np.all([np.isfinite(f) for f in estimates.values()], axis=0)
    metrics = {"n_used": int(used.sum()), "n_contaminated": int(compared.sum())}
    metrics |= {
        f"error_{name}": float(median_absolute_error(flux[compared], galaxy[compared]))
        if compared.any()
        else None
        for name, flux in estimates.items()
    }
    best = min(peers, key=lambda method: metrics[f"error_photutils_{method}"] or np.inf)
    metrics["photutils_method"] = best
    for name, key in (("observed", "error_observed"), ("photutils", f"error_photutils_{best}")):
        metrics[f"aperture_error_vs_{name}"] = (
            metrics["error_separated"] / metrics[key] if compared.any() else None
        )
    metrics["coverage_68"] = _coverage(draws[:, used], galaxy[used])
    metrics["coverage_68_contaminated"] = _coverage(draws[:, compared], galaxy[compared])
    metrics["residual_std"] = residual_std(samples.residual())
    candidates = np.flatnonzero(compared if compared.any() else used)
    candidates = candidates if len(candidates) else np.arange(len(view))
    bright = candidates[np.argsort(-np.nan_to_num(observed[candidates]))][: 4 * settings.n_rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        wrong = np.nan_to_num(draws.mean(axis=0) / galaxy - 1, posinf=np.inf)[bright]
    order = np.argsort(np.abs(wrong))
    best, worst = np.split(order, [-(-min(settings.n_rows, len(order)) // 2)])
    worst = worst[len(worst) - min(settings.n_rows // 2, len(worst)) :]
    names = ["good"] * len(best) + ["bad"] * len(worst)
    chosen = np.concatenate([best, worst])
    labels = [f"{name}\nflux {wrong[i]:+.0%}" for name, i in zip(names, chosen, strict=True)]
    return metrics, bright[chosen], labels


def format_metrics(metrics):
    """The metrics as a table for people.

    Parameters
    ----------
    metrics : dict
        Of `run_demo`.

    Returns
    -------
    table : str
    """

    def number(key, digits=3):
        return "-" if metrics[key] is None else f"{metrics[key]:.{digits}f}"

    aperture = metrics["settings"]["aperture"]
    percent = f"{metrics['settings']['contamination']:.0%}"
    method = metrics["photutils_method"]
    lines = [
        ("galaxies, random positions", f"{metrics['n_galaxies']}, {metrics['n_randoms']}"),
        (f"galaxies with over {percent} line-of-sight light", f"{metrics['n_contaminated']}"),
        (f"median flux error in {aperture:g} pixels, in microjansky:", ""),
        ("  observed cutout", number("error_observed")),
        (f"  photutils, deblended ({method})", number(f"error_photutils_{method}")),
        ("  separated", number("error_separated")),
        ("separated / observed", number("aperture_error_vs_observed", 2)),
        ("separated / photutils", number("aperture_error_vs_photutils", 2)),
        ("true fluxes in the central 68 % interval:", ""),
        ("  of all galaxies", number("coverage_68", 2)),
        (
            f"  of those with over {percent} line-of-sight light",
            number("coverage_68_contaminated", 2),
        ),
        ("standard deviation of residuals", number("residual_std", 2)),
        ("wall time", f"{metrics['wall_time_s']:.0f} s on {metrics['device']}"),
        ("peak memory", _gibibytes(metrics["peak_memory_bytes"])),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in lines)


def _photutils(field, view, radius):
    """Aperture fluxes of the view's galaxies by photutils, on the whole image."""
    image = field.image
    error = image.uncertainty.array
    noise = float(np.median(error))
    sky = noise * measure_background(image.data.astype(float) / noise, mask=image.mask, box_size=64)
    positions = np.column_stack(image.wcs.world_to_pixel(view.coordinates))
    return deblended_aperture_flux(
        image.data - sky, error, positions, radius, mask=image.mask, kernel=field.psf
    )


def _coverage(draws, truth):
    try:
        return interval_coverage(draws, truth) if len(truth) else None
    except InputError:  # too few samples for an interval
        return None


class _Clock:
    """Says what is being done, and remembers how long it took."""

    def __init__(self, progress):
        self.progress, self.times, self._start = progress, {}, time.perf_counter()

    def __call__(self, step):
        self._step = step
        return self

    def __enter__(self):
        self._began = time.perf_counter()
        if self.progress:
            print(f"{self._step} ...", file=sys.stderr, flush=True)

    def __exit__(self, *_):
        self.times[self._step] = time.perf_counter() - self._began
        if self.progress:
            print(f"  {self.times[self._step]:.1f} s", file=sys.stderr, flush=True)

    @property
    def total(self):
        """Seconds since the beginning."""
        return time.perf_counter() - self._start


def _peak_memory():
    """Largest resident memory of this process so far, in bytes; None where nobody says."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _gibibytes(size):
    return "-" if size is None else f"{size / 2**30:.2f} GiB"


def _machine(device):
    on_gpu = device != "cpu" and torch.cuda.is_available()
    result = {
        "device": torch.cuda.get_device_name()
        if on_gpu
        else f"{torch.get_num_threads()} CPU threads",
        "versions": {
            "astro-ddprism": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("astropy", "azula", "numpy", "photutils", "torch")},
        },
    }
    if on_gpu:
        result["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
    return result
