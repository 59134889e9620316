"""``ddprism survey``: the tiles that its arguments name, and what it says at its end."""

from pathlib import Path

import pytest
from astropy.table import Table

from astro_ddprism import InputError
from astro_ddprism.cli import main
from astro_ddprism.cli.survey import find_tiles
from astro_ddprism.separator.records import Record


@pytest.fixture
def folder(tmp_path):
    for name in ("a.fits", "b.fits.fz", "psf.fits"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_images_patterns_and_lists(folder):
    found = find_tiles([folder / "a.fits", folder / "b.*"])
    assert [tile.name for tile in found] == ["a", "b"]
    assert found[1].images == (folder / "b.fits.fz",)
    (folder / "list.txt").write_text("# tiles\na.fits\n\nb.fits.fz\n")
    assert find_tiles([folder / "list.txt"]) == find_tiles([folder / "a.fits", folder / "b.*"])
    Table({"image": ["a.fits|b.fits.fz", "b.fits.fz"], "name": ["x", "y"], "psf": ["psf.fits", ""],
           "hdu": ["SCI", "1"]}).write(folder / "list.csv")  # fmt: skip
    first, second = find_tiles([folder / "list.csv"])
    assert (first.name, first.images) == ("x", (folder / "a.fits", folder / "b.fits.fz"))
    assert first.options == {"psf": str(folder / "psf.fits"), "hdu": "SCI"}
    assert second.options == {"hdu": "1"}


def test_lists_that_cannot_be_used(folder):
    Table({"image": ["a.fits"], "colour": ["red"]}).write(folder / "list.ecsv")
    with pytest.raises(
        InputError, match=r"list\.ecsv: found columns image, colour, expected image"
    ):
        find_tiles([folder / "list.ecsv"])
    with pytest.raises(InputError, match=r"c\*\.fits: found no file of this name"):
        find_tiles([folder / "c*.fits"])
    with pytest.raises(FileNotFoundError):
        find_tiles([folder / "absent.txt"])


def test_the_status_tells_of_tiles_that_failed(folder, monkeypatch, capsys):
    calls, records = [], [Record("a", "done", counts={"published": 7})]

    def separate_tiles(tiles, model, out, **options):
        calls.append((tiles, model, out, options))
        return records

    monkeypatch.setattr("astro_ddprism.cli.survey.separate_tiles", separate_tiles)
    options = ("--model", "m.asdf", "-o", folder / "out", "--workers", 3, "--min-snr", 5)
    arguments = [str(a) for a in ("survey", folder / "a.fits", *options, "--mask", "DQ")]
    assert main(arguments) == 0
    assert "out: 7 objects of 1 tiles" in capsys.readouterr().err
    _, model, out, given = calls[0]
    assert (model, out, given["n_workers"], given["mask"]) == (
        Path("m.asdf"),
        folder / "out",
        3,
        "DQ",
    )
    assert given["detection"]["min_snr"] == 5
    records.append(Record("c", "done", message="nothing to separate: c.fits: all is masked"))
    assert main(arguments) == 0
    assert "of 1 tiles no object came out, the first is c: nothing" in capsys.readouterr().err
    records.append(Record("b", "failed", message="b.fits: no"))
    assert main(arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 3 tiles failed (see manifest.json), the first was b: b.fits: no" in message
