"""Numbers of arguments within their ranges."""

import argparse

import pytest
from astropy import units as u

from astro_ddprism.cli import values


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (values.whole(0), "7", 7),
        (values.number(0, 1), "1", 1.0),
        (values.quantity, "-2.5", -2.5),
        (values.quantity, "2 arcsec", 2 * u.arcsec),
        (values.size, "3 pix", 3 * u.pix),
        (values.angle, "0.2", 0.2 * u.arcsec),
        (values.saturation, "auto", "auto"),
        (values.gain, "EXPTIME", "EXPTIME"),
        (values.weights, "1:0/0:1", [[1, 0], [0, 1]]),
    ],
)
def test_what_is_read(kind, text, value):
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (values.whole(0), ["-1", "1.5", "x", "1e3", str(2**63)]),
        (values.whole(1, 9), ["0", "10"]),
        (values.number(0, 1), ["nan", "inf", "-0.1", "1.1", ""]),
        (values.number(0), ["inf", "-1"]),
        (values.quantity, ["nan", "inf uJy", "1 uJyy", ""]),
        (values.size, ["0", "-1 arcsec", "nan"]),
        (values.angle, ["0", "-1", "1 s", "inf"]),
        (values.saturation, ["nan", "0", "-5", "none"]),
    ],
)
def test_what_is_refused(kind, texts):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=r"found .* expected"):
            kind(text)
