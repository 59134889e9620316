import numpy as np
import pytest
from astropy import units as u

from astro_ddprism.simulate.population import simulate_field


@pytest.fixture(scope="module")
def field():
    return simulate_field((300, 320), seed=3)


def test_image_is_the_objects_and_the_noise(field):
    image = field.image
    assert image.unit == u.uJy
    assert image.shape == (300, 320)
    sigma = image.uncertainty.array
    residual = ((image.data - field.model) / sigma)[~image.mask]
    # 95,000 pixels: the standard deviation is known to 0.2 %.
    assert residual.std() == pytest.approx(1, abs=0.01)
    assert residual.mean() == pytest.approx(0, abs=0.015)
    total = field.render(np.arange(len(field.catalog)))
    np.testing.assert_allclose(total.value, field.model, rtol=0, atol=1e-9)


def test_position_angle_is_from_north_through_east():
    field = simulate_field((200, 200), seed=0, noise=1e-4 * u.uJy)
    table = field.catalog
    flat = (table["kind"] == "galaxy") & (table["axis_ratio"] < 0.4)
    flat &= table["half_light_radius"] > 0.6 * u.arcsec
    rows = np.flatnonzero(flat)[:5]
    assert len(rows) == 5
    for row in rows:
        x0, y0 = int(table["x"][row]) - 60, int(table["y"][row]) - 60
        image = field.render(row, x0, y0, (121, 121)).value
        image[image < 0.02 * image.max()] = 0
        y, x = np.mgrid[:121, :121]
        x, y = x - table["x"][row] + x0, y - table["y"][row] + y0
        angle = 0.5 * np.arctan2(2 * (image * x * y).sum(), (image * (x**2 - y**2)).sum())
        # East is -x: a position angle grows from +y towards -x.
        difference = np.rad2deg(angle) - 90 - table["position_angle"][row].to_value(u.deg)
        assert (difference + 90) % 180 - 90 == pytest.approx(0, abs=2)
