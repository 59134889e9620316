import numpy as np
import pytest

from astro_ddprism.survey import (
    detect_galaxies,
    detect_objects,
    read_image,
    stellar_locus,
)


@pytest.fixture(scope="module")
def image(field):
    return read_image(field.image)


@pytest.fixture(scope="module")
def objects(image):
    return detect_objects(image)


def test_the_psf_tells_stars_where_there_are_few(field):
    corner = read_image(field.image[:200, :200])
    objects = detect_objects(corner, psf=field.psf)
    assert objects.meta["stellar_radius"] == pytest.approx(1.5, abs=0.4)


def test_no_locus_no_stars(ccd):
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:64, :64]
    for cx, cy in ((20, 20), (40, 45)):
        ccd.data += 200 * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(4, 9))
    objects = detect_objects(read_image(ccd))
    assert len(objects) == 2
    assert objects.meta["stellar_radius"] is None
    assert not objects["star"].any()
    assert len(detect_galaxies(read_image(ccd), min_snr=5)) == 2


def test_no_locus_in_smooth_distributions():
    rng = np.random.default_rng(0)
    assert stellar_locus(rng.lognormal(1, 0.5, 500)) is None
    assert stellar_locus([1.7] * 3) is None
    assert stellar_locus(rng.normal(1.7, 0.03, 30)) == pytest.approx(1.7, abs=0.03)
    both = [*rng.normal(1.7, 0.03, 30), *rng.normal(2.6, 0.03, 60), *rng.uniform(1.5, 6, 100)]
    assert stellar_locus(both, near=1.6) == pytest.approx(1.7, abs=0.03)
