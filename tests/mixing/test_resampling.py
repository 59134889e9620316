import galsim
import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, Sip
from reproject import reproject_exact, reproject_interp

from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import Convolution, operator_from_state
from astro_ddprism.mixing.resampling import Resampling
from astro_ddprism.psf import BandPSFs, GaussianPSF, ImagePSF, MoffatPSF

HERE = SkyCoord(150.1, 2.2, unit="deg")
ACCURATE = galsim.GSParams(
    folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=16384
)


def image_wcs(scale, n, *, angle=0, flip=False, shift=(0.3, -0.2), sip=0.0):
    """An image of n x n pixels around HERE; sip: pixels of distortion at its corners, about."""
    wcs, a = WCS(naxis=2), np.deg2rad(angle)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [HERE.ra.deg, HERE.dec.deg]
    wcs.wcs.crpix = [(n + 1) / 2 + shift[0], (n + 1) / 2 + shift[1]]
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    wcs.wcs.cd = scale / 3600 * turn @ np.diag([1 if flip else -1, 1])
    if sip:
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[1, 1], a[0, 3] = sip * 4 / n**2, -sip * 3 / n**2, sip * 2 / n**3
        b[0, 2], b[1, 1], b[3, 0] = -sip * 4 / n**2, sip * 2 / n**2, sip * 3 / n**3
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def source_frame(scale, n, fwhm=2.5, n_bands=1):
    psf = GaussianPSF(fwhm * u.pixel, includes_pixel=True)
    return SourceFrame(scale * u.arcsec, (n_bands, n, n), psf=psf)


def resample(image, wcs, n, frame, psf):
    operator = Resampling.from_wcs(
        wcs, (1, n, n), frame=frame, coordinates=HERE, psf=psf, dtype=torch.float64
    )
    return operator(torch.tensor(image)[None, None])[0, 0].numpy()


# Against GalSim


def draw(profile, wcs, n, position, method):
    wcs = galsim.AstropyWCS(wcs=wcs)
    sky = galsim.CelestialCoord(*(a.rad * galsim.radians for a in (position.ra, position.dec)))
    image = galsim.Image(n, n, wcs=wcs, dtype=float)
    return profile.drawImage(image, center=wcs.toImage(sky), method=method).array


def moments(image):
    y, x = np.indices(image.shape)
    flux = image.sum()
    x, y = x - (image * x).sum() / flux, y - (image * y).sum() / flux
    return flux, np.array([(image * a).sum() for a in (x * x, y * y, x * y)]) / flux


@pytest.mark.parametrize("n_sersic", [1, 4])
@pytest.mark.parametrize(
    ("frame", "image", "psf", "options"),
    [
        ((0.03, 200, 2.0), (0.168, 22), (0.7, 3), {"angle": 17}),
        ((0.05, 128, 2.5), (0.2, 20), (0.8, 4), {"angle": 17, "flip": True}),
        ((0.05, 128, 3.0), (0.2, 20), (0.7, 2.5), {"angle": 90, "sip": 0.02}),
        ((0.03, 128, 2.5), (0.05, 40), (0.12, 3), {"shift": (0.45, 0.1), "sip": 0.02}),
    ],
)
def test_galaxies_as_galsim_draws_them(n_sersic, frame, image, psf, options):
    """Peak, flux and moments, to a few times better than a survey needs."""
    (scale, n, fwhm), (image_scale, m), (width, beta) = frame, image, psf
    inside = 0.75 * scale * (n / 2 - 8)  # of the frame, once sheared
    galaxy = galsim.Sersic(n_sersic, half_light_radius=0.3, trunc=inside, gsparams=ACCURATE)
    galaxy = galaxy.shear(g1=0.2, g2=0.1)
    position = SkyCoord(HERE.ra + 0.013 * u.arcsec, HERE.dec - 0.007 * u.arcsec)
    frame, wcs = source_frame(scale, n, fwhm), image_wcs(image_scale, m, **options)
    narrow = galsim.Convolve(galaxy, galsim.Gaussian(fwhm=fwhm * scale), gsparams=ACCURATE)
    wide = galsim.Convolve(galaxy, galsim.Moffat(beta, fwhm=width), gsparams=ACCURATE)
    source = draw(narrow, frame.wcs(HERE), n, position, "no_pixel")
    expected = draw(wide, wcs, m, position, "auto")

    found = resample(source, wcs, m, frame, MoffatPSF(width * u.arcsec, beta))
    # GalSim takes one Jacobian for all of a distorted image.
    leave = 5 if "sip" in options else 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 * leave * expected.max())
    flux, second = moments(found)
    expected_flux, expected_second = moments(expected)
    assert flux == pytest.approx(expected_flux, rel=2e-5 * leave)
    size = expected_second[:2].mean()
    np.testing.assert_allclose(second, expected_second, rtol=0, atol=1e-4 * leave * size)


# Against what is known in closed form


def gaussian(x, y, sigma):
    return np.exp(-(x**2 + y**2) / 2 / sigma**2) / (2 * np.pi * sigma**2)


def star(frame, position, flux=1.0):
    """A point source in a frame with a Gaussian PSF: its profile at the middle of each pixel."""
    y, x = np.mgrid[: frame.shape[1], : frame.shape[2]]
    x0, y0 = frame.wcs(HERE).world_to_pixel(position)
    sigma = frame.psf.fwhm.value / np.sqrt(8 * np.log(2))
    return flux * gaussian(x - x0, y - y0, sigma)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"angle": 17, "shift": (0.5, 0.5)},
        {"angle": 90, "flip": True},
        {"angle": -33, "sip": 0.02, "shift": (-1.3, 2.2)},
    ],
)
@pytest.mark.parametrize("scale", [0.03, 0.168])
def test_point_source_lands_where_its_wcs_says(scale, options):
    """To a thousandth of a pixel, a tenth of what is asked for, at several places."""
    n = round(5.4 / scale / 2) + 1
    frame, wcs = source_frame(0.03, 160), image_wcs(scale, n, **options)
    for east, north in ((0, 0), (0.113, -0.204), (-0.3, 0.25)):
        position = SkyCoord(
            HERE.ra + east * u.arcsec / np.cos(HERE.dec), HERE.dec + north * u.arcsec
        )
        image = resample(star(frame, position), wcs, n, frame, GaussianPSF(0.3 * u.arcsec))
        y, x = np.indices(image.shape)
        found = (image * x).sum() / image.sum(), (image * y).sum() / image.sum()
        np.testing.assert_allclose(found, wcs.world_to_pixel(position), atol=1e-3)
        assert image.sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_distorted_pixels_are_integrated_over(flip):
    """Strong SIP distortions, by brute force: 15 x 15 points in each distorted pixel."""
    frame, n = source_frame(0.05, 96), 24
    wcs, width = image_wcs(0.15, n, angle=17, flip=flip, sip=0.5), 0.45
    stars = [(0, 0, 1.0), (0.6, 0.4, 0.5), (-0.5, 0.6, 0.7), (0.3, -0.8, 0.4)]
    places = [
        SkyCoord(HERE.ra + a * u.arcsec / np.cos(HERE.dec), HERE.dec + b * u.arcsec)
        for a, b, _ in stars
    ]
    source = sum(star(frame, place, flux) for place, (*_, flux) in zip(places, stars, strict=True))
    found = resample(source, wcs, n, frame, GaussianPSF(width * u.arcsec))

    k, plane = 15, frame.wcs(HERE)
    fine = (np.arange(n * k) + 0.5) / k - 0.5
    x, y = np.meshgrid(fine, fine)
    # Positions in arcseconds, and the area that each point stands for.
    east, north = (0.05 * np.array(a) for a in plane.world_to_pixel(wcs.pixel_to_world(x, y)))
    jacobian = [np.gradient(a, 1 / k, axis=axis) for a in (east, north) for axis in (0, 1)]
    area = np.abs(jacobian[0] * jacobian[3] - jacobian[1] * jacobian[2]) / k**2
    light = 0
    for place, (*_, flux) in zip(places, stars, strict=True):
        x0, y0 = 0.05 * np.array(plane.world_to_pixel(place))
        light += flux * gaussian(east - x0, north - y0, width / np.sqrt(8 * np.log(2))) * area
    expected = light.reshape(n, k, n, k).sum(axis=(1, 3))
    # The shape of a pixel, though not its place and its area, is that in the image's middle.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * expected.max())
    assert found.sum() == pytest.approx(expected.sum(), rel=2e-4)


def test_same_pixels_and_no_psf_of_the_frame_is_a_convolution(normal):
    """On one grid, deconvolved sources are seen as `Convolution` has it."""
    frame = SourceFrame(0.2 * u.arcsec, (2, 20, 23))
    psf = np.outer(*[np.exp(-(np.arange(-6, 7) ** 2) / 2 / s**2) for s in (1.4, 1.6)])
    cube = np.stack([psf, psf.T]) / psf.sum()
    operator = Resampling.from_wcs(
        frame.wcs(HERE),
        frame.shape,
        frame=frame,
        coordinates=HERE,
        psf=ImagePSF(cube, oversampling=1),
        dtype=torch.float64,
    )
    x = normal(1, 2, 20, 23)
    expected = Convolution(cube, (2, 20, 23), dtype=torch.float64)(x)
    torch.testing.assert_close(operator(x), expected, rtol=0, atol=1e-4 * expected.max().item())


def test_light_outside_the_frame_is_none():
    """An image much larger than the frame is dark far from it, and nothing wraps around."""
    frame = source_frame(0.05, 24)
    image = resample(np.ones((24, 24)), image_wcs(0.1, 80), 80, frame, GaussianPSF(0.3 * u.arcsec))
    y, x = np.indices(image.shape)
    far = np.maximum(np.abs(x - 39.8), np.abs(y - 39.3)) > 16
    assert np.abs(image[far]).max() < 1e-4 * image.max()
    assert image.sum() == pytest.approx(24**2, rel=1e-3)


def test_nearer_to_reproject_exact_than_points_are():
    """Pixels twice as large as the source's have to be integrated over."""
    frame = SourceFrame(1 * u.arcsec, (1, 64, 64))
    y, x = np.mgrid[:64, :64]
    source = gaussian(x - 31.2, y - 33.1, 1.3) + gaussian(x - 38, y - 26.6, 1.6)
    wcs = image_wcs(2.0, 20, angle=17)
    ours = resample(source, wcs, 20, frame, None) / 4
    exact, points = (
        function((source, frame.wcs(HERE)), wcs, (20, 20))[0]
        for function in (reproject_exact, reproject_interp)
    )
    assert np.abs(ours - exact).max() < np.abs(points - exact).max() / 2


# As an operator


@pytest.fixture(scope="module")
def five():
    """Five observations of two bands with a WCS and a PSF each."""
    rng = np.random.default_rng(1)
    coordinates = SkyCoord(HERE.ra + rng.normal(size=5) * 0.05 * u.arcsec, HERE.dec)
    wcs = [
        image_wcs(0.08, 21, angle=angle, flip=flip, sip=sip, shift=rng.normal(size=2))
        for angle, flip, sip in ((0, 0, 0), (17, 0, 0.5), (90, 1, 0), (200, 0, 0), (-40, 1, 0.2))
    ]
    psfs = [
        BandPSFs([GaussianPSF(width * u.arcsec), MoffatPSF(width * u.arcsec, 4)])
        for width in rng.uniform(0.2, 0.4, 5)
    ]
    frame = SourceFrame(0.05 * u.arcsec, (2, 27, 25), psf=GaussianPSF(2.5 * u.pixel))
    return Resampling.from_wcs(
        wcs, (2, 21, 21), frame=frame, coordinates=coordinates, psf=psfs, dtype=torch.float64
    )


def test_adjoint_and_selection(five, check_adjoint, check_selection):
    assert five.n_observations == len(five.transfer) == 5
    check_adjoint(five)
    check_selection(five, atol=1e-11)


def test_autograd_is_the_adjoint(five, normal):
    x, y = normal(5, 2, 27, 25).requires_grad_(), normal(5, 2, 21, 21).requires_grad_()
    (gradient,) = torch.autograd.grad((five(x) * y.detach()).sum(), x)
    torch.testing.assert_close(gradient, five.adjoint(y), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((five.adjoint(y) * x.detach()).sum(), y)
    torch.testing.assert_close(gradient, five(x), rtol=0, atol=1e-12)


def test_alone_and_together(five, normal):
    """What an observation shows does not depend on its batch."""
    x = normal(5, 2, 27, 25)
    for i in range(5):
        torch.testing.assert_close(five[[i]](x[[i]]), five(x)[[i]], rtol=0, atol=1e-11)
    assert len(five[[1, 1, 3]].transfer) == 2


def test_precision_and_state(five, normal):
    x = normal(5, 2, 27, 25)
    assert torch.equal(operator_from_state(five.state())(x), five(x))
    single = five.to(dtype=torch.float32)
    result = single(x.float())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), five(x), rtol=0, atol=2e-5)
    assert operator_from_state(single.state()).coefficients.dtype == torch.float32


def test_one_kernel_for_images_that_are_alike():
    """Cutouts of one image share a kernel; a PSF of its own makes another."""
    wcs = [image_wcs(0.1, 20, shift=(0.1 * i, 0)) for i in range(6)]
    frame, psf = source_frame(0.05, 32), GaussianPSF(0.4 * u.arcsec)
    options = {"frame": frame, "coordinates": HERE}
    shared = Resampling.from_wcs(wcs, (1, 20, 20), psf=psf, **options)
    assert (len(shared.transfer), shared.kernel.tolist()) == (1, [0] * 6)
    other = GaussianPSF(0.5 * u.arcsec)
    two = Resampling.from_wcs(wcs, (1, 20, 20), psf=[psf, other, psf, psf, psf, other], **options)
    assert (len(two.transfer), two.kernel.tolist()) == (2, [0, 1, 0, 0, 0, 1])


def test_coarse_images_keep_few_wave_numbers():
    frame = source_frame(0.03, 100)
    fine, coarse = (
        Resampling.from_wcs(
            image_wcs(scale, n), (1, n, n), frame=frame, coordinates=HERE, psf=GaussianPSF(fwhm)
        )
        for scale, n, fwhm in ((0.03, 100, 0.1 * u.arcsec), (0.168, 18, 0.7 * u.arcsec))
    )
    assert coarse.transfer[0].numel() < fine.transfer[0].numel() / 10


# What cannot be used


class OffGrid:
    """Something that is no PSF."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (2, 20, 20)}, r"shape: found \(2, 20, 20\), expected .* with 1 bands"),
        ({"shape": (20, 20)}, r"shape: found \(20, 20\), expected \(bands, ny, nx\)"),
        ({"psf": np.ones((3, 3)) / 9}, "psf: found ndarray, which has no scale, expected one of"),
        ({"psf": "psf.fits"}, "psf: found str, which has no scale, expected one of"),
        ({"psf": OffGrid()}, "psf: found OffGrid, which has no scale"),
        ({"psf": [GaussianPSF(1 * u.arcsec)] * 2}, "psf: found 2, expected one for each of 1"),
        (
            {"psf": ImagePSF(np.full((2, 3, 3), 1 / 9), oversampling=1)},
            "psf: found 2 bands, expected 1, as the images",
        ),
        (
            {"psf": GaussianPSF(0.02 * u.arcsec), "names": ["m31.fits"]},
            "observation m31.fits: its PSF is so much sharper than that of the source's frame",
        ),
    ],
)
def test_bad_input(options, message):
    options = {"shape": (1, 20, 20), "frame": source_frame(0.05, 32, fwhm=4)} | options
    with pytest.raises(InputError, match=message):
        Resampling.from_wcs(image_wcs(0.02, 20), coordinates=HERE, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_shape": [3, 27, 25]}, r"source_shape: found \(3, 27, 25\), expected .* 2 bands"),
        ({"period": [20, 60]}, r"period: found \(20, 60\), expected no less than .*\(27, 25\)"),
        ({"transfer": np.zeros((5, 2, 4, 3, 2))}, r"transfer: found shape \(5, 2, 4, 3, 2\)"),
        (
            {"kernel": [0, 1, 2, 3, 5]},
            r"kernel: found \(5,\) numbers from 0 to 5, expected one of 5",
        ),
    ],
)
def test_bad_state(five, changes, message):
    with pytest.raises(InputError, match=message):
        operator_from_state(five.state() | changes)
