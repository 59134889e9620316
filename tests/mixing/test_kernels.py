import numpy as np
import pytest
from astropy import units as u

from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing.kernels import matching_kernels
from astro_ddprism.psf import GaussianPSF, PointPSF

FRAME = SourceFrame(
    0.1 * u.arcsec, (1, 30, 30), psf=GaussianPSF(2.5 * u.pixel, includes_pixel=True)
)


def in_pixels(transfer, period):
    """The kernel on the frame's pixels, its middle at the first."""
    half = np.zeros((period[0], period[1] // 2 + 1), dtype=complex)
    rows = transfer.shape[0] // 2
    half[: rows + 1, : transfer.shape[1]] = transfer[: rows + 1]
    half[-rows:, : transfer.shape[1]] = transfer[rows + 1 :]
    return np.fft.irfft2(half, s=period)


def test_gaussians_differ_by_a_gaussian():
    """Widths add in squares: 0.25 arcsec in the frame and 0.56 in the kernel make 0.613."""
    period = (60, 63)
    psf = GaussianPSF(np.hypot(0.25, 0.56) * u.arcsec, includes_pixel=True)
    transfer, index = matching_kernels([psf], np.eye(2)[None], FRAME, period)
    assert index.tolist() == [0]
    y, x = (np.fft.fftfreq(size, 1 / size) for size in period)
    sigma = 5.6 / np.sqrt(8 * np.log(2))
    expected = np.exp(-(x**2 + y[:, None] ** 2) / 2 / sigma**2) / (2 * np.pi * sigma**2)
    found = in_pixels(transfer[0, 0], period)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.max())
    # 1e-6 of the peak is left where the sum ends.
    assert transfer.shape[2] // 2 == 21


def test_own_psf_needs_no_kernel():
    transfer, _ = matching_kernels([FRAME.psf], np.eye(2)[None], FRAME, (60, 60))
    assert transfer[0, 0, 0, 0] == pytest.approx(1, abs=1e-15)
    np.testing.assert_allclose(transfer[0, 0, :9, :9], 1, atol=1e-4)


def test_rotated_pixel():
    """A pixel turned by 45 degrees and twice as large, without any other blurring."""
    frame = SourceFrame(0.1 * u.arcsec, (1, 30, 30))
    axes = np.sqrt(2) * np.array([[[1.0, -1.0], [1.0, 1.0]]])
    transfer, _ = matching_kernels([PointPSF()], axes, frame, (80, 80))
    k = 2 * np.pi * np.fft.fftfreq(80)
    along, across = (np.sqrt(2) * (k[:40] + sign * k[:, None]) for sign in (1, -1))
    expected = np.sinc(along / 2 / np.pi) * np.sinc(across / 2 / np.pi)
    np.testing.assert_allclose(transfer[0, 0, :39], expected[:39], atol=1e-12)


def test_narrower_than_the_frame():
    axes = np.stack([np.eye(2), np.eye(2)])
    wide, narrow = (GaussianPSF(w * u.arcsec, includes_pixel=True) for w in (0.3, 0.1))
    with pytest.raises(InputError, match=r"observation 1: its PSF is .* amplified [\d.]+ times"):
        matching_kernels([wide, narrow], axes, FRAME, (60, 60))
