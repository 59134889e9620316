import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable, Table

from astro_ddprism import MultiViewDataset, __version__
from astro_ddprism.cli import main
from astro_ddprism.cli.demo import DemoSettings
from astro_ddprism.io.outputs import replacing
from astro_ddprism.separator.presets import preset
from astro_ddprism.simulate.population import simulate_field


@pytest.fixture(scope="module")
def field():
    return simulate_field((320, 320), seed=5, star_density=1 / u.arcmin**2)


@pytest.fixture(scope="module")
def tile(field, tmp_path_factory):
    path = tmp_path_factory.mktemp("field") / "tile_r.fits"
    field.image.write(path)
    return path


@pytest.fixture(scope="module")
def psf(field, tmp_path_factory):
    path = tmp_path_factory.mktemp("psf") / "psf_r.fits"
    fits.PrimaryHDU(field.psf).writeto(path)
    return path


@pytest.fixture(scope="module")
def views(tile, tmp_path_factory):
    path = tmp_path_factory.mktemp("views") / "views.asdf"
    width = ("--psf-fwhm", "0.85")  # of too few stars it cannot be measured
    assert main(["cutouts", str(tile), "-o", str(path), "--size", "16", *width, "-q"]) == 0
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def fails(capsys, *arguments):
    """Run with bad input; returns the message, which is one line."""
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("ddprism: error: ")
    assert not [line for line in lines if "Traceback" in line]
    return lines[-1]


# --- the program ----------------------------------------


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\n"
        "from astro_ddprism.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'photutils' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("demo", "cutouts", "fit", "separate", "info"):
        assert command in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"ddprism {__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["unknown"], "invalid choice"),
        (["cutouts"], "required: -o"),
        (["cutouts", "-o", "b.asdf"], "found neither of TILE.fits and --instrument"),
        (["cutouts", "a.fits", "-o", "b.asdf", "--instrument", "a=b"], "found both of TILE.fits"),
        (["cutouts", "-o", "b.asdf", "--instrument", "a.fits"], "expected NAME=FILE"),
        (["cutouts", "-o", "b.asdf", "--instrument", "a=b,x=1"], "found 'x=1' for a, expected"),
        (["cutouts", "-o", "b.asdf", "--instrument", "a=b,bands=r"], "bands: found 'r', expected"),
        (
            ["cutouts", "-o", "b.asdf", "--instrument", "a=b,effective_gain="],
            "found 'effective_gain=' for a, expected",
        ),
        (["cutouts", "-o", "b.asdf", "--frame-scale", "-1"], "expected a positive angle"),
        (["cutouts", "-o", "b.asdf", "--frame-scale", "1 s"], "expected a positive angle"),
        (
            ["cutouts", "-o", "b.asdf", "--instrument", "a=b", "--psf", "c"],
            "expected it there: psf=",
        ),
        (
            ["cutouts", "a.fits", "-o", "b.asdf", "--size", "big"],
            "found 'big', expected a whole number from 1 on",
        ),
        (
            ["cutouts", "a.fits", "-o", "b.asdf", "--saturation", "x"],
            "expected a positive number or auto",
        ),
        (["cutouts", "a.fits", "-o", "b.asdf", "--min-flux", "1 uJyy"], "found '1 uJyy', expected"),
        (
            ["cutouts", "a.fits", "-o", "b.asdf", "--crowded-fraction", "x"],
            "expected a number from 0 to 1",
        ),
        (["fit", "a.asdf", "-o", "b.asdf", "--crowded-fraction", "0.5"], "unrecognized arguments"),
        (["fit", "a.asdf", "-o", "b.asdf", "--config"], "expected one argument"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    assert message in fails(capsys, *arguments)


def test_interruption(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("astro_ddprism.cli.info.info", interrupt)
    assert run("info", "x") == 130
    assert capsys.readouterr().err == "ddprism: interrupted\n"


def test_what_an_error_adds_is_in_its_line(monkeypatch, capsys):
    def fail(_):
        error = RuntimeError("DefaultCPUAllocator: can't allocate memory. Tried 1 GiB")
        error.add_note("to go on:\n--resume")
        raise error

    monkeypatch.setattr("astro_ddprism.cli.info.info", fail)
    assert run("info", "x") == 2
    told = "not enough memory (DefaultCPUAllocator: can't allocate memory); to go on: --resume"
    assert capsys.readouterr().err == f"ddprism: error: {told}\n"


# --- cutouts ----------------------------------------


def test_cutouts(tile, psf, tmp_path, capsys, field):
    out = tmp_path / "views.asdf"
    assert run("cutouts", tile, "-o", out, "--psf", psf, "--size", 24, "--n-random", 50) == 0
    err = capsys.readouterr().err
    assert "star" in err
    assert "50 random positions" in err
    dataset = MultiViewDataset.read(out)
    assert dataset.sources == ("los", "galaxy")
    assert len(dataset["random"]) == 50
    assert dataset["galaxy"].data.shape[1:] == (1, 24, 24)
    assert dataset.unit == u.uJy
    same = MultiViewDataset.from_image(field.image, size=24, n_random=50, psf=field.psf)
    np.testing.assert_array_equal(dataset["galaxy"].data, same["galaxy"].data)
    np.testing.assert_array_equal(dataset["random"].ids, same["random"].ids)


def test_cutouts_with_correlated_noise(tile, tmp_path, capsys):
    out = tmp_path / "views.asdf"
    assert run("cutouts", tile, "-o", out, "--size", 16, "--correlated-noise") == 0
    assert "noise of neighbours correlated by" in capsys.readouterr().err
    assert MultiViewDataset.read(out)["galaxy"].noise.autocorrelation.shape[-2:] == (7, 7)
    message = fails(capsys, "cutouts", tile, "-o", tmp_path / "x.asdf", "--correlated-noise", 900)
    assert "tile_r.fits, HDU" in message
    assert "pairs of blank pixels" in message


@pytest.fixture(scope="module")
def instruments(tile, psf, field, tmp_path_factory):
    """Options for a tile and two bands of a part of it that was binned by three; and positions."""
    folder = tmp_path_factory.mktemp("instruments")
    whole = field.image
    part = whole[:240, 60:300]
    data = part.data.reshape(80, 3, 80, 3).sum(axis=(1, 3))
    mask = part.mask.reshape(80, 3, 80, 3).any(axis=(1, 3))
    noise = np.sqrt(np.square(part.uncertainty.array).reshape(80, 3, 80, 3).sum(axis=(1, 3)))
    wcs = part.wcs.deepcopy()
    wcs.wcs.crpix = (wcs.wcs.crpix - 0.5) / 3 + 0.5
    wcs.wcs.cd = 3 * wcs.pixel_scale_matrix
    coarse = CCDData(data, mask=mask, unit=whole.unit, wcs=wcs,
                     uncertainty=type(whole.uncertainty)(noise))  # fmt: skip
    coarse.write(folder / "coarse.fits")
    galaxies = field.catalog[field.catalog["kind"] == "galaxy"]
    galaxies["id", "sky_coord"][:30].write(folder / "galaxies.ecsv")
    fine = f"fine={tile},psf={psf},oversampling=1,bands=0:1"
    bands = [f"coarse={folder / 'coarse.fits'},psf={psf},psf_scale=0.2,bands={w}"
             for w in ("0.5:0.5", "0:1")]  # fmt: skip
    options = [word for one in (fine, *bands) for word in ("--instrument", one)]
    return [*options, "--positions", folder / "galaxies.ecsv"]


def test_cutouts_of_several_instruments(tile, psf, instruments, field, tmp_path, capsys):
    out = tmp_path / "views.asdf"
    arguments = ["cutouts", *instruments, "-o", out, "--size", 18, "--frame-size", "4"]
    assert run(*arguments) == 0
    assert "galaxy: coarse has" in capsys.readouterr().err
    view = MultiViewDataset.read(out)["galaxy"]
    shapes = {name: image.observation_shape for name, image in view.images.items()}
    assert shapes == {"fine": (1, 18, 18), "coarse": (2, 6, 6)}
    assert np.count_nonzero(view.images["coarse"].n_valid()) < len(view)
    scale = field.pixel_scale.to_value(u.arcsec)
    assert view.source_shapes["galaxy"][0] == 2
    assert view.source_shapes["galaxy"][1] >= 4 / scale
    assert run("info", out) == 0
    assert "galaxy, coarse: " in capsys.readouterr().out
    arguments[6] = arguments[6].rpartition(",")[0]
    message = fails(capsys, *arguments, "--overwrite")
    assert "--instrument coarse: found 1 times bands, expected one for each of 2 bands" in message
    message = fails(capsys, "cutouts", "--instrument", f"a={tile},psf={psf}", "-o", tmp_path / "x")
    assert "psf_r.fits" in message
    assert "OVERSAMP" in message


def test_every_option_of_an_image(field, tmp_path, capsys):
    n = field.image.shape[0]
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(field.image.data, field.image.wcs.to_header(), name="FLUX"),
    ]
    hdus += [fits.ImageHDU(np.full((n, n), 1.0), name="MYWEIGHT")]
    tile, mask = tmp_path / "odd.fits", tmp_path / "mask.fits"
    fits.HDUList(hdus).writeto(tile)
    flags = 2 * field.image.mask.astype(np.int16) + 1
    fits.PrimaryHDU(flags).writeto(mask)
    galaxies = field.catalog[field.catalog["kind"] == "galaxy"][:40]
    catalog = tmp_path / "galaxies.csv"
    table = Table({"ID": [f"G{i}" for i in galaxies["id"]]})
    table["RA"], table["DEC"] = galaxies["sky_coord"].ra.deg, galaxies["sky_coord"].dec.deg
    table.write(catalog, format="ascii.csv")
    out = tmp_path / "views.asdf"
    status = run(
        "cutouts", tile, "-o", out, "--hdu", "FLUX", "--weight", "MYWEIGHT", "--mask", mask,
        "--bad-bits", 2, "--unit", "uJy", "--saturation", "auto", "--positions", catalog,
        "--random-distance", "2 arcsec", "--n-random", 30, "--size", 16, "--seed", 3,
        "--max-masked-fraction", 0.3, "--subtract-background", "--crowded-fraction", 0.5,
        "--effective-gain", "0.5 electron/nJy", "--quiet",
    )  # fmt: skip
    captured = capsys.readouterr()
    assert (status, captured.out) == (0, "")
    assert "7 of 40 positions rejected: 6 off the image, 1 masked" in captured.err
    dataset = MultiViewDataset.read(out)
    assert {*dataset["galaxy"].ids, *dataset.rejected["id"]} == set(table["ID"])
    assert dataset.noise_scale == pytest.approx(0.0163, rel=0.1)
    assert len(dataset["random"]) == 30
    near = dataset["random"].coordinates.match_to_catalog_sky(galaxies["sky_coord"])[1]
    assert (near[15:] < 10.5 * field.pixel_scale).all()  # beside the galaxies of the catalog
    assert dataset.unit == u.uJy
    np.testing.assert_allclose(dataset["random"].effective_gain, 500 * u.electron / u.uJy)
    detection = ("--threshold", 2, "--min-snr", 15, "--min-flux", 0.1, "--max-flux", "9 uJy")
    options = ("--hdu", 1, "--estimate-noise", "--unit", "uJy", "--size", 16, "--keep-stars")
    assert run("cutouts", tile, "-o", out, "--overwrite", *options, *detection) == 0
    assert "0 star" in capsys.readouterr().err


def test_positions_that_were_not_used_are_told(tile, field, tmp_path, capsys):
    """By name, also when quiet, with the reason in a table, and in the views."""
    truth = field.image.wcs.pixel_to_world([100, 200, 300], [300, 250, 200])
    table = Table({"objectId": [2**62 + i for i in range(3)] + [7, 8]})
    table["ra"], table["dec"] = [*truth.ra.deg, 3.0, np.nan], [*truth.dec.deg, 60.0, 1.0]
    table.write(tmp_path / "c.fits")
    out = tmp_path / "v.asdf"
    options = ["--positions", tmp_path / "c.fits", "--n-random", 0, "--psf-fwhm", 0.85, "-q"]
    options += ["--size", 16, "--max-masked-fraction", 0.95, "-o", out]
    assert run("cutouts", tile, *options) == 0
    assert "2 of 5 positions rejected: 2 off the image, 0 masked: 7, 8" in capsys.readouterr().err
    views = MultiViewDataset.read(out)
    assert views["galaxy"].ids.tolist() == [str(2**62 + i) for i in range(3)]
    lost = Table.read(tmp_path / f"{out.name}.rejected.ecsv")
    for found in (lost, views.rejected):
        assert list(map(str, found["id"])) == ["7", "8"]
        assert list(found["reason"]) == ["off the image", "no position"]
    assert "found an existing file" in fails(capsys, "cutouts", tile, *options)
    table[:3].write(tmp_path / "c.fits", overwrite=True)
    assert run("cutouts", tile, *options, "--overwrite") == 0
    assert not (tmp_path / f"{out.name}.rejected.ecsv").exists()
    assert len(MultiViewDataset.read(out).rejected) == 0


@pytest.mark.parametrize(
    ("command", "output"),
    [("cutouts", "v.fits"), ("separate", "s.fits.gz"), ("separate", "s.asdf"), ("fit", "m.pt")],
)
def test_endings_of_other_kinds_of_files(tile, views, tmp_path, capsys, command, output):
    image = tile if command == "cutouts" else views
    model = ["--model", "kids-r"] if command == "separate" else []
    message = fails(capsys, command, image, *model, "-o", tmp_path / output)
    assert f"found the ending '.{output.rpartition('.')[2]}', expected one of" in message


def test_several_tiles_are_bands(tile, psf, tmp_path, capsys):
    out = tmp_path / "views.asdf"
    options = ("--size", 16, "--n-random", 5, "-q")
    assert run("cutouts", tile, tile, "-o", out, "--psf", psf, "--psf", psf, *options) == 0
    assert MultiViewDataset.read(out)["galaxy"].data.shape[1:] == (2, 16, 16)
    out.unlink()
    message = fails(capsys, "cutouts", tile, "-o", out, "--mask", "A", "--mask", "B")
    assert "--mask: found 2 of them" in message


def bad_header(tile, path, **cards):
    with fits.open(tile) as hdus:
        for key, value in cards.items():
            if value is None:
                hdus[0].header.remove(key)
            else:
                hdus[0].header[key] = value
        hdus.writeto(path)


def without_wcs(tile, path):
    bad_header(tile, path, CTYPE1=None, CTYPE2=None)


def unknown_unit(tile, path):
    bad_header(tile, path, BUNIT="smoots")


def without_noise(tile, path):
    with fits.open(tile) as hdus:
        hdus[:1].writeto(path)


def all_masked(tile, path):
    with fits.open(tile) as hdus:
        hdus["MASK"].data[:] = 1
        hdus.writeto(path)


def negative(tile, path):
    with fits.open(tile) as hdus:
        hdus["UNCERT"].data[:100] = -1
        hdus.writeto(path)


def mismatch(tile, path):
    with fits.open(tile) as hdus:
        hdus["UNCERT"].data = hdus["UNCERT"].data[:50]
        hdus.writeto(path)


def truncated(tile, path):
    path.write_bytes(tile.read_bytes()[:200_000])


def table(tile, path):
    Table({"a": [1.0]}).write(path, format="fits")


def text(tile, path):
    path.write_text("an image")


def no_galaxy(tile, path):
    with fits.open(tile) as hdus:
        data = hdus[0].data
        data[:] = np.random.default_rng(0).normal(0, 0.0163, data.shape)
        hdus.writeto(path)


BAD_IMAGES = {
    without_wcs: "no celestial WCS",
    unknown_unit: "found the unit 'smoots'",
    without_noise: "found no noise information",
    all_masked: "all pixels are masked",
    negative: "negative values as uncertainty",
    mismatch: "found shape (50, 320)",
    truncated: "truncated",
    table: "found no image",
    text: "not a FITS file",
    no_galaxy: "found no",
}


@pytest.mark.parametrize("spoil", BAD_IMAGES, ids=lambda spoil: spoil.__name__)
def test_images_that_cannot_be_used(tile, tmp_path, capsys, spoil):
    path, out = tmp_path / "bad.fits", tmp_path / "views.asdf"
    spoil(tile, path)
    message = fails(capsys, "cutouts", path, "-o", out)
    assert BAD_IMAGES[spoil] in message
    assert "bad.fits" in message or spoil is no_galaxy
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((5, 5)), "found a sum of 25"),
        (np.zeros((5, 5)), "found zero in every pixel"),
        (np.full((5, 5), np.nan), "not finite"),
    ],
)
def test_psfs_that_cannot_be_used(tile, tmp_path, capsys, kernel, message):
    psf, out = tmp_path / "psf.fits", tmp_path / "views.asdf"
    fits.PrimaryHDU(kernel).writeto(psf)
    found = fails(capsys, "cutouts", tile, "-o", out, "--psf", psf)
    assert message in found
    assert "psf.fits" in found
    assert not out.exists()


def test_files_that_are_not_there(tile, tmp_path, capsys):
    out = tmp_path / "views.asdf"
    assert "absent.fits: No such file" in fails(capsys, "cutouts", "absent.fits", "-o", out)
    for option in ("--positions", "--psf"):
        assert "absent" in fails(capsys, "cutouts", tile, "-o", out, option, "absent.ecsv")
    assert "found no folder" in fails(capsys, "cutouts", tile, "-o", tmp_path / "no" / "v.asdf")
    assert "found a folder" in fails(capsys, "cutouts", tile, "-o", tmp_path)
    assert not out.exists()


def test_bands_on_different_grids(tile, field, tmp_path, capsys):
    other, out = tmp_path / "other.fits", tmp_path / "views.asdf"
    CCDData.read(tile)[5:, 5:].write(other)
    assert "other.fits" in fails(capsys, "cutouts", tile, other, "-o", out)
    assert not out.exists()


def test_positions_that_cannot_be_used(tile, tmp_path, capsys):
    catalog, out = tmp_path / "catalog.ecsv", tmp_path / "views.asdf"
    Table({"x": [1, 2]}).write(catalog)
    message = fails(capsys, "cutouts", tile, "-o", out, "--positions", catalog)
    assert "catalog.ecsv: found columns x, expected" in message
    Table({"ra": [10.0], "dec": [10.0]}).write(catalog, overwrite=True)
    message = fails(capsys, "cutouts", tile, "-o", out, "--positions", catalog)
    assert "none of the 1 positions has a cutout" in message
    assert not out.exists()


def test_existing_files_are_found_before_any_work(tmp_path, capsys, views):
    out = tmp_path / "there.asdf"
    out.write_text("precious")
    # that the inputs do not exist is not even looked at
    for arguments in (
        ("cutouts", "absent.fits", "-o", out),
        ("fit", "absent.asdf", "-o", out),
        ("separate", "absent.fits", "--model", "absent.asdf", "-o", out),
        ("separate", "a.fits", "--model", "b.asdf", "-o", tmp_path / "new.fits", "--catalog", out),
    ):
        assert "there.asdf: found an existing file" in fails(capsys, *arguments)
    assert out.read_text() == "precious"
    same = tmp_path / "same.fits"
    message = fails(capsys, "separate", "a.fits", "--model", "b", "-o", same, "--catalog", same)
    assert "two outputs" in message


# --- info ----------------------------------------


def test_info_of_views(views, capsys):
    assert run("info", views) == 0
    out = capsys.readouterr().out
    assert "views.asdf:\n" in out
    assert "in uJy" in out
    assert "observations of 1 x 16 x 16 pixels, sources los, galaxy" in out


def test_info_for_programs(views, tile, capsys):
    assert run("info", views, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["unit"]) == ("views", "uJy")
    assert told["views"]["galaxy"]["sources"] == {"los": [1, 16, 16], "galaxy": [1, 16, 16]}
    assert run("info", "kids-r", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["config"]["posterior"]["name"] == "amortized"
    assert len(told["history"]["source"]) == len(told["history"]["loss"])
    assert run("info", tile, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "image"
    assert any(line.startswith("noise") for line in told["serves_as"])


def test_a_reader_that_has_seen_enough(views, monkeypatch, tmp_path):
    def closed(_):
        sys.stdout.write("a line that nobody reads")
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("astro_ddprism.cli.info.info", closed)
    with open(tmp_path / "out", "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert run("info", views) == 0
    assert (tmp_path / "out").read_text() == ""  # what is left goes nowhere


def test_completion(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    assert stop.value.code == 0
    assert "--max-masked-fraction" in capsys.readouterr().out


def test_info_of_fits(tile, capsys):
    assert run("info", tile) == 0
    out = capsys.readouterr().out
    assert "0 PRIMARY: 320 x 320 uJy" in out
    assert "2 UNCERT" in out or "1 MASK" in out


def test_info_of_what_is_no_file_of_ours(tmp_path, capsys, views):
    path = tmp_path / "notes.txt"
    path.write_text("nothing")
    assert "notes.txt: not a FITS file" in fails(capsys, "info", path)
    assert "absent.asdf: No such file" in fails(capsys, "info", "absent.asdf")
    assert "found 'absent', which is no file, expected one, or the name" in fails(
        capsys, "info", "absent"
    )
    path.write_bytes(Path(views).read_bytes()[:2000])
    assert "truncated or damaged" in fails(capsys, "info", path)


# --- demo ----------------------------------------


def test_demo_is_one_call(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(
        "astro_ddprism.cli.demo.run_demo", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    assert run("demo", "--out", tmp_path, "--seed", 4, "--device", "cpu", "-q") == 0
    options = {"seed": 4, "device": "cpu", "progress": False}
    assert calls == [((tmp_path,), {**options, "settings": DemoSettings()})]
    assert run("demo", "--quick") == 0
    assert calls[1][1]["settings"].model == "kids-r"


# --- fit and separate: what the command line adds to the separator --------------------------------


class FakeSeparator:
    """Remembers how it was called; fits and samples nothing."""

    calls: list = []  # noqa: RUF012
    source_shapes_ = {"los": (1, 20, 20), "galaxy": (1, 20, 20)}  # noqa: RUF012
    sources_ = ("los", "galaxy")
    before_psf_ = True
    interrupted = progress = False

    @classmethod
    def from_config(cls, config):
        cls.calls.append(("from_config", config))
        return cls()

    @classmethod
    def read(cls, path, device, *, progress):
        cls.calls.append(("read", path.name, device, progress))
        return cls()

    def fit(self, dataset, *, initial, checkpoint, resume):
        assert initial is None
        self.calls.append(("fit", list(dataset), checkpoint.name, resume))
        checkpoint.write_text("an EM iteration")
        if self.interrupted:
            raise KeyboardInterrupt

    def write(self, path):
        with replacing(path) as part:
            part.write_text("a model")

    def digest(self):
        return "of a model"

    def sample(self, view, n_samples, seed):
        from astro_ddprism import PosteriorSamples

        self.calls.append(("sample", view.name, view.data.shape[1:], n_samples, seed))
        noise = np.random.default_rng(0).normal(size=(2, n_samples, *view.data.shape))
        return PosteriorSamples(dict(zip(view.sources, noise, strict=True)), view)


@pytest.fixture
def fake(monkeypatch):
    fake = type("Fake", (FakeSeparator,), {"calls": []})
    monkeypatch.setattr("astro_ddprism.cli.commands.SourceSeparator", fake)
    return fake


def test_fit_passes_its_options_on(fake, views, tmp_path):
    config, out = tmp_path / "fit.toml", tmp_path / "model.asdf"
    config.write_text('n_em_iterations = 3\nseed = 1\n[network]\nname = "unet"\n')
    assert run("fit", views, "-o", out, "--config", config, "--device", "cpu", "-q") == 0
    expected = {"n_em_iterations": 3, "seed": 1, "network": {"name": "unet"}, "device": "cpu"}
    expected["method"] = "diffusion"  # where nothing else is said
    found = fake.calls[0][1]
    for name in ("posterior", "training"):
        assert found.pop(name) == preset("galaxies")[name]
    assert found == {**expected, "progress": False}
    assert fake.calls[1] == ("fit", ["random", "galaxy"], "model.asdf.checkpoint", False)
    assert out.exists()
    assert not (tmp_path / "model.asdf.checkpoint").exists()  # the model holds it all


def test_presets_of_a_fit(fake, views, tmp_path, capsys):
    config, out = tmp_path / "fit.toml", tmp_path / "model.asdf"
    config.write_text('posterior = "moment-matching"\n')
    common = {"method": "diffusion", "progress": True}
    chosen = {"posterior": "moment-matching"}
    for options, expected, told in (
        ([], preset("galaxies"), True),
        (["--preset", "none"], {}, False),
        (["--config", config], chosen, False),
        (["--config", config, "--preset", "galaxies"], {**preset("galaxies"), **chosen}, True),
    ):
        assert run("fit", views, "-o", out, "--overwrite", *options) == 0
        assert fake.calls[-2] == ("from_config", {**common, **expected})
        err = capsys.readouterr().err
        assert ("preset galaxies" in err) is told
        assert err.splitlines()[-1] == f"wrote {out}: model of los, galaxy"
    config.write_text(
        '[training]\nn_images = 320\n[posterior]\nname = "amortized"\nn_images = 640\n'
    )
    assert run("fit", views, "-o", out, "--overwrite", "--config", config,
               "--preset", "galaxies") == 0  # fmt: skip
    found = fake.calls[-2][1]  # a table says some of it, or all where it names a part
    assert found["training"] == {**preset("galaxies")["training"], "n_images": 320}
    assert found["posterior"] == {"name": "amortized", "n_images": 640}
    message = fails(capsys, "fit", views, "-o", out, "--overwrite", "--method", "gaussian",
                    "--preset", "galaxies")  # fmt: skip
    assert "--preset: found it with the method gaussian" in message


def test_fit_is_resumed_only_when_asked_for(fake, views, tmp_path, capsys):
    out = tmp_path / "model.asdf"
    fake.interrupted = True
    assert run("fit", views, "-o", out, "--resume") == 130  # nothing to go on with: begins
    assert fake.calls[-1][-1] is False
    assert not out.exists()
    assert "unfinished fit, expected --resume" in fails(capsys, "fit", views, "-o", out)
    assert run("fit", views, "-o", out, "--overwrite") == 130
    assert fake.calls[-1][-1] is False
    fake.interrupted = False
    assert run("fit", views, "-o", out, "--resume", "--seed", 5) == 0
    assert fake.calls[-1][-1] is True
    assert fake.calls[-2][1]["seed"] == 5


def test_configurations_that_cannot_be_used(fake, views, tmp_path, capsys):
    config, out = tmp_path / "fit.toml", tmp_path / "model.asdf"
    config.write_text("n_em_iterations = ")
    assert "fit.toml: not a TOML file" in fails(capsys, "fit", views, "-o", out, "--config", config)
    message = fails(capsys, "fit", views, "-o", out, "--config", tmp_path / "absent.toml")
    assert "absent.toml: No such file" in message
    assert "cannot be read" in fails(capsys, "fit", tmp_path / "absent.asdf", "-o", out)
    assert not out.exists()


def test_separate_a_file_of_views(fake, views, tmp_path):
    out, catalog = tmp_path / "separated.fits", tmp_path / "catalog.ecsv"
    options = ("--samples", 3, "--aperture", 4, "--keep-samples", "--seed", 7, "-q")
    status = run("separate", views, "--model", "m.asdf", "-o", out, "--catalog", catalog, *options)
    assert status == 0
    assert fake.calls == [
        ("read", "m.asdf", "auto", False),  # quiet
        ("sample", "galaxy", (1, 16, 16), 3, 7),
    ]
    table = QTable.read(catalog)
    dataset = MultiViewDataset.read(views)
    assert table["id"].tolist() == dataset["galaxy"].ids.tolist()
    assert table["galaxy_flux"].unit == u.uJy
    assert table["galaxy_mag"].unit == u.ABmag
    assert {"galaxy_aperture_flux", "galaxy_half_light_radius_sky", "flags"} <= set(table.colnames)
    with fits.open(out) as hdus:
        hdus.verify("exception")
        assert {"CATALOG", "GALAXY_MEAN", "LOS_STD", "GALAXY_SAMPLES"} <= {h.name for h in hdus}


def test_separate_tells_programs_and_people(fake, tile, field, tmp_path, capsys):
    """What was done in JSON on standard output, what was written in the last line, and in a log."""
    positions = field.catalog["id", "sky_coord"][field.catalog["kind"] == "galaxy"][:6]
    positions.write(tmp_path / "galaxies.ecsv")
    names = {"-o": "s.fits", "--catalog": "c.vot", "--tile": "t.fits", "--stamps": "stamps",
             "--log-file": "log.txt"}  # fmt: skip
    files = [word for option, name in names.items() for word in (option, tmp_path / name)]
    options = ("--positions", tmp_path / "galaxies.ecsv", "--samples", 2, "--json", "--all-sources")
    command = ("separate", tile, "--model", "m.asdf", *files, *options)
    assert run(*command) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["n_observations"] + told["n_rejected"] == 6
    assert told["files"]["tile"] == str(tmp_path / "t.fits")
    assert len(told["files"]["stamps"]) == told["n_observations"]
    assert isinstance(told["warnings"], list)
    last = err.splitlines()[-1] if told["n_rejected"] == 0 else err
    assert f"wrote {tmp_path / 's.fits'}, {tmp_path / 'c.vot'}, {tmp_path / 't.fits'}" in last
    log = (tmp_path / "log.txt").read_text()
    assert "INFO astro_ddprism.cli.commands: wrote" in log
    with fits.open(tmp_path / "t.fits") as hdus:
        assert hdus["GALAXY"].shape == field.image.shape
    table = Table.read(tmp_path / "c.vot")
    assert table.colnames.index("galaxy_flux") < table.colnames.index("los_flux")
    assert "existing file" in fails(capsys, *[w for w in command if w != "--json"])
    assert "ddprism: error: " in (tmp_path / "log.txt").read_text()


def test_tiles_need_an_image(fake, views, tmp_path, capsys):
    command = ("separate", views, "--model", "m.asdf", "-o", tmp_path / "s.fits")
    assert "found no image of one instrument" in fails(capsys, *command, "--tile", tmp_path / "t")
    message = fails(capsys, *command, "--log-file", tmp_path / "absent" / "log.txt")
    assert "log.txt: No such file or directory" in message


@pytest.mark.parametrize("ending", ["fits", "csv", "vot"])
def test_catalogs_of_other_formats_are_plain(fake, views, tmp_path, ending):
    out, catalog = tmp_path / "separated.fits", tmp_path / f"catalog.{ending}"
    options = ("--samples", 2, "--zero-point", 20, "--catalog", catalog, "-q")
    assert run("separate", views, "--model", "m.asdf", "-o", out, *options) == 0
    table = Table.read(catalog)
    product = Table.read(out, hdu="CATALOG")
    assert set(table.colnames) <= set(product.colnames)
    assert {"ra", "galaxy_dec", "galaxy_mag_p16"} <= set(table.colnames)
    np.testing.assert_allclose(table["galaxy_flux"], product["galaxy_flux"], rtol=1e-12)
    with np.errstate(divide="ignore"):  # fluxes below zero are infinitely faint
        magnitude = 20 - 2.5 * np.log10(np.asarray(table["galaxy_flux_p84"]).clip(min=0))
    np.testing.assert_allclose(table["galaxy_mag_p16"], magnitude)


def test_separate_an_image_with_positions(fake, tile, field, tmp_path):
    out, catalog = tmp_path / "separated.fits", tmp_path / "galaxies.ecsv"
    galaxies = field.catalog[field.catalog["kind"] == "galaxy"][:9]
    Table({"id": [f"g{i}" for i in galaxies["id"]], "ra": galaxies["sky_coord"].ra.deg,
           "dec": galaxies["sky_coord"].dec.deg}).write(catalog)  # fmt: skip
    options = ("--positions", catalog, "--samples", 2, "-q", "--max-masked-fraction", 0.9)
    assert run("separate", tile, "--model", "m.asdf", "-o", out, *options) == 0
    assert fake.calls[-1][:3] == ("sample", "galaxy", (1, 20, 20))  # the model's size
    with fits.open(out) as hdus:
        assert set(hdus["CATALOG"].data["id"]) <= {f"g{i}" for i in galaxies["id"]}


def test_separate_with_options_that_do_not_fit(fake, views, tile, tmp_path, capsys):
    out = tmp_path / "separated.fits"
    base = ("--model", "m.asdf", "-o", out)
    assert "--size, which is an option for images" in fails(
        capsys, "separate", views, *base, "--size", 9
    )
    assert "--view: found 'x', expected one of" in fails(
        capsys, "separate", views, *base, "--view", "x"
    )
    assert "--view: found it with an image" in fails(capsys, "separate", tile, *base, "--view", "x")
    assert "--frame-scale, which is an option for images" in fails(
        capsys, "separate", views, *base, "--frame-scale", 1
    )
    assert "--frame-scale, --frame-size: found one without --instrument" in fails(
        capsys, "separate", tile, *base, "--frame-size", 4
    )
    assert "found neither of TILE.fits or VIEWS.asdf and --instrument" in fails(
        capsys, "separate", *base
    )
    assert "found both of TILE.fits or VIEWS.asdf and --instrument" in fails(
        capsys, "separate", views, *base, "--instrument", f"a={tile}"
    )
    assert "ending '.doc'" in fails(capsys, "separate", tile, *base, "--catalog", "c.doc")
    assert not out.exists()


# --- fit, separate and info with the separator itself ---------------------------------------------


CONFIG = """
n_em_iterations = 1
sources = ["los", "galaxy"]
chains = { n_steps = 4 }
warm_start = { name = "gaussian", iterations = 1 }

[training]
n_first_images = 640
n_images = 160

[network]
name = "unet"
channels = [4, 8]
blocks = [1, 1]
embedding = 8

[posterior]
name = "moment-matching"
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "fit.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def model(views, config, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.asdf"
    assert run("fit", views, "-o", path, "--config", config, "--device", "cpu", "-q") == 0
    return path


def test_fit_separate_info(model, views, tmp_path, capsys):
    out, catalog = tmp_path / "separated.fits", tmp_path / "catalog.ecsv"
    options = ("--device", "cpu", "--samples", 2, "--aperture", 4, "-q")
    status = run("separate", views, "--model", model, "-o", out, "--catalog", catalog, *options)
    captured = capsys.readouterr()
    assert (status, captured.out, captured.err) == (0, "", "")
    dataset = MultiViewDataset.read(views)
    table = QTable.read(catalog)
    assert table["id"].tolist() == dataset["galaxy"].ids.tolist()
    assert np.isfinite(table["galaxy_flux"]).all()
    assert np.median(table["chi2"]) < 2
    with fits.open(out) as hdus:
        hdus.verify("exception")
        header = hdus[0].header
        assert header["MODEL"] == "model.asdf"
        assert len(header["MODELSHA"]) == 64
        both = hdus["GALAXY_MEAN"].data + hdus["LOS_MEAN"].data
        view = dataset["galaxy"]
        residual = (view.data - both)[~view.mask] / np.sqrt(view.variance[~view.mask])
        assert np.sqrt(np.mean(residual**2)) < 1.2  # the sources add up to the observation
    assert run("info", model) == 0
    printed = capsys.readouterr().out
    assert "model of los, galaxy, in uJy" in printed
    assert "galaxy: 1 x 16 x 16 pixels" in printed
    assert "n_em_iterations = 1" in printed
    assert "network.channels = [4, 8]" in printed
    assert "posterior.solver.name = gmres" in printed
    assert "chains.n_steps = 4" in printed
    assert "chi2" in printed
    assert run("info", out) == 0
    assert "GALAXY_MEAN" in capsys.readouterr().out


def test_models_by_name_and_fine_tuning(model, views, tmp_path, capsys, monkeypatch):
    """A model that comes with the package separates, is fine-tuned, and tells what it knows."""
    from astro_ddprism import models

    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "toy-r.asdf").write_bytes(model.read_bytes())
    monkeypatch.setattr(models, "FOLDER", folder)
    assert run("info", "toy-r") == 0
    printed = capsys.readouterr().out
    assert "trained on " in printed
    assert "pixels of 0.340 arcsec" in printed
    assert "from tile_r.fits" in printed
    options = ("--device", "cpu", "--samples", 1, "-q")
    assert run("separate", views, "--model", "toy-r", "-o", tmp_path / "a.fits", *options) == 0
    assert fits.getval(tmp_path / "a.fits", "MODEL") == "toy-r.asdf"
    config, out = tmp_path / "fit.toml", tmp_path / "tuned.asdf"
    config.write_text(
        "n_em_iterations = 1\ntraining.n_images = 160\nchains.n_steps = 4\n"
        '[posterior]\nname = "moment-matching"\nsolver = "cg"\n'
    )
    options = ("--config", config, "--device", "cpu", "-q")
    assert run("fit", views, "-o", out, "--from", "toy-r", *options) == 0
    assert run("info", out) == 0
    printed = capsys.readouterr().out
    assert "starting from toy-r.asdf" in printed
    assert "network.channels = [4, 8]" in printed  # as in the model
    assert "posterior.solver.name = cg" in printed  # as in the file
    config.write_text("posterior = 3\n")
    message = fails(
        capsys, "fit", views, "-o", tmp_path / "b.asdf", "--from", "toy-r", "--config", config
    )
    assert "posterior method: found 3, expected a posterior method, one of amortized" in message
    assert "comes with the package: toy-r" in fails(
        capsys, "separate", views, "--model", "toy-i", "-o", tmp_path / "b.fits"
    )


def test_gaussian_priors(model, views, tmp_path, capsys):
    """By their name, from a file's or the command's; they separate, and tell what they are."""
    config, out = tmp_path / "fit.toml", tmp_path / "gaussian.asdf"
    config.write_text('warm_start = { name = "gaussian", rank = 5, iterations = 1 }\n')
    options = ("--config", config, "--device", "cpu", "-q")
    assert run("fit", views, "-o", out, "--method", "gaussian", *options) == 0
    assert run("info", out) == 0
    printed = capsys.readouterr().out
    assert "method = gaussian" in printed
    assert "warm_start.rank = 5" in printed
    assert "loss" not in printed  # there is no history
    separated = tmp_path / "separated.fits"
    options = ("--model", out, "--samples", 2, "--device", "cpu", "-q")
    assert run("separate", views, "-o", separated, *options) == 0
    with fits.open(separated) as hdus:
        assert hdus[0].header["MODEL"] == "gaussian.asdf"
        assert np.median(hdus["CATALOG"].data["chi2"]) < 2
    message = fails(
        capsys, "fit", views, "-o", tmp_path / "b.asdf", "--method", "gaussian", "--from", model
    )
    assert "initial: gaussian does not start from models" in message
    message = fails(capsys, "fit", views, "-o", tmp_path / "b.asdf", "--from", out)
    assert "gaussian.asdf: found a GaussianSourceSeparator, expected diffusion priors" in message
    config.write_text('[posterior]\nname = "mixture"\n')
    message = fails(
        capsys, "fit", views, "-o", tmp_path / "b.asdf", "--method", "gaussian", "--config", config
    )
    assert "configuration: unknown posterior; expected names out of device, execution" in message


def test_images_that_a_model_does_not_know(model, tile, tmp_path, capsys):
    """Coarser pixels, a wider PSF, counts without a zero point; given one, they are flux."""
    base = ("--model", model, "--device", "cpu", "--samples", 1, "-o", tmp_path / "out.fits")
    coarse, counts = tmp_path / "coarse.fits", tmp_path / "counts.fits"
    with fits.open(tile) as hdus:
        header = hdus[0].header  # a PC matrix that is not there is one
        for key in ("CDELT1", "CDELT2"):
            header[key] = 1.3 * header.get(key, 1.0)
        hdus.writeto(coarse)
    bad_header(tile, counts, BUNIT="adu")
    message = fails(capsys, "separate", coarse, *base)
    assert "found pixels of 0.442 arcsec, expected 0.340 arcsec" in message
    message = fails(capsys, "separate", tile, *base, "--psf-fwhm", "1.5 arcsec")
    assert "found a PSF of FWHM 1.50 arcsec, expected 0.85 arcsec" in message
    message = fails(capsys, "separate", counts, *base)
    assert "give the unit of the image (--unit) or its zero point (--zero-point)" in message
    assert not (tmp_path / "out.fits").exists()
    assert run("separate", counts, *base, "--zero-point", 23.9, "-q") == 0


def test_separate_an_image_like_its_views(model, tile, views, tmp_path):
    """The image's galaxies are cut out again as they were for the fit, and separated alike."""
    first, second = tmp_path / "views.fits", tmp_path / "image.fits"
    options = ("--model", model, "--samples", 2, "--seed", 1, "--device", "cpu", "-q")
    assert run("separate", views, "-o", first, *options) == 0
    assert run("separate", tile, "-o", second, *options) == 0
    with fits.open(first) as a, fits.open(second) as b:
        np.testing.assert_array_equal(a["CATALOG"].data["id"], b["CATALOG"].data["id"])
        np.testing.assert_allclose(
            a["GALAXY_MEAN"].data, b["GALAXY_MEAN"].data, rtol=1e-4, atol=1e-5
        )


def test_separate_images_of_several_instruments_like_their_views(
    instruments, config, tmp_path, capsys
):
    """Stamps of both are cut out again, the sources get the pixels that the model has learned."""
    views, model = tmp_path / "views.asdf", tmp_path / "model.asdf"
    options = ("--size", 15, "-q")
    cutouts = ("--frame-size", 4, "--n-random", 20, "-o", views)
    assert run("cutouts", *instruments, *options, *cutouts) == 0
    assert run("fit", views, "--config", config, "--device", "cpu", "-q", "-o", model) == 0
    first, second = tmp_path / "views.fits", tmp_path / "images.fits"
    separate = ("--model", model, "--samples", 2, "--seed", 1, "--device", "cpu")
    assert run("separate", views, "-o", first, *separate, "-q") == 0
    assert run("separate", *instruments, *options, "-o", second, *separate) == 0
    with fits.open(first) as a, fits.open(second) as b:
        np.testing.assert_array_equal(a["CATALOG"].data["id"], b["CATALOG"].data["id"])
        np.testing.assert_allclose(
            a["GALAXY_MEAN"].data, b["GALAXY_MEAN"].data, rtol=1e-4, atol=1e-5
        )
    message = fails(
        capsys, "separate", *instruments, *options, "--frame-size", 6,
        "-o", tmp_path / "third.fits", *separate,
    )  # fmt: skip
    assert "(2, 28, 28); expected (2, 19, 19) as in the model" in message


def test_fit_is_resumed_after_it_was_killed(model, views, config, tmp_path, monkeypatch, capsys):
    from astro_ddprism import DiffusionSourceSeparator
    from astro_ddprism.separator import base as module

    out = tmp_path / "model.asdf"
    checkpoint = tmp_path / "model.asdf.checkpoint"
    write = module.write_tree
    arguments = ("fit", views, "-o", out, "--config", config, "--device", "cpu", "-q")

    def killed(*args, **options):
        write(*args, **options)
        raise KeyboardInterrupt

    for _ in range(3):
        monkeypatch.setattr(module, "write_tree", killed)
        assert run(*arguments, "--resume") == 130
        assert checkpoint.exists()
        assert not out.exists()
    monkeypatch.setattr(module, "write_tree", write)
    assert "unfinished fit, expected --resume" in fails(capsys, *arguments)
    message = fails(capsys, *arguments, "--resume", "--seed", 5)
    assert "model.asdf.checkpoint: " in message
    assert "another configuration" in message
    assert "still learning" in fails(
        capsys, "separate", views, "--model", checkpoint, "-o", tmp_path / "s.fits"
    )
    assert sorted(tmp_path.iterdir()) == [checkpoint]
    assert run(*arguments, "--resume") == 0
    assert not checkpoint.exists()
    resumed, unbroken = (DiffusionSourceSeparator.read(path, "cpu") for path in (out, model))
    for source, x in unbroken.sample(n_samples=2).items():
        np.testing.assert_array_equal(resumed.sample(n_samples=2)[source], x)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n_wings = 2", "unknown n_wings; expected names out of"),
        ("chains.n_steps = 0", "Chains.n_steps: found 0, expected a number not below 1"),
        (
            'method = "magic"',
            "method: found 'magic', expected one of clvm-linear, clvm-vae, diffusion",
        ),
        ("n_steps = 3", "configuration: unknown n_steps; expected names out of chains, device"),
        ('chains.sampler = "magic"', "sampler: found 'magic', expected one of"),
        ('sources = ["galaxy", "dust"]', "holds the sources los, galaxy; expected galaxy, dust"),
        ('network = { name = "unet", depths = 3 }', "UNet: found depths, expected options out of"),
        ('device = "abacus"', "device: found 'abacus'"),
    ],
)
def test_configurations_the_separator_refuses(views, tmp_path, capsys, line, message):
    config, out = tmp_path / "bad.toml", tmp_path / "model.asdf"
    config.write_text(line)
    assert message in fails(capsys, "fit", views, "-o", out, "--config", config)
    assert list(tmp_path.iterdir()) == [config]


def test_models_that_cannot_be_used(model, views, tile, psf, tmp_path, capsys):
    out, other = tmp_path / "separated.fits", tmp_path / "other.asdf"
    options = ("-o", out, "--device", "cpu", "-q", "--samples", 1)
    message = fails(capsys, "separate", tile, "--model", model, "--psf", psf, *options)
    assert "expected light as seen through the PSF" in message
    message = fails(capsys, "separate", tile, "--model", model, "--size", 20, *options)
    assert "has the shape (1, 20, 20); expected (1, 16, 16)" in message
    assert "expected a model" in fails(capsys, "separate", views, "--model", views, *options)
    assert "expected an ASDF file" in fails(capsys, "separate", views, "--model", psf, *options)
    content = model.read_bytes()
    newer = content.replace(b"format_version: 4\n", b"format_version: 7\n")
    for spoiled, expected in (
        (newer, "found format version 7"),
        (content[:5000], "truncated or damaged"),
        (b"weights", "expected an ASDF file"),
    ):
        other.write_bytes(spoiled)
        message = fails(capsys, "separate", views, "--model", other, *options)
        assert "other.asdf: " in message
        assert expected in message
    assert not out.exists()


# --- outputs that are inputs ----------------------------------------


def test_no_output_is_an_input(tile, views, field, tmp_path, capsys):
    """Whatever reads it: nothing is lost."""
    galaxies = field.catalog[field.catalog["kind"] == "galaxy"][:9]
    positions = tmp_path / "v.asdf.rejected.ecsv"
    Table({"ra": galaxies["sky_coord"].ra, "dec": galaxies["sky_coord"].dec}).write(positions)
    copies = {}
    for path in (tile, views):
        copies[path] = tmp_path / path.name
        copies[path].write_bytes(path.read_bytes())
    config = tmp_path / "m.asdf"
    config.write_text("size = 16\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    own_tile, own_views = copies.values()
    for arguments in (
        ("cutouts", own_tile, "-o", tmp_path / "v.asdf", "--positions", positions),
        ("cutouts", own_tile, "-o", config, "--config", config),
        ("fit", own_views, "-o", own_views),
        ("fit", own_views, "-o", config, "--config", config),
        ("separate", own_views, "--model", "kids-r", "-o", own_tile, "--catalog", own_tile),
        ("separate", own_tile, "--model", own_views, "-o", own_tile),
    ):
        message = fails(capsys, *arguments, "--overwrite", "-q")
        assert (
            "found as input and as output" in message
            or "two outputs" in message
            or ("expected a model" in message)
        )
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_fit_that_is_done_says_so(fake, views, tmp_path, capsys):
    """As of a run that was killed between the model and the deletion of its checkpoint."""
    out, checkpoint = tmp_path / "model.asdf", tmp_path / "model.asdf.checkpoint"
    assert run("fit", views, "-o", out, "-q") == 0
    checkpoint.write_text("of a killed run")
    fake.has_learned = lambda *args, **_: args[2] == out
    assert run("fit", views, "-o", out, "--resume", "-q") == 0
    assert capsys.readouterr().err.endswith("model.asdf: the fit is done\n")
    assert not checkpoint.exists()
    fake.has_learned = lambda *_, **__: False
    assert "found an existing file" in fails(capsys, "fit", views, "-o", out, "--resume")
