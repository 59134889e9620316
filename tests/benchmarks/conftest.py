import pytest

from benchmarks.manifold_problems import data_folder


@pytest.fixture(scope="session")
def manifolds():
    """Folder of the published manifold problems, or a skip with the reason."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"published problems are not at {folder} (ASTRO_DDPRISM_DATA: parent folder)")
    return folder
