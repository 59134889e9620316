import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from reproject import reproject_exact, reproject_interp

from astro_ddprism.errors import InputError
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import operator_from_state
from astro_ddprism.mixing.interpolation import Interpolation

HERE = SkyCoord(150.1, 2.2, unit="deg")
FRAME = SourceFrame(1 * u.arcsec, (1, 60, 64))
SETTINGS = [(1.0, 17), (0.7, 90), (1.3, -33)]  # scale in arcseconds, position angle in degrees


@pytest.fixture(scope="module")
def source():
    """A few blobs with a FWHM of 3 pixels."""
    y, x = np.mgrid[:60, :64]
    blobs = ((1, 30.2, 33.1), (0.5, 40.0, 25.0), (0.7, 22.7, 36.4))
    return sum(f * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 2 / 1.27**2) for f, a, b in blobs)


def image_wcs(scale, angle):
    shifted = SkyCoord(HERE.ra + 0.3 * u.arcsec, HERE.dec - 0.2 * u.arcsec)
    return SourceFrame(scale * u.arcsec, (1, 28, 30), position_angle=angle * u.deg).wcs(shifted)


def make(scale, angle, **options):
    return Interpolation.from_wcs(
        image_wcs(scale, angle),
        (1, 28, 30),
        frame=FRAME,
        coordinates=HERE,
        dtype=torch.float64,
        **options,
    )


@pytest.mark.parametrize(("scale", "angle"), SETTINGS)
@pytest.mark.parametrize(("order", "name"), [(1, "bilinear"), (3, "bicubic")])
def test_as_reproject(scale, angle, order, name, source):
    """In surface brightness; and as far from reproject_exact as reproject_interp is."""
    wcs = image_wcs(scale, angle)
    ours = make(scale, angle, order=order)(torch.tensor(source)[None, None])[0, 0] / scale**2
    expected, covered = reproject_interp((source, FRAME.wcs(HERE)), wcs, (28, 30), order=name)
    assert covered.all()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7)
    exact, _ = reproject_exact((source, FRAME.wcs(HERE)), wcs, (28, 30))
    assert np.abs(ours.numpy() - exact).max() <= np.abs(expected - exact).max() + 1e-7


@pytest.mark.parametrize("order", [1, 3, 5])
def test_adjoint_and_selection(order, check_adjoint, check_selection):
    wcs = [image_wcs(scale, angle) for scale, angle in [*SETTINGS, (2.0, 5), (3.0, 0)]]
    operator = Interpolation.from_wcs(
        wcs, (1, 28, 30), frame=FRAME, coordinates=HERE, order=order, dtype=torch.float64
    )
    check_adjoint(operator)
    check_selection(operator, atol=1e-10)


def test_state(normal):
    operator = make(0.7, 20, order=3)
    again = operator_from_state(operator.state())
    x = normal(1, *operator.source_shape)
    assert torch.equal(again(x), operator(x))
    single = operator.to(dtype=torch.float32)(x.float())
    torch.testing.assert_close(single.double(), operator(x), rtol=0, atol=1e-4)


def test_bad_arguments():
    with pytest.raises(InputError, match="order: found 2, expected 1, 3 or 5"):
        make(1, 0, order=2)
    with pytest.raises(InputError, match=r"observation_shape: found \(2, 28, 30\), expected 1"):
        Interpolation.from_wcs(image_wcs(1, 0), (2, 28, 30), frame=FRAME, coordinates=HERE)
