import numpy as np
import pytest
from astropy import units as u

from astro_ddprism.errors import InputError
from astro_ddprism.survey import (
    detect_galaxies,
    read_image,
    select_galaxies,
)


def match(found, truth, radius=3):
    """Index of the brightest true object within some pixels of each found one; -1 without."""
    distance = np.hypot(
        np.asarray(found["x"])[:, None] - np.asarray(truth["x"]),
        np.asarray(found["y"])[:, None] - np.asarray(truth["y"]),
    )
    flux = np.where(distance < radius, truth["flux"].value, -1)
    return np.where(flux.max(axis=1) > 0, flux.argmax(axis=1), -1)


def test_stars_are_rejected_and_galaxies_kept(objects, field):
    assert objects.meta["stellar_radius"] is not None
    clear = objects[(objects["snr"] > 40) & ~objects["masked"] & ~objects["edge"]]
    kind = field.catalog["kind"][match(clear, field.catalog)]
    stars, galaxies = clear[kind == "star"], clear[kind == "galaxy"]
    assert len(stars) >= 8
    assert len(galaxies) >= 20
    assert stars["star"].mean() > 0.9
    assert galaxies["star"].mean() < 0.2


def test_flux_range_and_units(objects):
    low, high = np.percentile(objects["flux"].value, [40, 90])
    for unit, factor in ((u.uJy, 1), (u.nJy, 1e3)):
        some = select_galaxies(
            objects, min_snr=0, min_flux=low * factor * unit, max_flux=high * factor * unit
        )
        assert some["flux"].value.min() >= low
        assert some["flux"].value.max() <= high
    assert len(select_galaxies(objects, min_snr=0, min_flux=low)) > len(some)
    with pytest.raises(InputError, match=r"min_flux: found 1.0 m"):
        select_galaxies(objects, min_flux=1 * u.m)


def test_a_field_with_no_galaxy(ccd):
    with pytest.raises(InputError, match=r"found no (object|galaxy).*expected"):
        detect_galaxies(read_image(ccd))
    with pytest.raises(InputError, match=r"found no object 50 times"):
        detect_galaxies(read_image(ccd), threshold=50)


def test_options_have_names(ccd):
    with pytest.raises(InputError, match=r"found the options treshold, expected box_size"):
        detect_galaxies(read_image(ccd), treshold=1)
