r"""Detail that a coarse instrument cannot see, from a prior that a finer one has taught.

Galaxies of the COSMOS catalog, drawn by GalSim, are observed by two instruments: the coarse one has
seen them all, the fine one a third of them. One prior is learned from both (*pairs*), another one
from the same coarse images alone, with the same settings. Both then draw from the posterior of
galaxies that neither has seen, given their coarse images alone, and the truth is known.

GalSim draws the images through their own PSF and WCS; it knows nothing of this package's operators.
Truth is what GalSim draws through the PSF of the sources' frame.

Two estimates without diffusion stand beside: the coarse image, interpolated to the frame; and the
best that is linear, the mean of the posterior under a Gaussian of the true galaxies' own mean and
covariance (of other galaxies than those that are judged), in units of each galaxy's flux, which is
fitted to the image.

What is finer than the coarse PSF are the Fourier modes of which the coarse instrument sees less
than a hundredth of the amplitude. Of these, the *share explained* is

.. math:: 1 - \frac{\sum_k |\hat x_k - x_k|^2}{\sum_k |x_k|^2} ,

1 for the truth itself and 0 for an image without any detail.

    python -m benchmarks.pairs --out benchmarks/results/pairs.json --docs docs
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import galsim
import numpy as np
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import NDData, StdDevUncertainty
from astropy.wcs import WCS

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset
from astro_ddprism.evaluate.metrics import psnr
from astro_ddprism.frame import SourceFrame
from astro_ddprism.psf import GaussianPSF, MoffatPSF

from ..record import write_record

FULL = {
    "frame": {"scale": 0.06, "n": 32, "fwhm": 2.0},  # arcsec, pixels, pixels
    # Scale and FWHM in arcsec; noise of a pixel in HST's counts/s.
    "fine": {"scale": 0.06, "n": 32, "fwhm": 0.12, "noise": 0.005},
    "coarse": {"scale": 0.168, "n": 12, "fwhm": 0.7, "noise": 0.01},
    # The catalog ends at magnitude 22.5; what is two magnitudes fainter is smaller, too.
    "dimming": 2.0,
    "shrinking": 0.45,
    "half_light_radius": [0.1, 0.5],  # arcsec, of those that are taken
    "n_observations": 900,
    "share_fine": 1 / 3,
    "n_held_out": 128,
    "n_samples": 8,
    "config": {
        "n_em_iterations": 4,
        "training": {"n_first_images": 50_000, "n_images": 30_000},
        "chains": {"n_steps": 20, "start": 1.0},
    },
    # Of the draws that are judged: more than a fit can afford.
    "solver_iterations": 4,
}
QUICK = FULL | {
    "n_observations": 192,
    "n_held_out": 16,
    "n_samples": 4,
    "config": FULL["config"]
    | {
        "n_em_iterations": 1,
        "training": {"n_first_images": 6_000, "n_images": 3_000},
        "chains": {"n_steps": 12, "start": 1.0},
    },
}


def data_folder() -> Path:
    """Folder of the COSMOS catalog."""
    default = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("ASTRO_DDPRISM_DATA", default)) / "cosmos"


# -- simulation ----------------------------------------------------------------------------------


def catalog_galaxies(folder, setting):
    """The catalog's galaxies of a set, dimmed and shrunk; every fourth is held out.

    Returns
    -------
    dict of str to list of galsim.GSObject
    """
    catalog = galsim.COSMOSCatalog(
        "real_galaxy_catalog_23.5_example.fits", dir=str(folder), exclusion_level="none"
    )
    small, large = setting["half_light_radius"]
    chosen = []
    for i, radius in enumerate(catalog.param_cat["hlr"][:, 0]):
        if small <= setting["shrinking"] * radius <= large:
            galaxy = catalog.makeGalaxy(i, gal_type="parametric")
            flux = galaxy.flux * 10 ** (-0.4 * setting["dimming"])
            chosen.append(galaxy.dilate(setting["shrinking"]).withFlux(flux))
    return {
        "held out": chosen[::4],
        "fit": [galaxy for i, galaxy in enumerate(chosen) if i % 4],
    }


def image_wcs(middle, instrument, rng, *, turned):
    """A WCS that has a position in its middle, but for a part of a pixel; north up, or turned."""
    n, scale = instrument["n"], instrument["scale"] / 3600
    wcs, a = WCS(naxis=2), rng.uniform(0, 2 * np.pi) if turned else 0.0
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [middle.ra.deg, middle.dec.deg]
    wcs.wcs.crpix = (n + 1) / 2 + rng.uniform(-0.5, 0.5, 2)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    wcs.wcs.cd = scale * turn @ np.diag([-1, 1])
    wcs.wcs.set()
    return wcs


def draw(galaxy, place, wcs, n, method="auto"):
    """GalSim's image of n x n pixels of a galaxy (with its PSF) at a place."""
    wcs = galsim.AstropyWCS(wcs=wcs)
    sky = galsim.CelestialCoord(place.ra.rad * galsim.radians, place.dec.rad * galsim.radians)
    image = galsim.Image(n, n, wcs=wcs, dtype=float)
    return galaxy.drawImage(image, center=wcs.toImage(sky), method=method).array


def make_frame(setting):
    """Where the sources live."""
    frame = setting["frame"]
    psf = GaussianPSF(frame["fwhm"] * u.pixel, includes_pixel=True)
    return SourceFrame(frame["scale"] * u.arcsec, (1, frame["n"], frame["n"]), psf=psf)


class Sky:
    """Observations of a number of galaxies, turned, brightened and shifted at random.

    Attributes
    ----------
    truth : ndarray, shape (N, 1, ny, nx)
        The galaxies in their frame.
    images : dict of str to list
        Of each instrument, its image (NDData) of each galaxy; None of those it has not seen.
    coordinates : SkyCoord, shape (N,)
        Middles of the frames.
    """

    def __init__(self, galaxies, number, setting, seed, *, share_fine):
        rng, frame = np.random.default_rng(seed), make_frame(setting)
        turn = rng.uniform(-0.3, 0.3, (2, number)) * u.deg
        middle = SkyCoord(150.1 * u.deg + turn[0], 2.2 * u.deg + turn[1])
        shift = rng.uniform(-1, 1, (2, number)) * setting["frame"]["scale"] * u.arcsec
        place = middle.spherical_offsets_by(*shift)
        psfs = {
            "frame": galsim.Gaussian(fwhm=setting["frame"]["fwhm"] * setting["frame"]["scale"]),
            "fine": galsim.Gaussian(fwhm=setting["fine"]["fwhm"]),
            "coarse": galsim.Moffat(beta=3, fwhm=setting["coarse"]["fwhm"]),
        }
        self.coordinates, truth = middle, []
        self.images = {"fine": [], "coarse": []}
        has_fine = np.arange(number) < round(share_fine * number)
        for i in range(number):
            galaxy = galaxies[rng.integers(len(galaxies))]
            galaxy = galaxy.rotate(rng.uniform(0, 360) * galsim.degrees)
            galaxy = galaxy * 10 ** (0.4 * rng.uniform(-0.5, 0.5))
            seen = {name: galsim.Convolve(galaxy, psf) for name, psf in psfs.items()}
            truth.append(
                draw(seen["frame"], place[i], frame.wcs(middle[i]), frame.shape[-1], "no_pixel")
            )
            for name, images in self.images.items():
                instrument = setting[name]
                if name == "fine" and not has_fine[i]:
                    images.append(None)
                    continue
                wcs = image_wcs(middle[i], instrument, rng, turned=name == "fine")
                pixels = draw(seen[name], place[i], wcs, instrument["n"])
                noise = np.full(pixels.shape, instrument["noise"])
                pixels = pixels + noise * rng.standard_normal(pixels.shape)
                images.append(
                    NDData(pixels[None], wcs=wcs, uncertainty=StdDevUncertainty(noise[None]))
                )
        self.truth = np.stack(truth)[:, None]

    def dataset(self, instruments, setting) -> MultiViewDataset:
        """The views of some of the instruments."""
        psfs = {
            "fine": GaussianPSF(setting["fine"]["fwhm"] * u.arcsec),
            "coarse": MoffatPSF(setting["coarse"]["fwhm"] * u.arcsec, 3),
        }
        return MultiViewDataset.from_fits(
            {"sky": {name: self.images[name] for name in instruments}},
            sources={"sky": ["galaxy"]},
            psf={name: psfs[name] for name in instruments},
            frame=make_frame(setting),
            coordinates={"sky": self.coordinates},
        )


# -- estimates without diffusion -----------------------------------------------------------------


def interpolated(view, setting):
    """The coarse images, interpolated by cubic splines, with their flux per pixel of the frame."""
    from scipy.ndimage import map_coordinates

    n = setting["frame"]["n"]
    y, x = np.mgrid[:n, :n]
    ratio = (setting["frame"]["scale"] / setting["coarse"]["scale"]) ** 2
    return np.stack(
        [
            ratio
            * map_coordinates(
                image[0], wcs.world_to_pixel(frame.pixel_to_world(x, y))[::-1], mode="nearest"
            )[None]
            for image, wcs, frame in zip(view.data, view.wcs, view.source_wcs, strict=True)
        ]
    )


def best_linear(view, truth):
    """Posterior mean under the mean and the covariance of true galaxies of unit flux.

    The unit is the flux at which the mean galaxy fits the image best, known to a fifth.
    """
    unit = (truth / truth.sum(axis=(1, 2, 3), keepdims=True)).reshape(len(truth), -1)
    # All turns by right angles and mirror images are as likely.
    squares = unit.reshape(-1, *truth.shape[-2:])
    turned = [np.rot90(s, k, axes=(1, 2)) for s in (squares, squares[:, :, ::-1]) for k in range(4)]
    unit = np.concatenate(turned).reshape(8 * len(truth), -1)
    mean = unit.mean(axis=0)
    covariance = np.cov(unit.T) + 0.2**2 * np.outer(mean, mean)
    operator, n = view.mixing["galaxy"], len(mean)
    eye = torch.eye(n).view(n, 1, *truth.shape[-2:])
    estimates = []
    for i in range(len(view)):
        A = operator[np.full(n, i)](eye).flatten(1).numpy().T.astype(float)
        y, variance = view.data[i].ravel(), view.variance[i].ravel()
        seen = A @ mean
        f = (seen @ y) / (seen @ seen)
        gain = f**2 * covariance @ A.T
        x = f * mean + gain @ np.linalg.solve(A @ gain + np.diag(variance), y - f * seen)
        estimates.append(x.reshape(truth.shape[1:]))
    return np.stack(estimates)


# -- figures of merit ----------------------------------------------------------------------------


class Modes:
    """The Fourier modes of the frame, in rings, and what the coarse instrument sees of them."""

    def __init__(self, setting, least=0.01):
        n, scale = setting["frame"]["n"], setting["frame"]["scale"]
        k = np.fft.fftfreq(n, scale)
        self.k = np.hypot(k[:, None], k)  # cycles per arcsecond
        self.ring = np.rint(self.k * n * scale).astype(int)
        self.n_rings = n // 2
        coarse = setting["coarse"]
        psf = galsim.Convolve(
            galsim.Moffat(beta=3, fwhm=coarse["fwhm"]), galsim.Pixel(coarse["scale"])
        )
        seen = np.array([abs(psf.kValue(2 * np.pi * one, 0)) for one in self.k.ravel()])
        self.transfer = seen.reshape(self.k.shape)
        self.fine = self.transfer < least
        self.limit = self.k[~self.fine].max()

    def _transform(self, images, truth):
        """Transforms of images, each in units of its true flux."""
        flux = truth.sum(axis=(-3, -2, -1))[:, None, None]
        return np.fft.fft2(images[:, 0] / flux)

    def share_explained(self, estimate, truth):
        """Of the modes finer than the coarse PSF, all galaxies together."""
        x, e = self._transform(truth, truth), self._transform(estimate - truth, truth)
        return float(
            1 - (np.abs(e[:, self.fine]) ** 2).sum() / (np.abs(x[:, self.fine]) ** 2).sum()
        )

    def correlation(self, estimate, truth):
        """Fourier ring correlation with the truth, and the ratio of powers, from ring to ring."""
        x, e = self._transform(truth, truth), self._transform(estimate, truth)

        def rings(values):
            return np.bincount(self.ring.ravel(), values.sum(axis=0).ravel())[: self.n_rings]

        cross, own, true = (rings(v) for v in ((e * x.conj()).real, abs(e) ** 2, abs(x) ** 2))
        return cross / np.sqrt(own * true), own / true


def measure(estimates, truth, modes):
    """The figures of each estimate: a mean, or draws (n, N, 1, ny, nx)."""
    rows, curves = [], {}
    for name, images in estimates.items():
        several = images if images.ndim == 5 else images[None]
        decibels = np.array([psnr(x, truth, axis=(1, 2, 3)) for x in several]).mean(axis=0)
        correlation, power = np.mean([modes.correlation(x, truth) for x in several], axis=0)
        rows.append(
            {
                "estimate": name,
                "psnr": float(decibels.mean()),
                "psnr_error": float(decibels.std() / np.sqrt(len(truth))),
                "psnr_median": float(np.median(decibels)),
                "share_explained": float(
                    np.mean([modes.share_explained(x, truth) for x in several])
                ),
            }
        )
        curves[name] = {"correlation": correlation.tolist(), "power": power.tolist()}
    return rows, curves


# -- the study -----------------------------------------------------------------------------------


def learn(dataset, path, setting):
    """The model of a dataset, from its file where there is one; and the cost of its fit."""
    if path.exists():
        separator = DiffusionSourceSeparator.read(path, device="cpu")
    else:
        checkpoint = path.with_suffix(".checkpoint")
        separator = DiffusionSourceSeparator.from_config(
            {"device": "cpu", "progress": False, **setting["config"]}
        ).fit(dataset, checkpoint=checkpoint, resume=checkpoint.exists())
        separator.write(path)
        checkpoint.unlink()
    history = separator.history_
    return separator, {
        "n_observations": {
            name: int(np.count_nonzero(image.n_valid()))
            for name, image in dataset["sky"].images.items()
        },
        "e_step_s": round(float(history["e_step_time"].sum().value), 1),
        "m_step_s": round(float(history["m_step_time"].sum().value), 1),
        "chi2": history["chi2"].tolist(),
        "left_out": history["n_left_out"].tolist(),
    }


def study(setting, work):
    """Learn both priors, unless ``work`` holds them, and compare what they recover.

    Returns
    -------
    figures : dict
    pictures : dict of str to ndarray
        Truth and estimates of the galaxies that are held out.
    """
    galaxies = catalog_galaxies(data_folder(), setting)
    sky = Sky(galaxies["fit"], setting["n_observations"], setting, 0,
              share_fine=setting["share_fine"])  # fmt: skip
    new = Sky(galaxies["held out"], setting["n_held_out"], setting, 1, share_fine=0)
    view = new.dataset(["coarse"], setting)["sky"]
    estimates, fits = {}, {}
    for name, instruments in {"pairs": ["fine", "coarse"], "coarse alone": ["coarse"]}.items():
        path = work / f"{name.replace(' ', '_')}.asdf"
        separator, fits[name] = learn(sky.dataset(instruments, setting), path, setting)
        separator.set_params(posterior__solver__iterations=setting["solver_iterations"])
        started = time.perf_counter()
        samples = separator.sample(view, n_samples=setting["n_samples"], seed=0)
        fits[name]["sampling_s"] = round(time.perf_counter() - started, 1)
        fits[name]["chi2_held_out"] = float(np.median(samples.chi2))
        estimates[f"{name}, mean"] = samples.mean["galaxy"].value
        estimates[f"{name}, a draw"] = samples.samples["galaxy"].value
    coarse = view.images["coarse"]
    estimates["best linear"] = best_linear(coarse, sky.truth)
    estimates["interpolated"] = interpolated(coarse, setting)
    modes = Modes(setting)
    rows, curves = measure(estimates, new.truth, modes)
    figures = {
        "estimates": rows,
        "gain": rows[0]["psnr"] - rows[2]["psnr"],
        "n_galaxies": {name: len(some) for name, some in galaxies.items()},
        "limit_cycles_per_arcsec": float(modes.limit),
        "share_of_fine_power": float(
            (np.abs(np.fft.fft2(new.truth[:, 0]))[:, modes.fine] ** 2).sum()
            / (np.abs(np.fft.fft2(new.truth[:, 0] - new.truth[:, 0].mean())) ** 2).sum()
        ),
        "fits": fits,
        "curves": curves,
    }
    return figures, {"coarse": coarse.data, "truth": new.truth, **estimates}


def main(argv=None):
    """Run the study."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for the picture")
    parser.add_argument("--work", type=Path, help="folder to keep models in, or to find them")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    setting = QUICK if args.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        figures, pictures = study(setting, args.work or Path(folder))
    write_record(
        args.out,
        study="pairs",
        configuration=setting,
        figures=figures,
        device="cpu",
        started=started,
    )
    if args.docs is not None:
        picture(pictures, figures, args.docs / "_static" / "pairs.png", Modes(setting))


def picture(pictures, figures, path, modes, n=5):
    """Some galaxies, the coarse image, what was recovered of them, and the ring correlations."""
    from matplotlib.colors import AsinhNorm
    from matplotlib.figure import Figure

    columns = {
        "coarse image": pictures["coarse"],
        "best linear": pictures["best linear"],
        "coarse alone, mean": pictures["coarse alone, mean"],
        "pairs, mean": pictures["pairs, mean"],
        "pairs, a draw": pictures["pairs, a draw"][0],
        "truth": pictures["truth"],
    }
    figure = Figure(figsize=(8.2, 7.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(n * 1.1, 2.2))
    axes = above.subplots(n, len(columns))
    for i, line in enumerate(axes):
        top = pictures["truth"][i].max()
        for axis, (title, images) in zip(line, columns.items(), strict=True):
            high = images[i].max() if title == "coarse image" else top
            norm = AsinhNorm(linear_width=high / 10, vmin=-high / 30, vmax=high)
            axis.imshow(images[i, 0], norm=norm, origin="lower", cmap="gray")
            axis.set(xticks=[], yticks=[])
            if i == 0:
                axis.set_title(title, fontsize=8)
    axes = below.subplots(1, 2)
    k = np.arange(modes.n_rings) * modes.k[0, 1]
    for axis, key, title in zip(
        axes, ("correlation", "power"), ("correlation with the truth", "power / that of the truth"),
        strict=True,
    ):  # fmt: skip
        for name, curve in figures["curves"].items():
            axis.plot(k, curve[key], label=name, lw=1.2)
        axis.axvline(modes.limit, color="gray", ls=":")
        axis.set(title=title, xlabel="cycles per arcsecond", ylim=(0, 1.25))
        axis.title.set_fontsize(8)
    axes[0].legend(fontsize=6)
    figure.savefig(path, dpi=80)
