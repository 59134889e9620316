"""Limits of noise schedules."""

import pytest
import torch

from astro_ddprism.diffusion.priors.schedule import NoiseSchedule
from astro_ddprism.errors import InputError


def test_the_top_outweighs_the_source():
    noise = NoiseSchedule(0.2, 50.0)
    assert noise.top(3.0) == 50
    assert noise.top(40.0) == 400
    schedule = noise.build(400.0)
    alpha, sigma = schedule(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(sigma, torch.tensor([0.2, 80**0.5, 400.0], dtype=torch.float64))
    assert (alpha == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 0}, "NoiseSchedule.sigma_min: found 0.0, expected a number above 0"),
        ({"sigma_max": -1}, "NoiseSchedule.sigma_max: found -1.0, expected a number above 0"),
        ({"sigma_max": float("inf")}, "sigma_max: found inf, expected a finite number"),
        ({"sigma_min": "small"}, "sigma_min: found 'small', expected a number"),
        (
            {"sigma_min": 2, "sigma_max": 2},
            "found sigma_min 2 and sigma_max 2, expected sigma_min <",
        ),
        ({"sigma_min": 200}, "found sigma_min 200 and sigma_max 100, expected sigma_min <"),
    ],
)
def test_limits(options, message):
    with pytest.raises(InputError, match=message):
        NoiseSchedule(**options)
