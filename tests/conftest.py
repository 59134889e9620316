"""Galaxies that two instruments see, a fine one only some of them."""

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord

from astro_ddprism import View
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import CorrelatedNoise, instrument_operator
from astro_ddprism.psf import GaussianPSF
from astro_ddprism.views.multi import InstrumentImages, MultiInstrumentView


def make_pairs(n=6, sources=("galaxy",), seed=0, unit="nJy"):
    """Blobs in frames of 16 x 16 pixels of 0.1 arcsec; the fine instrument lacks every third.

    The fine images have 16 x 16 such pixels, the coarse ones two bands of 5 x 5 of 0.3 arcsec, with
    correlated noise. Returns the view and the true sources (n, 2, 16, 16), the same for each.
    """
    rng = np.random.default_rng(seed)
    where = SkyCoord(150 + rng.uniform(size=n), 2 + rng.uniform(size=n), unit="deg")
    psf = GaussianPSF(2.5 * u.pixel, includes_pixel=True)
    frame = SourceFrame(0.1 * u.arcsec, (2, 16, 16), psf=psf)
    fine = SourceFrame(0.1 * u.arcsec, (1, 16, 16), position_angle=20 * u.deg)
    coarse = SourceFrame(0.3 * u.arcsec, (2, 5, 5))
    wcs = {name: [f.wcs(c) for c in where] for name, f in (("fine", fine), ("coarse", coarse))}
    options = {"frame": frame, "coordinates": where}
    A = {
        "fine": instrument_operator(
            wcs["fine"], fine.shape, psf=GaussianPSF(0.3 * u.arcsec), bands=[[0.3, 0.7]], **options
        ),
        "coarse": instrument_operator(
            wcs["coarse"], coarse.shape, psf=GaussianPSF(0.7 * u.arcsec), **options
        ),
    }
    y, x = np.mgrid[:16, :16] - 7.5
    blob = np.exp(-(x**2 + y**2) / 2 / rng.uniform(2, 3, (n, 1, 1, 1)) ** 2)
    truth = rng.uniform(2, 5, (n, 2, 1, 1)) * blob
    light = len(sources) * torch.as_tensor(truth, dtype=torch.float32)
    mask = np.zeros((n, 1, 16, 16), dtype=bool)
    mask[::3] = mask[:, :, 2, 3] = True
    noise = CorrelatedNoise(np.full((n, 2, 5, 5), 0.25), [[0.3, 1, 0.3]])
    white = torch.as_tensor(rng.normal(size=(n, 2, 5, 5)), dtype=torch.float32)
    common = {"coordinates": where, "source_wcs": [frame.wcs(c) for c in where], "unit": unit}
    images = {
        "fine": InstrumentImages(
            A["fine"](light).numpy() + rng.normal(0, 0.1, mask.shape),
            variance=0.01,
            mask=mask,
            mixing=dict.fromkeys(sources, A["fine"]),
            wcs=wcs["fine"],
            **common,
        ),
        "coarse": View(
            (A["coarse"](light) + noise.colour(white)).numpy(),
            noise=noise,
            mixing=dict.fromkeys(sources, A["coarse"]),
            wcs=wcs["coarse"],
            **common,
        ),
    }
    return MultiInstrumentView(images, name="pairs"), truth


@pytest.fixture(scope="session")
def pairs():
    """Function that makes a MultiInstrumentView and its true sources."""
    return make_pairs
