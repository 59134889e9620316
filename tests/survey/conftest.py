import os
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

from astro_ddprism.simulate.population import simulate_field


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
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("ASTRO_DDPRISM_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"shared data are not at {folder} (ASTRO_DDPRISM_DATA names their folder)")
    return folder
