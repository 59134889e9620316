"""Types of arguments: numbers within their ranges, with units, and what may stand for them."""

import argparse
import math

from astropy import units as u

__all__ = ["angle", "gain", "number", "quantity", "saturation", "size", "weights", "whole"]


def whole(least, most=2**63 - 1):
    """The type of whole numbers from ``least`` to ``most``."""

    def read(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            end = f"from {least} on" if most == 2**63 - 1 else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"found {text!r:.99}, expected a whole number {end}")
        return value

    return read


def number(least, most=math.inf):
    """The type of finite numbers from ``least`` to ``most``."""

    def read(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            end = f"from {least:g} to {most:g}" if math.isfinite(most) else f"from {least:g} on"
            raise argparse.ArgumentTypeError(f"found {text!r:.99}, expected a number {end}")
        return value

    return read


def quantity(text):
    """A finite number, or one with a unit."""
    try:
        value = u.Quantity(text)
        if not math.isfinite(value.value):
            raise ValueError(text)
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"found {text!r:.99}, expected a number or 'NUMBER UNIT'"
        ) from None
    return float(value.value) if value.unit == u.one else value


def size(text):
    """A positive number, or one with a unit."""
    value = quantity(text)
    if not u.Quantity(value).value > 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive number")
    return value


def saturation(text):
    """A pixel value, or ``auto``."""
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive number or auto")
    return value


def gain(text):
    """A number, with a unit or without, or else the name of what holds it."""
    try:
        return quantity(text)
    except argparse.ArgumentTypeError:
        return text


def angle(text):
    """A positive angle; a number is one in arcseconds."""
    value = u.Quantity(quantity(text))
    value = value * u.arcsec if value.unit == u.one else value
    if not value.unit.is_equivalent(u.arcsec) or not value.value > 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive angle")
    return value


def weights(text):
    """Rows of numbers, with colons between the numbers and slashes between the rows."""
    try:
        return [[float(one) for one in row.split(":")] for row in text.split("/")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"bands: found {text!r}, expected numbers such as 0.2:0.8, and / between rows"
        ) from None
