"""A file in the layout of each survey: what is read from it, against what was put in.

Every one holds the same sky in microjansky, with noise of 0.5 uJy, a defect at [3, 4] and a flag
that is no defect at [5, 6]; the factor to the survey's own pixels is worked out here.
"""

import re
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from numpy.testing import assert_allclose

from astro_ddprism import MultiViewDataset
from astro_ddprism.cli import main
from astro_ddprism.errors import InputError
from astro_ddprism.survey import read_image
from astro_ddprism.survey.formats import FORMATS

SHAPE = (96, 96)
SIGMA = 0.5
AREA = (1e-4 * u.deg).to_value(u.rad) ** 2
SKY = np.random.default_rng(7).normal(0, SIGMA, SHAPE)
Y, X = np.mgrid[:96, :96]
SKY += 300 * np.exp(-((X - 48) ** 2 + (Y - 40) ** 2) / 8) / (8 * np.pi)  # a galaxy of 300 uJy
MAGGY = 3631e6  # uJy


def mask(bad, harmless, dtype=np.int32):
    array = np.zeros(SHAPE, dtype)
    array[3, 4], array[5, 6] = bad, harmless
    return array


def image(data, wcs, name="SCI", **keywords):
    return fits.ImageHDU(np.asarray(data), fits.Header({**wcs.to_header(), **keywords}), name=name)


def plane(data, name, **keywords):
    return fits.ImageHDU(np.asarray(data), fits.Header(keywords), name=name)


def save(path, *hdus, **keywords):
    primary = fits.PrimaryHDU(header=fits.Header(keywords))
    fits.HDUList([primary, *hdus]).writeto(path)
    return path


def hst(folder, wcs):
    per_second = 10 ** (0.4 * (26.0 - 23.9))  # a zero point of 26
    flam = 10 ** (-0.4 * (26.0 + 2.408 + 5 * np.log10(8000.0)))
    keywords = {"BUNIT": "ELECTRONS/S", "PHOTFLAM": flam, "PHOTPLAM": 8000.0}
    ones = np.full(SHAPE, SIGMA)
    return save(
        folder / "i.fits", image(0 * SKY + 9, wcs), plane(ones * 9, "ERR"), plane(mask(4, 0), "DQ"),
        fits.ImageHDU(SKY * per_second, image(SKY, wcs, **keywords).header, name="SCI", ver=2),
        fits.ImageHDU(ones * per_second, name="ERR", ver=2),
        fits.ImageHDU(mask(4096, 1024, np.int16), name="DQ", ver=2), TELESCOP="HST",
    )  # fmt: skip


def jwst(folder, wcs):
    k = 1e-12 / AREA
    return save(
        folder / "i2d.fits", image(SKY * k, wcs, BUNIT="MJy/sr", PIXAR_SR=AREA),
        plane(SIGMA * k * np.ones(SHAPE), "ERR", BUNIT="MJy/sr"),
        plane(mask(1 + 1024, 4, np.uint32), "DQ"), plane(np.ones(SHAPE), "VAR_POISSON"),
        TELESCOP="JWST",
    )  # fmt: skip


def roman(folder, wcs):
    tree = {
        "data": (SKY / 100).astype("f4"), "err": np.full(SHAPE, SIGMA / 100, "f4"),
        "dq": mask(1, 4, np.uint32),
        "meta": {"wcs": wcs, "instrument": {"optical_element": "F158"}},
    }  # fmt: skip
    path = folder / "r_cal.asdf"
    asdf.AsdfFile({"roman": tree}).write_to(path)
    return path


def euclid(folder, wcs):
    k = 10 ** (0.4 * (24.6 - 23.9))
    return save(
        folder / "vis.fits",
        *(hdu for n, f in (("1-1", 1.0), ("1-2", k)) for hdu in (
            image(SKY * f, wcs, f"{n}.SCI", MAGZERO=24.6),
            plane(np.full(SHAPE, SIGMA * f), f"{n}.RMS"),
            plane(mask(1, 8192), f"{n}.FLG"),
        )), TELESCOP="Euclid",
    )  # fmt: skip


def euclid_mosaic(folder, wcs):
    """Three files, whose names tell nothing of each other; 4 is no COLD pixel here."""
    save(folder / "mer_rms.fits", plane(np.full(SHAPE, SIGMA), ""), TELESCOP="Euclid")
    save(folder / "mer_flag.fits", plane(mask(4, 0), ""), TELESCOP="Euclid")
    keywords = {"MAGZERO": 23.9, "TELESCOP": "Euclid"}
    return save(folder / "mer.fits", image(SKY, wcs, "", **keywords))


def coadd(folder, wcs):
    """Of LSST: a cosmic ray in one of many exposures is no defect."""
    bits = {"HIERARCH MP_NO_DATA": 8, "HIERARCH MP_CR": 3, "HIERARCH MP_REJECTED": 11}
    return save(
        folder / "coadd.fits", image(SKY * 1e3, wcs, "IMAGE", BUNIT="nJy"),
        plane(mask(256, 8 + 2048), "MASK", **bits),
        plane(np.full(SHAPE, (SIGMA * 1e3) ** 2), "VARIANCE"),
    )  # fmt: skip


def lsst(folder, wcs):
    bits = {"HIERARCH MP_SAT": 1, "HIERARCH MP_DETECTED": 5}
    return save(
        folder / "calexp.fits", image(SKY * 1e3, wcs, "IMAGE", BUNIT="nJy"),
        plane(mask(2, 32), "MASK", **bits), plane(np.full(SHAPE, (SIGMA * 1e3) ** 2), "VARIANCE"),
    )  # fmt: skip


def des(folder, wcs):
    k = 10 ** (0.4 * (30 - 23.9))
    weight = np.full(SHAPE, (SIGMA * k) ** -2)
    path = folder / "DES_r.fits.fz"
    hdus = [
        image(SKY * k, wcs, MAGZERO=30.0),
        plane(mask(2, 4 + 2048), "MSK"),
        plane(weight, "WGT"),
    ]
    hdus = [fits.CompImageHDU(h.data, h.header, name=h.name, compression_type="GZIP_1",
                              quantize_level=0) for h in hdus]  # fmt: skip
    return save(path, *hdus)


def legacy(folder, wcs):
    k = 1e9 / MAGGY
    header = {"BRICK": "1500p020", "IMTYPE": "image", "BUNIT": "nanomaggy", "FILTER": "r"}
    save(
        folder / "legacysurvey-1500p020-invvar-r.fits", plane(np.full(SHAPE, (SIGMA * k) ** -2), "")
    )
    save(folder / "legacysurvey-1500p020-maskbits.fits", plane(mask(8, 2), ""))
    return save(folder / "legacysurvey-1500p020-image-r.fits", image(SKY * k, wcs, "", **header))


def sdss(folder, wcs):
    """Gain 4.71, dark variance 1.8225; the calibration makes the noise of the sky SIGMA."""
    sky = 120.0
    calibration = SIGMA * 1e9 / MAGGY / np.sqrt(sky / 4.71 + 1.8225)
    columns = [("ALLSKY", "16D", np.full((1, 4, 4), sky), "(4,4)")]
    columns += [(n, "96D", np.linspace(0, 3, 96)[None], None) for n in ("XINTERP", "YINTERP")]
    table = fits.BinTableHDU.from_columns(
        [fits.Column(n, f, array=a, dim=d) for n, f, a, d in columns]
    )
    keywords = {**wcs.to_header(), "CAMCOL": 1, "RUN": 752, "FILTER": "r", "ORIGIN": "SDSS    "}
    data = np.where(mask(1, 0), np.nan, SKY * 1e9 / MAGGY)
    primary = fits.PrimaryHDU(data, fits.Header({**keywords, "BUNIT": "nanomaggy"}))
    path = folder / "frame-r.fits"
    fits.HDUList([primary, fits.ImageHDU(np.full(96, calibration)), table]).writeto(path)
    return path


def panstarrs(folder, wcs):
    k = 10 ** (0.4 * (25 + 2.5 * np.log10(600.0) - 23.9))
    soft, offset = 20.0, 3.0
    data = 2.5 * np.log10(np.e) * np.arcsinh((SKY * k - offset) / 2 / soft)
    names = {"MSKNAM00": "SAT", "MSKVAL00": 32, "MSKNAM01": "SUSPECT", "MSKVAL01": 128}
    save(folder / "stk.wt.fits", plane(np.full(SHAPE, (SIGMA * k) ** 2), ""))
    save(folder / "stk.mask.fits", plane(mask(32, 128, np.uint16), "", **names))
    keywords = {"BSOFTEN": soft, "BOFFSET": offset, "EXPTIME": 600.0}
    return save(folder / "stk.fits", image(data, wcs, "", **keywords))


def kids(folder, wcs):
    save(folder / "KiDS_r_wei.fits", plane(np.full(SHAPE, 42.0), ""))
    save(folder / "KiDS_r_msk.fits", plane(mask(64, 8), ""))
    return save(folder / "KiDS_r_sci.fits", image(SKY / MAGGY, wcs, "", INSTRUME="OMEGACAM"))


def generic(folder, wcs):
    hdus = [image(SKY * 1e-6, wcs, BUNIT="Jy"), plane(np.full(SHAPE, SIGMA * 1e-6), "RMS")]
    return save(folder / "a.fits", *hdus, plane(mask(1, 0, np.uint8), "FLAGS"))


# Format, file, options, unit, factor to microjansky, tolerance of the noise.
ROWS = {
    "hst": (hst, {"hdu": "SCI,2", "zero_point": "header"}, "uJy", 1, 1e-3),
    "jwst": (jwst, {}, "uJy", 1, 1e-5),
    "roman": (roman, {}, "DN / s", 100, 1e-5),
    "euclid": (euclid, {"hdu": "1-2.SCI"}, "uJy", 1, 1e-3),
    "euclid-mosaic": (euclid_mosaic, {"uncertainty": "mer_rms.fits", "mask": "mer_flag.fits"},
                      "uJy", 1, 1e-3),
    "lsst": (lsst, {}, "nJy", 1e-3, 1e-5),
    "des": (des, {}, "uJy", 1, 1e-3),
    "legacy": (legacy, {}, "uJy", 1, 1e-3),
    "sdss": (sdss, {}, "uJy", 1, 1e-3),
    "panstarrs": (panstarrs, {}, "uJy", 1, 1e-3),
    "kids": (kids, {}, "uJy", 1, 0.05),  # its weight is scaled to the sky
    "fits": (generic, {"uncertainty": "RMS", "mask": "FLAGS"}, "Jy", 1e6, 1e-5),
}  # fmt: skip
PAGE = (Path(__file__).parents[3] / "docs" / "data_in.rst").read_text("utf-8")
COMMANDS = dict(re.findall(r"\(``([\w-]+)``\)\n(?: {5}.*\n)+? {5}- ``(ddprism cutouts .*)``", PAGE))


def test_each_row_of_the_documentation_is_run():
    others = {"nddata", "zipped"}  # from memory, and the one of test_extending
    assert set(COMMANDS) == set(ROWS) == set(FORMATS.get_formats()["Format"]) - others


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_each_survey(name, tmp_path, wcs, capsys, monkeypatch):
    """In Python, by looking at it and by name, and by the command line of the documentation."""
    make, options, unit, factor, tolerance = ROWS[name]
    wcs.wcs.crpix = 48.5, 48.5
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path, wcs)
    for known in ({}, {"format": name}):
        found = read_image(path, **options, **known)
        assert found.unit == u.Unit(unit)
        bad = np.argwhere(found.mask[0]).tolist()
        assert bad == [[3, 4]]
        good = ~found.mask[0]
        assert_allclose(found.data[0][good] * factor, SKY[good], atol=2e-3, rtol=2e-3)
        assert_allclose(np.sqrt(found.variance[0][good]) * factor, SIGMA, rtol=tolerance)
        roles = [line.partition(":")[0] for line in found.provenance]
        assert roles[:2] == ["flux", "unit"]
        assert {"noise", "masked"} <= set(roles)
    (tmp_path / "cat.csv").write_text("ra,dec\n150.0,1.99915\n")
    given = [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", v)]
    _, command, _, *documented = COMMANDS[name].split()
    assert documented == [*given, "-o", "v.asdf"]
    out = tmp_path / "v.asdf"
    command = [command, str(path), *documented, "--positions", "cat.csv"]
    assert main([*command, "--n-random", "0", "--size", "24", "--psf-fwhm", "1"]) == 0
    told = capsys.readouterr().err
    assert all(line in told for line in found.provenance)
    view = MultiViewDataset.read(out)["galaxy"]
    assert view.conditions.provenance[:2] == found.provenance[:2]
    assert_allclose(view.data.sum() * factor, 300, rtol=0.1)
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert any(words in shown for words in ("noise: ", "found 2 images", "found no noise"))


def test_pixels_of_an_exposure_are_not_all_of_one_size(tmp_path, wcs):
    """Of JWST: one flux for each pixel is another surface brightness in a larger pixel."""
    k, area = 1e-12 / AREA, 1 + X / 1000
    keywords = {"BUNIT": "MJy/sr", "PIXAR_SR": AREA}
    path = save(
        tmp_path / "a_cal.fits", image(SKY * k / area, wcs, **keywords),
        plane(SIGMA * k / area, "ERR"), plane(mask(1, 4), "DQ"), plane(area, "AREA"),
        TELESCOP="JWST",
    )  # fmt: skip
    found = read_image(path)
    good = ~found.mask[0]
    assert_allclose(found.data[0][good], SKY[good], rtol=1e-5, atol=1e-6)
    assert_allclose(np.sqrt(found.variance[0][good]), SIGMA, rtol=1e-5)
    assert "from PIXAR_SR and the area of each pixel" in found.provenance[1]
    assert not any(line.startswith("not used") for line in found.provenance)


def test_bits_of_coadds_tell_of_single_exposures(tmp_path, wcs):
    found = read_image(coadd(tmp_path, wcs))
    assert np.argwhere(found.mask[0]).tolist() == [[3, 4]]
    assert "mask: HDU MASK, bad: NO_DATA (set: CR 0.01%" in "\n".join(found.provenance)


def test_an_asdf_file_of_something_else(tmp_path, wcs, capsys):
    path = tmp_path / "a.asdf"
    asdf.AsdfFile({"other": 1}).write_to(path)
    with pytest.raises(InputError, match="found an ASDF file without"):
        read_image(path, format="roman")
    asdf.AsdfFile({"roman": {"data": SKY}}).write_to(path)
    out = ["--model", "kids-r", "-o", str(tmp_path / "s.fits"), "--positions", "cat.csv"]
    assert main(["separate", str(path), *out]) == 2
    assert "no celestial WCS" in capsys.readouterr().err
