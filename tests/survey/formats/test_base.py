from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS

from astro_ddprism import InputError, MultiViewDataset
from astro_ddprism.cli import main
from astro_ddprism.simulate.population import simulate_field
from astro_ddprism.survey import read_image
from astro_ddprism.survey.formats import FORMATS, RawImage, base


def tan(scale=1e-4 / 3):
    return WCS({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -scale, "CDELT2": scale})


def read_text(path, *, unit="nJy"):
    """A format of one file: a first line that names it, then rows of numbers; noise of 1."""
    data = np.loadtxt(path, skiprows=1)
    return RawImage(
        data, {"FILTER": "r"}, u.Unit(unit), tan(), path.name,
        noise=np.ones(data.shape), noise_kind="variance", file=path.name,
    )  # fmt: skip


def is_text(origin, path, fileobj, *args, **options):
    return path is not None and Path(path).read_bytes()[:5] == b"#text"


@pytest.fixture
def text_format():
    FORMATS.register_reader("text", RawImage, read_text)
    FORMATS.register_identifier("text", RawImage, is_text)
    yield
    FORMATS.unregister_reader("text", RawImage)
    FORMATS.unregister_identifier("text", RawImage)


@pytest.fixture(scope="module")
def pixels():
    """A field in units of its noise."""
    image = simulate_field((160, 160), seed=5, star_density=1 / u.arcmin**2).image
    return image.data / np.median(image.uncertainty.array)


@pytest.fixture
def path(pixels, tmp_path):
    path = tmp_path / "tile.txt"
    np.savetxt(path, pixels, header="text", comments="#")
    return path


def test_a_format_of_ones_own(text_format, path, pixels):
    """By its name or by looking at the file, and refused where it does not know an option."""
    for image in (read_image(path), read_image(path, format="text", unit="nJy")):
        np.testing.assert_allclose(image.data[0], pixels, rtol=1e-6)
        assert (image.unit, image.names, image.files) == (u.nJy, ("r",), ("tile.txt",))
    with pytest.raises(InputError, match="hdu: found it for the format 'text', expected unit"):
        read_image(path, hdu=1)
    with pytest.raises(InputError, match="ivar: found it for the format 'text', expected unit"):
        read_image(path, ivar=np.ones((4, 4)))
    with pytest.raises(InputError, match=r"tile.txt: not a FITS file"):
        read_image(path, format="fits")


def test_everywhere_by_name(text_format, path, tmp_path):
    """From Python, the command line and a file of options: the same views."""
    common = {"size": 12, "n_random": 5, "psf_fwhm": 0.8}
    expected = MultiViewDataset.from_image(path, format="text", **common)
    config = tmp_path / "cutouts.toml"
    config.write_text('format = "text"\nsize = 99\nn_random = 5\npsf_fwhm = [0.8]\n')
    by_options = ["--format", "text", "--n-random", "5", "--psf-fwhm", "0.8"]
    for options in (by_options, ["--config", str(config)]):
        out = tmp_path / "views.asdf"
        arguments = [str(path), "-o", str(out), "--size", "12", "--overwrite", "-q"]
        assert main(["cutouts", *arguments, *options]) == 0
        found = MultiViewDataset.read(out)
        for name, view in expected.items():
            np.testing.assert_array_equal(found[name].data, view.data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("formt = 1", "cutouts.toml: found 'formt', expected options of cutouts: bad_bits, "),
        ('output = "x"', "cutouts.toml: found 'output', expected options"),
        ('size = "big"', "cutouts.toml: argument --size: found 'big', expected"),
        ("keep_stars = 1", "cutouts.toml: keep_stars: found 1, expected true or false"),
        (
            'format = "nothing"',
            "format: found 'nothing', expected one of des, euclid, euclid-",
        ),
        ("size = [", "cutouts.toml: not a TOML file"),
    ],
)
def test_options_that_cannot_be_used(line, message, tmp_path, capsys):
    config = tmp_path / "cutouts.toml"
    config.write_text(line)
    out = tmp_path / "views.asdf"
    assert main(["cutouts", "a.fits", "-o", str(out), "--config", str(config)]) == 2
    assert message in capsys.readouterr().err


def test_ambiguous_and_unknown(text_format, path):
    FORMATS.register_reader("also text", RawImage, read_text)
    FORMATS.register_identifier("also text", RawImage, is_text)
    try:
        with pytest.raises(InputError, match="found an image of text and also text, expected one"):
            read_image(path)
    finally:
        FORMATS.unregister_reader("also text", RawImage)
        FORMATS.unregister_identifier("also text", RawImage)
    with pytest.raises(InputError, match=r"found 'HDF', expected one of des, .*, nddata, .*, text"):
        read_image(path, format="HDF")
    with pytest.raises(InputError, match=r"image: int: found no image, .*: des, .*, text"):
        read_image(3)


def test_objects_in_memory_and_files_are_not_mixed_up(path):
    image = CCDData(np.zeros((8, 8)), uncertainty=StdDevUncertainty(np.ones((8, 8))), unit="nJy")
    with pytest.raises(InputError, match="image: found CCDData, expected a FITS file"):
        read_image(image, format="fits")
    with pytest.raises(InputError, match="image: found PosixPath, expected an NDData"):
        read_image(path, format="nddata")


def test_plugins(monkeypatch):
    """Loaded once; one that is broken is named, and does not stop the others."""

    class Plugin:
        def __init__(self, name, error=None):
            self.name = self.value = name
            self.error, self.loaded = error, 0

        def load(self):
            self.loaded += 1
            if self.error:
                raise self.error

    plugins = [Plugin("broken", ImportError("no such thing")), Plugin("good")]
    monkeypatch.setattr(base, "entry_points", lambda **_: plugins)
    base._load_plugins.cache_clear()
    with pytest.warns(UserWarning, match=r"'broken' \(broken\) cannot be loaded: no such thing"):
        base._load_plugins()
    base._load_plugins()
    assert [plugin.loaded for plugin in plugins] == [1, 1]
