import numpy as np
import pytest

from benchmarks.manifolds.problems import data_folder


@pytest.fixture(scope="session")
def manifolds():
    """Folder of the published manifold problems, or a skip with the reason."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"published problems are not at {folder} (ASTRO_DDPRISM_DATA: parent folder)")
    return folder


@pytest.fixture(scope="session")
def cosmos():
    """Folder of GalSim's COSMOS catalog, or a skip with the reason."""
    pytest.importorskip("galsim")
    pytest.importorskip("sep")
    folder = data_folder().parent / "cosmos"
    if not folder.is_dir():
        pytest.skip(f"no galaxies at {folder} (ASTRO_DDPRISM_DATA: parent folder)")
    return folder


@pytest.fixture(scope="session")
def simulated_tile(tmp_path_factory):
    """A simulated field with many stars, in maggies: a FITS file without noise map; and its PSF."""
    from astropy import units as u
    from astropy.io import fits

    from astro_ddprism.simulate.population import simulate_field

    field = simulate_field(
        (420, 420), seed=5, n_bad_columns=0, star_density=3 / u.arcmin**2, saturation=1 * u.mJy
    )
    path = tmp_path_factory.mktemp("tile") / "tile.fits"
    maggies = (field.image.data / 3.631e9).astype(np.float32)
    fits.writeto(path, maggies, field.image.wcs.to_header())
    return path, field


@pytest.fixture(scope="session")
def scene(cosmos, simulated_tile):
    """A few galaxies in two passes over the last rows of a simulated field."""
    from benchmarks.injection.scene import SceneSettings, make_scene

    settings = SceneSettings(n=20, n_per_pass=12, first_row=200, magnitudes=(19.5, 23.5), seed=3)
    return make_scene(simulated_tile[0], cosmos, settings)
