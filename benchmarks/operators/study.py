"""How right PSF, pixels and WCS of an image are, against GalSim, and what they cost.

Accuracy: Sérsic galaxies are drawn by GalSim in a source's frame, pushed through the operator, and
compared with what GalSim draws through the image's PSF and WCS itself: the largest error as a part
of the peak, the errors of the flux and of the second moments (as a part of their mean). Galaxies
end inside the frame, so that no light is missing. GalSim takes one Jacobian for all of an image;
the SIP distortions here, two hundredths of a pixel in the corners, are such that this matters less
than what is tested.

Cost: forward and adjoint for a batch of observations with a WCS and a PSF each, over one forward
pass and one vector-Jacobian product of the default U-Net on the same batch. The timings take turns,
so that a busy machine slows both alike.

    python -m benchmarks.operators --out benchmarks/results/operators.json
"""

import itertools
import statistics
import time

import galsim
import numpy as np
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, Sip
from azula.noise import VESchedule

from astro_ddprism.diffusion.networks import UNet
from astro_ddprism.diffusion.priors.denoiser import SourceDenoiser
from astro_ddprism.diffusion.random import seeded
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import Resampling
from astro_ddprism.psf import GaussianPSF, ImagePSF, MoffatPSF

from ..overhead.study import seconds
from ..record import run_study

FULL = {
    # Scales of frame and image and FWHM of the image's Moffat PSF (beta 3), in arcseconds; sides of
    # frame and image in pixels.
    "images": [
        {"scales": [0.03, 0.168], "sides": [200, 22], "psf": 0.7},
        {"scales": [0.05, 0.2], "sides": [128, 20], "psf": 0.7},
        {"scales": [0.03, 0.05], "sides": [128, 50], "psf": 0.12},
        {"scales": [0.05, 0.05], "sides": [96, 60], "psf": 0.18},
    ],
    "n_sersic": [1, 4],
    "frame_fwhm": [2.0, 2.5, 3.0],  # pixels
    "angle": [0, 17, 90],
    "flip": [False, True],
    "sip": [0.0, 0.02],  # pixels in the corners
    "shift": [[0.0, 0.0], [0.37, -0.24]],  # pixels
    "batch_size": 256,
    "size": 64,
    "psf_size": 41,
    "repeats": 5,
}
QUICK = FULL | {
    "images": FULL["images"][:2],
    "frame_fwhm": [2.5],
    "angle": [17],
    "shift": [[0.37, -0.24]],
    "batch_size": 32,
    "repeats": 3,
}

ERRORS = ("peak_error", "flux_error", "moments_error", "adjoint_error")
HERE = SkyCoord(150.1, 2.2, unit="deg")
PRECISE = galsim.GSParams(
    folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=16384
)


def make_frame(scale, n, fwhm=2.5):
    """A frame of n x n pixels with a Gaussian PSF."""
    psf = GaussianPSF(fwhm * u.pixel, includes_pixel=True)
    return SourceFrame(scale * u.arcsec, (1, n, n), psf=psf)


def make_wcs(scale, n, *, angle, flip, sip, shift):
    """An image of n x n pixels around HERE."""
    wcs, a = WCS(naxis=2), np.deg2rad(angle)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [HERE.ra.deg, HERE.dec.deg]
    wcs.wcs.crpix = [(n + 1) / 2 + shift[0], (n + 1) / 2 + shift[1]]
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    wcs.wcs.cd = scale / 3600 * turn @ np.diag([1 if flip else -1, 1])
    if sip:
        coefficients = np.zeros((2, 4, 4))
        coefficients[0, [2, 1], [0, 1]] = np.array([4, -3]) * sip / n**2
        coefficients[1, [0, 1], [2, 1]] = np.array([-4, 2]) * sip / n**2
        coefficients[:, [0, 3], [3, 0]] = 2 * sip / n**3
        wcs.sip = Sip(*coefficients, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def draw(profile, wcs, n, method):
    """GalSim's image of a galaxy a little off the middle."""
    wcs = galsim.AstropyWCS(wcs=wcs)
    sky = galsim.CelestialCoord(
        HERE.ra.rad * galsim.radians + 0.013 * galsim.arcsec,
        HERE.dec.rad * galsim.radians - 0.007 * galsim.arcsec,
    )
    image = galsim.Image(n, n, wcs=wcs, dtype=float)
    return profile.drawImage(image, center=wcs.toImage(sky), method=method).array


def moments(image):
    """Flux, and second moments xx, yy and xy."""
    y, x = np.indices(image.shape)
    flux = image.sum()
    x, y = x - (image * x).sum() / flux, y - (image * y).sum() / flux
    return flux, np.array([(image * a).sum() for a in (x * x, y * y, x * y)]) / flux


def compare(operator, source, expected) -> dict:
    """Errors of one image, and of the adjoint."""
    found = operator(source)
    y = torch.randn(found.shape, dtype=found.dtype, generator=torch.manual_seed(0))
    left, right = (found * y).sum(), (source * operator.adjoint(y)).sum()
    adjoint = (left - right).abs() / (found.norm() * y.norm())
    found = found[0, 0].numpy()
    (flux, second), (true_flux, true_second) = moments(found), moments(expected)
    return {
        "peak_error": np.abs(found - expected).max() / expected.max(),
        "flux_error": abs(flux / true_flux - 1),
        "moments_error": np.abs(second - true_second).max() / true_second[:2].mean(),
        "adjoint_error": adjoint.item(),
    }


def accuracy(configuration) -> list[dict]:
    """Largest errors over all rotations, flips and shifts, for every other setting."""
    rows = []
    settings = (configuration[key] for key in ("images", "n_sersic", "frame_fwhm"))
    for image, n_sersic, fwhm in itertools.product(*settings):
        (scale, image_scale), (n, m) = image["scales"], image["sides"]
        frame, psf = make_frame(scale, n, fwhm), MoffatPSF(image["psf"] * u.arcsec, 3)
        inside = 0.75 * scale * (n / 2 - 8)
        galaxy = galsim.Sersic(n_sersic, half_light_radius=0.3, trunc=inside, gsparams=PRECISE)
        galaxy = galaxy.shear(g1=0.2, g2=0.1)
        narrow = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=fwhm * scale), gsparams=PRECISE)
        wide = galsim.Convolve(galaxy, galsim.Moffat(3, fwhm=image["psf"]), gsparams=PRECISE)
        source = torch.tensor(draw(narrow, frame.wcs(HERE), n, "no_pixel"))[None, None]
        for sip in configuration["sip"]:
            errors = []
            pixels = (configuration[key] for key in ("angle", "flip", "shift"))
            for angle, flip, shift in itertools.product(*pixels):
                wcs = make_wcs(image_scale, m, angle=angle, flip=flip, sip=sip, shift=shift)
                operator = Resampling.from_wcs(
                    wcs,
                    (1, m, m),
                    frame=frame,
                    coordinates=HERE,
                    psf=psf,
                    dtype=torch.float64,
                )
                errors.append(compare(operator, source, draw(wide, wcs, m, "auto")))
            largest = {key: max(error[key] for error in errors) for key in ERRORS}
            rows.append(image | {"n_sersic": n_sersic, "frame_fwhm": fwhm, "sip": sip} | largest)
            print(
                f"{scale} -> {image_scale}  n = {n_sersic}  frame's FWHM {fwhm}  SIP {sip}  "
                + "  ".join(f"{key} {value:.1e}" for key, value in largest.items()),
                flush=True,
            )
    return rows


def cost(configuration, device) -> dict:
    """Forward and adjoint, over forward pass and vector-Jacobian product of the U-Net."""
    n, batch = configuration["size"], configuration["batch_size"]
    rng, frame, half = np.random.default_rng(0), make_frame(0.05, n), configuration["psf_size"] // 2
    coordinates = SkyCoord(
        HERE.ra + rng.uniform(-300, 300, batch) * u.arcsec,
        HERE.dec + rng.uniform(-300, 300, batch) * u.arcsec,
    )
    wcs = [
        SourceFrame(scale * u.arcsec, (1, n, n), position_angle=angle * u.deg).wcs(coordinate)
        for scale, angle, coordinate in zip(
            rng.uniform(0.04, 0.06, batch), rng.uniform(0, 360, batch), coordinates, strict=True
        )
    ]
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    stars = [np.exp(-(x**2 + y**2) / 2 / width**2) for width in rng.uniform(1.3, 1.8, batch)]
    psfs = [ImagePSF(star / star.sum(), oversampling=1) for star in stars]
    started = time.perf_counter()
    whole = Resampling.from_wcs(wcs, (1, n, n), frame=frame, coordinates=coordinates, psf=psfs)
    construction = time.perf_counter() - started
    operator = whole[:].to(device)
    with seeded(0, device=device):
        network = UNet().build((1, n, n), SourceDenoiser.n_features)
        denoiser = SourceDenoiser(network, VESchedule(0.1, 100.0), 5.0)
        denoiser = denoiser.to(device).requires_grad_(False)
        source = 10 * torch.randn(batch, 1, n, n, device=device)
    t = torch.tensor(0.6, device=device)

    def through_operator():
        return operator.adjoint(operator(source))

    def through_network():
        x = source.detach().requires_grad_()
        mean = denoiser(x, t).mean
        return torch.autograd.grad(mean, x, mean.detach())

    tasks = (through_operator, through_network)
    first, _ = (seconds(task, device) for task in tasks)
    times = [[seconds(task, device) for task in tasks] for _ in range(configuration["repeats"])]
    medians, minima = ([f(t) for t in zip(*times, strict=True)] for f in (statistics.median, min))
    tensors = (whole.coefficients, whole.transfer, whole.kernel)
    print(f"ratio {medians[0] / medians[1]:.3f}, of minima {minima[0] / minima[1]:.3f}")
    return {
        "operator_s": medians[0],
        "network_s": medians[1],
        "ratio": medians[0] / medians[1],
        "ratio_of_minima": minima[0] / minima[1],
        "first_call_s": first,
        "construction_s_per_observation": construction / batch,
        "bytes_per_observation": sum(x.numel() * x.element_size() for x in tensors) / batch,
    }


def run(configuration, device) -> dict:
    """Both, and the largest errors."""
    rows = accuracy(configuration)
    return {
        "largest": {key: max(row[key] for row in rows) for key in ERRORS},
        "cost": cost(configuration, device),
        "rows": rows,
    }


def main(arguments=None):
    """Run the study from the command line."""
    run_study("operators", __doc__.partition("\n")[0], run, FULL, QUICK, arguments)
