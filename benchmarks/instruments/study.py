r"""One source of five bands behind a real patch of sky that HST and HSC have seen.

HST (one band, 0.03 arcsec a pixel) and HSC (g, r, i, z, y, 0.168 arcsec) disagree in pixels, PSF,
bands and noise. One source in a frame of HST's resolution, seen through the operators that follow
from headers and PSFs, has to explain both. The prior is as simple as can be: a Gaussian field,
stationary and isotropic, with a covariance of the bands at each wave number,

.. math:: x \sim \mathcal N(0, S), \qquad S = F^{-1} C(|k|) F ,

learned from the two images by EM: draw :math:`x` from its posterior, average
:math:`\hat x_k \hat x_k^\dagger` over the wave numbers of a ring, repeat. Draws are exact but for
conjugate gradients: in whitened units, with unit normal deviates :math:`n` and :math:`z`,

.. math:: x = (S^{-1} + A^\top A)^{-1} \left[A^\top (y + n) + S^{-1/2} z\right] .

If operators, noise and prior are right, the residuals of such draws have unit
variance in both images.

What no header tells is measured first, with HST's image for a source that HSC sees: the shift
between the two astrometries, and how much of each of HSC's bands is in HST's. The noise of the sky
is measured in the images. The photon noise of the objects is not in it, so that a second fit takes
one more number for each band, the variance that comes with each unit of flux, from the residuals of
the first.

    python -m benchmarks.instruments --out benchmarks/results/instruments.json
"""

import os
from pathlib import Path

import numpy as np
import torch
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData
from astropy.stats import mad_std
from astropy.wcs import WCS
from azula.linalg.solve import cg
from scipy.ndimage import convolve
from scipy.optimize import nnls

from astro_ddprism import MultiInstrumentView, MultiViewDataset, PosteriorSamples, View
from astro_ddprism.diffusion.observation import JointObservation
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import CorrelatedNoise, Resampling
from astro_ddprism.psf import GaussianPSF, ImagePSF

from ..record import run_pictured_study

FULL = {
    "frame_scale": 0.03,  # arcsec
    "frame_size": 9.6,
    "max_lag": {"hst": 2},  # pixels; HSC is too crowded to measure it
    "n_iterations": 5,
    "cg_iterations": 40,
    "n_samples": 6,
    "bright": 10.0,  # standard deviations of the sky, from which a pixel counts as bright
}
QUICK = FULL | {"frame_scale": 0.04, "n_iterations": 2, "cg_iterations": 20, "n_samples": 2}
BANDS = "grizy"


def data_folder() -> Path:
    """Folder of the two images and their PSFs."""
    default = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("ASTRO_DDPRISM_DATA", default)) / "hst_hsc"


def read_pair(folder):
    """Images of both instruments, without noise yet, and their PSFs centred on the star."""
    images, psfs = {}, {}
    for name in ("hst", "hsc"):
        with fits.open(folder / f"Cut_{name.upper()}1.fits") as hdus:
            pixels = np.atleast_3d(hdus[0].data.T).T.astype(float)
            images[name] = NDData(pixels, wcs=WCS(hdus[0].header).celestial)
        psf = np.atleast_3d(fits.getdata(folder / f"PSF_{name.upper()}.fits").T).T.astype(float)
        centre = np.mean([star_centre(band) for band in psf], axis=0)
        psf = psf / psf.sum(axis=(1, 2), keepdims=True)
        psfs[name] = ImagePSF(psf, oversampling=1, centre=tuple(centre))
    return images, psfs


def star_centre(psf, width=2.0):
    """Centre (x, y) of a star, by a Gaussian window that is moved until it is centred."""
    y, x = np.mgrid[: psf.shape[0], : psf.shape[1]]
    cy, cx = np.unravel_index(psf.argmax(), psf.shape)
    for _ in range(50):
        weight = psf * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / width**2)
        cx = cx + 2 * ((x - cx) * weight).sum() / weight.sum()
        cy = cy + 2 * ((y - cy) * weight).sum() / weight.sum()
    return float(cx), float(cy)


def calibrate(images, psfs, margin=1.0):
    """Align HST with HSC, in place, and weigh HSC's bands in HST's.

    HST's image is taken for a source with HST's PSF in HST's own pixels, and seen as HSC would see
    it: shift and weights are least squares fits to what HSC saw.

    Returns
    -------
    shift : ndarray, shape (2,)
        By which HST's image was moved, in its pixels.
    weights : ndarray, shape (5,)
        Flux in HST's unit for a flux of one in each of HSC's bands.
    """
    hst, hsc = images["hst"], images["hsc"]
    n_bands, ny, nx = hsc.data.shape
    scale = np.sqrt(hst.wcs.proj_plane_pixel_area())
    n = hst.data.shape[-1]
    frame = SourceFrame(scale, (n_bands, n, n), psf=psfs["hst"])
    light = hst.data[0] - np.median(hst.data[0])
    light = torch.as_tensor(np.tile(light, (1, n_bands, 1, 1)), dtype=torch.float32)
    y, x = np.mgrid[:ny, :nx]
    sky = hsc.wcs.pixel_to_world(x, y)
    total = np.zeros(2)
    for _ in range(4):
        middle = hst.wcs.pixel_to_world((n - 1) / 2, (n - 1) / 2).reshape(1)
        operator = Resampling.from_wcs(
            [hsc.wcs], hsc.data.shape, frame=frame, coordinates=middle, psf=psfs["hsc"]
        )
        seen = operator(light)[0].numpy().astype(float)
        edge = margin / scale.to_value(u.arcsec)
        inside = np.logical_and.reduce(
            [(p > edge) & (p < n - 1 - edge) for p in hst.wcs.world_to_pixel(sky)]
        )
        i_band = BANDS.index("i")
        slopes = np.gradient(seen[i_band])[::-1]
        design = [part[inside] for part in (seen[i_band], *slopes)] + [np.ones(inside.sum())]
        fit = np.linalg.lstsq(np.stack(design, axis=1), hsc.data[i_band][inside], rcond=None)[0]
        # Both images have north up and east to the left.
        ratio = np.sqrt(hsc.wcs.proj_plane_pixel_area() / hst.wcs.proj_plane_pixel_area())
        step = -fit[1:3] / fit[0] * float(ratio)
        wcs = hst.wcs.deepcopy()
        wcs.wcs.crpix = wcs.wcs.crpix - step
        hst = NDData(hst.data, wcs=wcs)
        total += step
    images["hst"] = hst
    # Each band through its own PSF: what HST would have to hold for HSC's flux, band by band.
    design = np.stack([band[inside] for band in hsc.data] + [np.ones(inside.sum())], axis=1)
    red = [BANDS.index(band) for band in "izy"]
    weights = np.zeros(n_bands)
    weights[red] = nnls(design[:, [*red, -1]], seen[i_band][inside])[0][:-1]
    return total, weights


class Field:
    """A stationary, isotropic Gaussian field of several bands.

    Parameters
    ----------
    shape : tuple of int
        ``(bands, ny, nx)``.
    covariance : Tensor, shape (rings, bands, bands)
        Covariance of the bands' Fourier modes (orthonormal transforms) in each ring.
    """

    def __init__(self, shape, covariance=None):
        self.shape = shape
        ny, nx = shape[1:]
        k = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)) * max(ny, nx)
        # Rings of one wave number, and logarithmic ones further out.
        edges = np.unique(np.round(np.geomspace(1, max(ny, nx), 40))) - 0.5
        self.ring = torch.as_tensor(np.digitize(k, edges))
        self.k = torch.as_tensor(k)
        self.covariance = covariance

    def average(self, x, y):
        """Mean of the bands' products of two sets of fields (n, bands, ny, nx), ring by ring."""
        x, y = (torch.fft.fft2(field.double(), norm="ortho") for field in (x, y))
        product = torch.einsum("niyx,njyx->yxij", x, y.conj()).real / len(x)
        total = torch.zeros(int(self.ring.max()) + 1, *product.shape[2:], dtype=product.dtype)
        total.index_add_(0, self.ring.flatten(), product.flatten(0, 1))
        number = torch.bincount(self.ring.flatten(), minlength=len(total))
        mean = total / number.clip(min=1)[:, None, None]
        return (mean + mean.mT) / 2

    def filter(self, matrices, x):
        """Multiply all modes of a field (n, bands, ny, nx) by the matrices of their rings."""
        modes = torch.fft.fft2(x, norm="ortho")
        matrices = matrices.to(modes.dtype)[self.ring]
        return torch.fft.ifft2(torch.einsum("yxij,njyx->niyx", matrices, modes), norm="ortho").real


def power(matrices, exponent, floor=1e-9):
    """Powers of symmetric matrices, their eigenvalues no less than a part of the largest."""
    values, vectors = torch.linalg.eigh(matrices)
    values = values.clip(min=floor * values.max()) ** exponent
    return vectors * values[..., None, :] @ vectors.mT


class Posterior:
    """Exact draws of a field, given a whitened observation, by perturbation and optimization.

    A draw minimizes a quadratic form of matrix :math:`S^{-1} + A^T A`. Conjugate gradients are
    preconditioned by its average over each ring.

    Parameters
    ----------
    observation : JointObservation
        One observation.
    field : Field
        The prior; its covariance may change.
    iterations : int
        Of the conjugate gradients.
    """

    def __init__(self, observation, field, iterations):
        self.observation, self.field, self.iterations = observation, field, iterations
        probes = torch.cat([torch.randn(1, *field.shape) for _ in range(4)])
        seen = [self._adjoint(observation.forward(z[None].flatten(1))) for z in probes]
        self.gain = field.average(torch.cat(seen), probes)

    def _adjoint(self, r):
        return self.observation.adjoint(r).view(1, *self.field.shape)

    def draw(self):
        """One draw, of shape (1, bands, ny, nx)."""
        field, observation = self.field, self.observation
        inverse = power(field.covariance, -1)
        root = power(inverse + self.gain, -0.5)

        def matrix(v):
            v = v.view(1, *field.shape)
            seen = observation.forward(field.filter(root, v).flatten(1))
            curvature = field.filter(root @ inverse @ root, v)
            return (curvature + field.filter(root, self._adjoint(seen))).flatten(1)

        y = observation.y + torch.randn_like(observation.y)
        pull = field.filter(root @ power(inverse, 0.5), torch.randn(1, *field.shape))
        goal = (field.filter(root, self._adjoint(y)) + pull).flatten(1)
        v = cg(matrix, goal, iterations=self.iterations)
        return field.filter(root, v.view(1, *field.shape))


def pixel_noise(bands):
    """Noise of each band from second differences, in which an image of wide PSF has nothing else.

    Between the galaxies of so small an image there is no blank sky to measure it in.
    """
    differences = [convolve(band, np.outer([1, -2, 1], [1, -2, 1]) / 6) for band in bands]
    noise = np.array([mad_std(part[2:-2, 2:-2]) for part in differences])
    return np.broadcast_to(noise[:, None, None], bands.shape)


def power_law(view, field):
    """A first guess of a field's covariance, from the pixels of HSC."""
    hsc = view.images["hsc"]
    pixels = torch.as_tensor(hsc.data[0]).flatten(1).double()
    shrink = (hsc.data[0, 0].size / (field.shape[1] * field.shape[2])) ** 2
    power = (1 + (field.k / 10) ** 2) ** -1.5
    ring = field.ring.flatten()
    rings = torch.bincount(ring, power.flatten().double()) / torch.bincount(ring).clip(min=1)
    return torch.cov(pixels) * shrink * (rings / power.mean())[:, None, None]


def study(folder, setting):
    """The pair's dataset, posterior samples and what was measured on the way."""
    images, psfs = read_pair(folder)
    shift, weights = calibrate(images, psfs)
    hsc = images["hsc"]
    ny, nx = hsc.data.shape[1:]
    n = round(setting["frame_size"] / setting["frame_scale"])
    frame = SourceFrame(
        setting["frame_scale"] * u.arcsec,
        (len(BANDS), n, n),
        psf=GaussianPSF(2.5 * u.pixel, includes_pixel=True),
    )
    dataset = MultiViewDataset.from_fits(
        {"pair": {name: [image] for name, image in images.items()}},
        sources={"pair": ["sky"]},
        psf=psfs,
        bands={"hst": [weights]},
        frame=frame,
        coordinates={"pair": hsc.wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).reshape(1)},
        uncertainty={"hsc": pixel_noise(hsc.data)},
        estimate_noise={"hst": True},
        subtract_background=True,
        correlated_noise=setting["max_lag"],
    )
    view = dataset["pair"]
    field = Field(frame.shape)
    field.covariance = power_law(view, field)
    first = fit(view, field, setting)
    view, gains = with_photon_noise(first, setting["bright"])
    measured = {"shift_hst_pixels": shift.tolist(), "weights_hst": weights.tolist()}
    return first, fit(view, field, setting), measured | {"variance_per_flux": gains}


def fit(view, field, setting):
    """Learn a field by EM, from what it is, and draw from its posterior."""
    observation = JointObservation(view.batch(), view.source_shapes)
    posterior = Posterior(observation, field, setting["cg_iterations"])
    for _ in range(setting["n_iterations"]):
        x = posterior.draw()
        field.covariance = field.average(x, x)
    draws = [posterior.draw() for _ in range(setting["n_samples"])]
    return PosteriorSamples({"sky": torch.stack(draws).numpy()}, view)


def with_photon_noise(samples, bright):
    """A view whose noise grows with the flux, as the residuals of the bright pixels tell.

    The photon noise of the objects, which no header tells, and what PSFs get wrong: one number for
    each band, the variance for each unit of flux.
    """
    images, gains = {}, {}
    for name, part in samples.images.items():
        view = part.view
        flux = part.model().value.mean(axis=0)[0]
        excess = (part.residual()[:, 0] ** 2).mean(axis=0) - 1
        is_bright = view.data[0] > bright * np.sqrt(view.variance[0])
        gains[name] = [
            max(float((e * v)[b].sum() / f[b].sum()), 0.0)
            for e, v, f, b in zip(excess, view.variance[0], flux, is_bright, strict=True)
        ]
        # Where there is an object: what else the model has is noise.
        objects = np.where(flux > 3 * np.sqrt(view.variance[0]), flux, 0)
        variance = view.variance + np.array(gains[name])[:, None, None] * objects
        noise = {"variance": variance}
        if view.noise is not None:
            noise = {"noise": CorrelatedNoise(variance, view.noise.autocorrelation.numpy())}
        images[name] = View(
            view.data, **noise, mixing=view.mixing, mask=view.mask, wcs=view.wcs,
            source_wcs=view.source_wcs, coordinates=view.coordinates,
        )  # fmt: skip
    return MultiInstrumentView(images, name="pair"), gains


def residuals(samples, bright):
    """Standardized residuals of each instrument's bands, of faint and of bright pixels."""
    figures = {}
    for name, part in samples.images.items():
        view = part.view
        residual = part.residual()[:, 0]
        sky = np.sqrt(view.variance[0].min(axis=(1, 2), keepdims=True))
        is_bright = (view.data[0] > bright * sky) & ~view.mask[0]
        figures[name] = {
            "whitened_chi2": float(part.chi2.mean()),
            "bands": [
                {
                    "rms": float(np.sqrt(np.nanmean(residual[:, band] ** 2))),
                    "rms_faint": float(np.sqrt(np.nanmean(residual[:, band, ~b] ** 2))),
                    "rms_bright": float(np.sqrt(np.nanmean(residual[:, band, b] ** 2))),
                    "share_bright": float(b.mean()),
                    "median": float(np.nanmedian(residual[:, band])),
                }
                for band, b in enumerate(is_bright)
            ],
        }
    return figures


def main(argv=None):
    """Run the study."""
    run_pictured_study("instruments", __doc__.splitlines()[0], run, draw, FULL, QUICK, argv)


def run(setting):
    """The figures of the study, and its samples."""
    with seeded(0, device=torch.device("cpu")):
        first, samples, measured = study(data_folder(), setting)
    figures = {
        **measured,
        "sky_noise_alone": residuals(first, setting["bright"]),
        "with_photon_noise": residuals(samples, setting["bright"]),
    }
    return figures, samples


def draw(samples, path):
    """The source in colour beside both images, what it says they should be, and residuals."""
    from astropy.visualization import make_lupton_rgb
    from matplotlib.colors import AsinhNorm
    from matplotlib.figure import Figure

    mean = samples.mean["sky"].value[0]
    red, green, blue = (mean[BANDS.index(band)] for band in "zrg")
    hst, hsc = samples.images.values()
    scale = np.percentile(mean[2], 99.5)
    colour = make_lupton_rgb(red, green, blue, stretch=scale / 2, Q=8, minimum=-0.05 * scale)
    figure = Figure(figsize=(8.2, 4.4), layout="constrained", dpi=150)
    axes = figure.subplots(2, 4)
    axes[0, 0].imshow(colour, origin="lower", interpolation="nearest")
    axes[0, 0].set_title("source, z r g", fontsize=9)
    axes[1, 0].imshow(
        make_lupton_rgb(*(hsc.view.data[0, BANDS.index(b)] for b in "zrg"),
                        stretch=np.percentile(hsc.view.data[0, 2], 99.5) / 2, Q=8),
        origin="lower", interpolation="nearest",
    )  # fmt: skip
    axes[1, 0].set_title("HSC, z r g", fontsize=9)
    for line, part, band, title in ((axes[0], hst, 0, "HST F814W"), (axes[1], hsc, 2, "HSC i")):
        data, model = part.view.data[0, band], part.model().value.mean(axis=0)[0, band]
        top = np.percentile(data, 99.7)
        for axis, image, what in ((line[1], data, title), (line[2], model, "model")):
            norm = AsinhNorm(linear_width=top / 10, vmin=-top / 20, vmax=1.2 * top)
            axis.imshow(image, norm=norm, origin="lower", cmap="gray", interpolation="nearest")
            axis.set_title(what, fontsize=9)
        residual = part.residual()[0, 0, band]
        line[3].imshow(residual, origin="lower", cmap="RdBu_r", vmin=-4, vmax=4,
                       interpolation="nearest")  # fmt: skip
        line[3].set_title("residual of a draw, ±4σ", fontsize=9)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80)
