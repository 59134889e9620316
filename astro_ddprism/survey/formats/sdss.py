"""SDSS frames: an image in nanomaggies, with the sky and the calibration that were taken off.

A frame holds no noise. That of its sky follows from what it does hold: the calibration :math:`c`
(nanomaggies for a count, HDU 1), the sky :math:`s` in counts (HDU 2), and the gain :math:`g` and
dark variance :math:`d` of the CCD (SDSS data model, "frame"), of the variance :math:`c^2 (s / g +
d)`. The photons of the objects come by ``effective_gain``.
"""

import numpy as np
from scipy.ndimage import map_coordinates

from .fits import Layout, register_layout

__all__ = ["noise_of_sky"]

# By filter, for the camera columns 1 to 6.
GAIN = {
    "u": (1.62, 1.595, 1.59, 1.6, 1.47, 2.17),
    "g": (3.32, 3.855, 3.845, 3.995, 4.05, 4.035),
    "r": (4.71, 4.6, 4.72, 4.76, 4.725, 4.895),
    "i": (5.165, 6.565, 4.86, 4.885, 4.64, 4.76),
    "z": (4.745, 5.155, 4.885, 4.775, 3.48, 4.69),
}
DARK_VARIANCE = {
    "u": (9.61, 12.6025, 8.7025, 12.6025, 9.3025, 7.0225),
    "g": (15.6025, 1.44, 1.3225, 1.96, 1.1025, 1.8225),
    "r": (1.8225, 1.0, 1.3225, 1.3225, 0.81, 0.9025),
    "i": (7.84, 5.76, 4.6225, 6.25, 7.84, 5.0625),
    "z": (0.81, 1.0, 1.0, 9.61, 1.8225, 1.21),
}
# What changed later: filter, column, run after which, value.
NEW_GAINS = (("u", 2, 1100, 1.825),)
NEW_DARKS = (
    ("i", 2, 1500, 6.25),
    ("i", 4, 1500, 7.5625),
    ("z", 4, 1500, 12.6025),
    ("z", 5, 1500, 2.1025),
)


def noise_of_sky(raw, hdus):
    """The variance of the sky of a frame.

    Parameters
    ----------
    raw : `~astro_ddprism.survey.formats.RawImage`
        The image.
    hdus : `~astropy.io.fits.HDUList`
        The file.

    Returns
    -------
    variance : (ny, nx) `~numpy.ndarray`, or None
        `None` where the file does not hold the sky.
    text : str
    """
    names = {"ALLSKY", "XINTERP", "YINTERP"}
    keys = raw.header.get("FILTER"), raw.header.get("CAMCOL"), raw.header.get("RUN")
    tables = [h for h in hdus[1:3] if getattr(h, "columns", None) is not None]
    if not tables or not names <= {n.upper() for n in tables[0].columns.names} or None in keys:
        return None, "none: the file holds no sky to compute it from"
    band, column, run = str(keys[0]).strip(), int(keys[1]), int(keys[2])
    gain, dark = GAIN[band][column - 1], DARK_VARIANCE[band][column - 1]
    gain = next((v for b, c, r, v in NEW_GAINS if (b, c) == (band, column) and run > r), gain)
    dark = next((v for b, c, r, v in NEW_DARKS if (b, c) == (band, column) and run > r), dark)
    row = tables[0].data[0]
    where = np.meshgrid(row["YINTERP"], row["XINTERP"], indexing="ij")
    sky = map_coordinates(np.asarray(row["ALLSKY"], dtype=float), where, order=1, mode="nearest")
    variance = (sky / gain + dark) * np.asarray(hdus[1].data, dtype=float) ** 2
    return variance, f"of the sky, from HDU 1 and 2, gain {gain}, dark variance {dark}"


register_layout(
    Layout(
        "sdss",
        lambda _names, header: "SDSS" in str(header.get("ORIGIN", "")) and "CAMCOL" in header,
        unit="nanomaggy",
        noise=noise_of_sky,
    )
)
