"""Cutouts of many images in one file, against those of each."""

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty

from astro_ddprism import InputError, MultiViewDataset
from astro_ddprism.cli import main
from astro_ddprism.separator.state import contents, digest
from astro_ddprism.views import tiles as module
from astro_ddprism.views.tiles import write_tiles
from tests.conftest import make_wcs

OPTIONS = {"size": 8, "n_random": 5, "psf_fwhm": 0.8}


def a_tile(number):
    """Noise, with galaxies where a catalog says that they are."""
    rng, wcs = np.random.default_rng(number), make_wcs(ra=150 + number)
    image = CCDData(
        rng.normal(0, 1, (64, 64)), uncertainty=StdDevUncertainty(np.ones((64, 64))), wcs=wcs,
        unit=u.nJy,
    )  # fmt: skip
    return image, wcs.pixel_to_world(rng.uniform(10, 50, 3), rng.uniform(10, 50, 3))


@pytest.mark.parametrize("most", [64, 2])
def test_many_images_make_one_file(most, tmp_path, monkeypatch):
    """Also where no more than two files may be open at a time."""
    monkeypatch.setattr(module, "MOST_OPEN", most)
    images = {f"t{k}": a_tile(k) for k in range(5)}
    tiles = {name: (image, {"positions": sky}) for name, (image, sky) in images.items()}
    dataset = write_tiles(tmp_path / "views.asdf", tiles, seed=7, **OPTIONS)
    expected = MultiViewDataset.join(
        [
            MultiViewDataset.from_image(image, positions=sky, seed=7 + k, **OPTIONS)
            for k, (image, sky) in enumerate(images.values())
        ],
        names=list(images),
    )
    again = MultiViewDataset.read(tmp_path / "views.asdf")
    for found in (dataset, again):
        assert digest(contents(found)) == digest(contents(expected))
        for name, view in expected.items():
            np.testing.assert_array_equal(found[name].ids, view.ids)
            assert found[name].wcs[-1].wcs.compare(view.wcs[-1].wcs)
            np.testing.assert_allclose(found[name].coordinates.separation(view.coordinates), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["views.asdf"]


def test_the_command(tmp_path):
    names = []
    for k in range(2):
        image, sky = a_tile(k)
        image.write(tmp_path / f"t{k}.fits")
        np.savetxt(tmp_path / f"t{k}.csv", np.stack([sky.ra.deg, sky.dec.deg], 1),
                   delimiter=",", header="ra,dec", comments="")  # fmt: skip
        names.append(f"t{k}.fits,t{k}.csv")
    (tmp_path / "tiles.csv").write_text("\n".join(["image,positions", *names]))
    out = tmp_path / "views.asdf"
    cutouts = f"cutouts --tiles {tmp_path}/tiles.csv -q --size 8 --n-random 4 -o {out}".split()
    assert main(cutouts) == 0
    views = MultiViewDataset.read(out)
    assert {name: len(view) for name, view in views.items()} == {"galaxy": 6, "random": 8}
    assert views["galaxy"].ids[0].startswith("t0/")
    assert main([*cutouts, "--overwrite", str(tmp_path / "t0.fits")]) == 2


def test_no_images(tmp_path):
    with pytest.raises(InputError, match="tiles: found none"):
        write_tiles(tmp_path / "views.asdf", {})
