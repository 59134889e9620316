"""What images are like, and which of them a model fits."""

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u

from astro_ddprism import DiffusionSourceSeparator, InputError, MultiViewDataset, View
from astro_ddprism.mixing import Composition, Convolution, Identity, Mask
from astro_ddprism.separator.checks import (
    TrainingData,
    as_dataset,
    as_seed,
    as_view,
    check_conditions,
    check_view,
)
from astro_ddprism.survey.conditions import SurveyConditions

R = SurveyConditions(
    0.339 * u.arcsec, [16.0] * u.nJy, [0.85] * u.arcsec, bands=("r",), images=("r.fits",)
)
UJY = SurveyConditions(
    0.34 * u.arcsec, [1.0] * u.uJy, [0.8] * u.arcsec, bands=("r",), images=("r.fits",)
)
SHAPE = (1, 8, 8)


def make_views(conditions):
    data = np.zeros((3, 1, 4, 4))
    common = {"data": data, "variance": 1.0, "unit": "nJy", "mixing": {"los": 1.0}}
    dataset = MultiViewDataset.from_arrays({"random": common, "galaxy": common})
    for view, one in zip(dataset.values(), conditions, strict=True):
        view.conditions = one
    return dataset


def check(found, **options):
    check_conditions(found, R, label="mine", **options)


@pytest.mark.parametrize("conditions", [R, replace(R, psf_fwhm=None), R.to("uJy")])
def test_state(conditions):
    again = SurveyConditions.from_state(conditions.state())
    for name in ("pixel_scale", "noise", "psf_fwhm", "bands", "images", "unit"):
        assert getattr(again, name) == getattr(conditions, name)
    training = TrainingData({"random": 3}, {"": conditions}, "old.asdf")
    assert TrainingData.from_state(training.state()).state() == training.state()


def test_zero_point():
    """That of a nanojansky is 31.4, that of a nanomaggie 22.5, by definition."""
    assert R.zero_point == pytest.approx(31.4, abs=1e-3)
    assert replace(R, noise=[1] * u.nmgy).zero_point == pytest.approx(22.5, abs=1e-9)
    assert replace(R, noise=[1] * u.adu).zero_point is None
    assert replace(R, noise=[1] * u.one).zero_point is None
    assert R.to("uJy").noise[0] == 16 * u.nJy


def test_lines():
    text = " ".join(R.lines())
    for part in ("0.339 arcsec", "r: noise 16 nJy", "31.40", "PSF 0.85 arcsec", "from r.fits"):
        assert part in text
    bare = replace(R, psf_fwhm=None, images=tuple(f"{i}.fits" for i in range(9)))
    assert "PSF" not in bare.lines()[0]
    assert bare.lines()[1] == "from 0.fits, 1.fits, 2.fits, 3.fits, ..."


def test_several_together():
    assert SurveyConditions.combined([None, None]) is None
    other = replace(R, noise=[0.032] * u.uJy, psf_fwhm=[0.95] * u.arcsec, images=("s.fits",))
    in_maggies = R.to("nmgy")
    assert in_maggies.noise.to_value("nmgy")[0] == pytest.approx(16 / 3630.780548)
    both = SurveyConditions.combined([R, None, other, replace(in_maggies, psf_fwhm=None)])
    assert both.noise[0].to_value(u.nJy) == pytest.approx(16)
    assert both.psf_fwhm[0].to_value(u.arcsec) == pytest.approx(0.9)
    assert both.images == ("r.fits", "s.fits")


def test_training_data_of_a_dataset():
    training = TrainingData.of(make_views([R, R]), initial="kids-r.asdf")
    assert training.n_observations == {"random": 3, "galaxy": 3}
    assert training.conditions == {"": R}
    assert "trained on 3 observations of random, 3 observations of galaxy" in training.lines()[0]
    assert "starting from kids-r.asdf" in training.lines()[0]
    assert TrainingData.of(make_views([None, None])).conditions == {}


def test_images_like_the_models_pass(caplog):
    check(R)
    check(replace(R, pixel_scale=1.09 * R.pixel_scale, psf_fwhm=0.81 * R.psf_fwhm))
    check(replace(R, pixel_scale=0.91 * R.pixel_scale, psf_fwhm=1.19 * R.psf_fwhm))
    check(replace(R, noise=[1.1 * 16e-3 / 3.6308] * u.nmgy))
    check(replace(R, noise=[1.0] * u.adu))  # the separator says that it cannot be converted
    assert caplog.records == []


@pytest.mark.parametrize("factor", [0.88, 1.12])
def test_other_pixels_are_refused(factor):
    found = replace(R, pixel_scale=factor * R.pixel_scale)
    message = rf"mine: found pixels of {factor * 0.339:.3f} arcsec, expected 0.339 arcsec"
    with pytest.raises(InputError, match=message + ".*resample .* fine-tune"):
        check(found)


@pytest.mark.parametrize(("factor", "remedy"), [(0.75, "convolve it"), (1.25, "better seeing")])
def test_other_psfs_are_refused_where_sources_are_seen_through_them(factor, remedy):
    found = replace(R, psf_fwhm=factor * R.psf_fwhm)
    message = f"mine: found a PSF of FWHM {factor * 0.85:.2f} arcsec, expected 0.85 arcsec"
    with pytest.raises(InputError, match=f"{message}.*{remedy}.*fine-tune"):
        check(found)
    check(found, through_psf=False)


def test_unknown_psfs_are_worth_a_warning(caplog):
    check(replace(R, psf_fwhm=None))
    assert "too few stars" in caplog.text
    assert "0.85 arcsec: give that of the image as psf_fwhm" in caplog.text


@pytest.mark.parametrize(
    ("factor", "meaning"), [(0.45, "hid in their noise"), (2.2, "the brightest of the model's")]
)
def test_other_depths_are_worth_a_warning(caplog, factor, meaning):
    check(replace(R, noise=factor * R.noise.to(u.uJy)))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"the noise is {factor} times" in record.getMessage()
    assert meaning in record.getMessage()


def test_views(caplog):
    training = TrainingData({"random": 3}, {"": R})
    dataset = make_views([R, replace(R, pixel_scale=1 * u.arcsec)])
    check_view(dataset["random"], training)
    with pytest.raises(InputError, match=r"view 'galaxy': found pixels of 1\.000 arcsec"):
        check_view(dataset["galaxy"], training)
    check_view(dataset["galaxy"], TrainingData({"random": 3}))  # a model of no images fits all
    assert caplog.records == []
    check_view(make_views([None, None])["random"], training)
    assert "view 'random': what its images are like is not known" in caplog.text


# --- of separators ----------------------------------------


def with_conditions(dataset, **changes):
    views = {name: copy.copy(view) for name, view in dataset.items()}
    for view in views.values():
        view.conditions = replace(UJY, **changes)
    return MultiViewDataset(views)


def test_the_psf_of_light_before_it_may_be_any(imaging, image_views):
    options = imaging | {"n_em_iterations": 0, "training": {"n_first_images": 20}}
    dataset = image_views(psf=True)
    separator = DiffusionSourceSeparator(**options).fit(with_conditions(dataset))
    separator.sample(with_conditions(dataset, psf_fwhm=[1.2] * u.arcsec)["galaxy"])
    with pytest.raises(InputError, match="found pixels"):
        separator.sample(with_conditions(dataset, pixel_scale=1 * u.arcsec)["galaxy"])


@pytest.mark.parametrize("learned", [False, True], ids=["without", "with"])
def test_a_view_on_the_other_side_of_the_psf_is_refused(
    learned, fitted_images, tmp_path, imaging, image_views, kernel
):
    separator = fitted_images
    if learned:
        options = imaging | {"n_em_iterations": 0, "training": {"n_first_images": 20}}
        separator = DiffusionSourceSeparator(**options).fit(image_views(psf=True))
    sides = ["as seen through the PSF", "before the PSF"]
    message = (
        f"'galaxy': source 'los' is light {sides[not learned]}; expected light {sides[learned]}"
    )
    separator.write(tmp_path / "model.asdf")
    for known in (separator, DiffusionSourceSeparator.read(tmp_path / "model.asdf")):
        known.sample(image_views(psf=learned)["galaxy"])
        with pytest.raises(InputError, match=message):
            known.sample(image_views(psf=not learned)["galaxy"])
    view = image_views()["galaxy"]
    operator = Composition(Mask(np.zeros(SHAPE, dtype=bool)), Convolution(kernel, SHAPE))
    hidden = View(view.data, variance=1.0, mixing=dict.fromkeys(view.sources, operator), unit=u.uJy)
    if learned:
        separator.sample(hidden)
    else:
        with pytest.raises(InputError, match="before the PSF"):
            separator.sample(hidden)


def test_views_of_several_instruments(images, imaging, image_views):
    """Where some views have a PSF and others none, all of them are separated."""
    both = MultiViewDataset({"random": images["random"], "galaxy": image_views(psf=True)["galaxy"]})
    options = imaging | {"n_em_iterations": 0, "training": {"n_first_images": 20}}
    separator = DiffusionSourceSeparator(**options).fit(both)
    for view in both.values():
        separator.sample(view)
    with pytest.raises(InputError, match="source 'galaxy' is light as seen through the PSF"):
        separator.sample(images["galaxy"])


def test_a_model_knows_what_it_was_trained_on(images, tmp_path, caplog, imaging):
    options = imaging | {"n_em_iterations": 0, "training": {"n_first_images": 20}}
    separator = DiffusionSourceSeparator(**options).fit(with_conditions(images))
    separator.write(tmp_path / "model.asdf")
    for known in (separator, DiffusionSourceSeparator.read(tmp_path / "model.asdf")):
        assert known.training_.n_observations == {"random": 12, "galaxy": 12}
        assert known.training_.conditions[""].state() == UJY.state()
        known.sample(with_conditions(images)["galaxy"])
        assert caplog.records == []
        other = with_conditions(images, pixel_scale=0.2 * u.arcsec)["galaxy"]
        with pytest.raises(InputError, match=r"'galaxy': found pixels of 0\.200 arcsec, expected"):
            known.sample(other)
        with pytest.raises(InputError, match=r"found a PSF of FWHM 1\.20 arcsec, expected 0\.80"):
            known.sample(with_conditions(images, psf_fwhm=[1.2] * u.arcsec)["galaxy"])
        known.sample(images["galaxy"])
        assert "not known" in caplog.text
        caplog.clear()


def test_what_is_no_view_is_told_how_to_become_one(ccd, tmp_path):
    for given, way in (
        (ccd, "found a CCDData.*from_image"),
        ("views.asdf", "found a str.*read.path.*from_image"),
        (tmp_path, "found a Posix.*read"),
        (np.ones((3, 1, 8, 8)), "found a ndarray.*from_arrays"),
        (np.ones((3, 1, 8, 8)) * u.nJy, "found a Quantity.*from_arrays"),
        ([ccd, ccd], "found a list.*from_image.*several images"),
        (16, r"found the number 16.*sample\(view, n_samples=16\)"),
    ):
        with pytest.raises(InputError, match=f"^view: {way}"):
            as_view(given)
        way = way.partition(".*several")[0] if isinstance(given, list) else way
        if not isinstance(given, int):
            with pytest.raises(InputError, match=f"^dataset: {way}"):
                as_dataset(given)
    view = View(np.ones((3, 1, 8, 8)), variance=1.0, mixing={"a": Identity((1, 8, 8))}, name="x")
    with pytest.raises(InputError, match=r"found a View.*MultiViewDataset\({'x': view"):
        as_dataset(view)
    with pytest.raises(InputError, match=r"found a dict.*MultiViewDataset"):
        as_dataset({"x": view})
    assert as_view(view) is view
    two = {"a": Identity((1, 8, 8)), "b": Identity((1, 8, 8))}
    richer = View(np.ones((2, 1, 8, 8)), variance=1.0, mixing=two)
    dataset = MultiViewDataset({"x": view, "richer": richer, "z": richer})
    assert as_view(dataset) is dataset["richer"]
    assert as_dataset(dataset) is dataset


def test_seeds():
    assert as_seed(np.int64(5)) == 5
    drawn = [as_seed(np.random.default_rng(7)) for _ in range(2)]
    assert drawn[0] == drawn[1] != as_seed(np.random.default_rng(8))
    for wrong in (-1, 1.5, True, "7", None):
        with pytest.raises(InputError, match=r"seed: found .*expected a number from 0 on"):
            as_seed(wrong)
