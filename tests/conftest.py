"""Images of one instrument, simulated and real; galaxies that two instruments see."""

import os
from pathlib import Path

# Workers of pytest-xdist share the cores; PyTorch reads this when it is imported.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

from astro_ddprism import View
from astro_ddprism.frame import SourceFrame
from astro_ddprism.mixing import CorrelatedNoise, instrument_operator
from astro_ddprism.psf import GaussianPSF
from astro_ddprism.simulate.population import simulate_field
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


def make_wcs(shape=(64, 64), ra=150.0, dec=2.0, scale=1e-4):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = ra, dec
    wcs.wcs.crpix = (shape[1] + 1) / 2, (shape[0] + 1) / 2
    wcs.wcs.cdelt = -scale, scale
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


@pytest.fixture
def wcs():
    return make_wcs()


@pytest.fixture
def ccd(wcs):
    """Noise of 2 nJy, nothing else."""
    pixels = np.random.default_rng(0).normal(0, 2, (64, 64)).astype(np.float32)
    return CCDData(
        pixels, unit=u.nJy, wcs=wcs, uncertainty=StdDevUncertainty(np.full((64, 64), 2.0))
    )


@pytest.fixture(scope="session")
def field():
    """A simulated field, whose every object is known; with enough stars for a stellar locus."""
    return simulate_field((640, 640), seed=3, star_density=1 / u.arcmin**2)


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the shared data, or a skip with the reason."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("ASTRO_DDPRISM_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"shared data are not at {folder} (ASTRO_DDPRISM_DATA names their folder)")
    return folder
