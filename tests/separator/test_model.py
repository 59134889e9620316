"""Files of models, checkpoints, and the fits that go on from them."""

import hashlib

import numpy as np
import pytest
import torch
from astropy import units as u

from astro_ddprism import (
    DiffusionSourceSeparator,
    GaussianSourceSeparator,
    InputError,
    MultiViewDataset,
    View,
)
from astro_ddprism.io.asdf import read_tree, write_tree
from astro_ddprism.mixing import Amplitude
from astro_ddprism.separator import SourceSeparator
from astro_ddprism.separator.state import digest

UNIT = u.uJy
SHAPE = (1, 8, 8)


def learned(path):
    """What files of the same priors have in common, to the last bit."""
    state = read_tree(path, "model")["state"]
    return digest({name: state[name] for name in ("gaussians", "mixtures", "denoisers", "learned")})


def test_read_what_was_written(fitted, model, views, draws_of, assert_same):
    again = DiffusionSourceSeparator.read(model, device="cpu", progress=False)
    assert again.config == fitted.config
    # Whoever wrote it did without a progress bar; that is no part of a model.
    assert DiffusionSourceSeparator.read(model).progress
    assert again.sources_ == fitted.sources_
    assert again.source_shapes_ == fitted.source_shapes_
    assert (again.unit_, again.noise_scale_) == (fitted.unit_, fitted.noise_scale_)
    assert list(again.history_.columns) == list(fitted.history_.columns)
    assert (again.history_ == fitted.history_).all()
    assert_same(draws_of(again, views["second"]), draws_of(fitted, views["second"]))
    x = fitted.sample(n_samples=4)
    np.testing.assert_array_equal(again.sample(n_samples=4)["b"], x["b"])
    np.testing.assert_array_equal(again.log_prob(x["b"], "b"), fitted.log_prob(x["b"], "b"))


def test_read_images(fitted_images, images, tmp_path, draws_of, assert_same):
    fitted_images.write(tmp_path / "model.asdf")
    again = DiffusionSourceSeparator.read(tmp_path / "model.asdf")
    assert again.sources == ("los", "galaxy")
    assert_same(draws_of(again, images["galaxy"]), draws_of(fitted_images, images["galaxy"]))


def test_a_file_is_replaced_only_when_asked_for(fitted, model):
    with pytest.raises(InputError, match=r"model\.asdf"):
        fitted.write(model)
    fitted.write(model, overwrite=True)


def test_half_precision(fitted_images, tmp_path):
    """Rounded weights give nearly the same denoiser, in a file that is about half as long."""
    sizes = {}
    for weights in ("float32", "float16"):
        path = tmp_path / f"{weights}.asdf"
        fitted_images.write(path, weights=weights)
        tree = read_tree(path, "model")
        assert tree["state"]["draws"] == tree["state"]["samples"] == {}
        arrays = tree["state"]["denoisers"]["galaxy"]
        sizes[weights] = sum(a.nbytes for a in arrays.values())
        assert {str(a.dtype) for a in arrays.values() if a.ndim} == {weights}
    assert sizes["float16"] < 0.51 * sizes["float32"]
    half = DiffusionSourceSeparator.read(tmp_path / "float16.asdf", device="cpu")
    x = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in (0.1, 0.5, 0.9):
            first, second = (
                s.priors_["galaxy"](x, torch.tensor(t)).mean for s in (fitted_images, half)
            )
            assert (first - second).abs().max() < 0.01 * first.abs().max()
    with pytest.raises(InputError, match="weights: found 'int8', expected float32 or float16"):
        fitted_images.write(tmp_path / "small.asdf", weights="int8")


def test_a_new_fit_forgets_the_file(model, views):
    """Draws name the file whose model they are from."""
    separator = DiffusionSourceSeparator.read(model, device="cpu", progress=False)
    assert "model" in separator.sample(views["first"]).provenance
    assert "model" not in separator.fit(views).sample(views["first"]).provenance


def test_files_that_are_no_models(model, views, tmp_path):
    def expect(message, path=model):
        with pytest.raises(InputError, match=message) as caught:
            DiffusionSourceSeparator.read(path)
        assert path.name in str(caught.value)

    content, tree = model.read_bytes(), read_tree(model, "model")
    views.write(tmp_path / "views.asdf")
    expect("found a dataset of views, expected a model", tmp_path / "views.asdf")
    expect("cannot be read", tmp_path / "absent.asdf")
    assert content.count(b"format_version: 4\n") == 1
    model.write_bytes(content.replace(b"format_version: 4\n", b"format_version: 9\n"))
    expect("found format version 9, .* which reads versions up to 4: update it")
    model.write_bytes(content[: len(content) // 2])
    expect("truncated or damaged")
    model.write_text("weights")
    expect("found something else, expected an ASDF file")
    for key, value in (
        ("noise_scale", None),
        ("state", {}),
        ("unit", "smoots"),
        ("sources", ["c"]),
    ):
        write_tree(model, tree | {key: value}, overwrite=True)
        expect("no model of this version")
    tree["state"]["networks"]["a"]["width"] = 17
    write_tree(model, tree, overwrite=True)
    expect("no model of this version")
    tree["config"]["n_wings"] = 2
    write_tree(model, tree, overwrite=True)
    expect("no model of this version: .*unknown n_wings")


@pytest.mark.parametrize("iteration", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [False, True], ids=["written", "not written"])
def test_resumed_fit_ends_as_an_unbroken_one(
    fitted, model, views, tmp_path, iteration, before, flat, draws_of, assert_same, killed
):
    checkpoint = tmp_path / "fit.checkpoint"
    with killed(iteration, before):
        DiffusionSourceSeparator(**flat).fit(views, checkpoint=checkpoint)
    kept = iteration - before
    assert checkpoint.exists() == (kept > 0)
    if not kept:
        return
    assert len(dict(read_tree(checkpoint, "model")["state"]["history"])["loss"]) == kept
    again = DiffusionSourceSeparator(**flat)
    again.fit(views, checkpoint=checkpoint, resume=True)
    for name in ("stage", "source", "loss", "chi2", "power", "n_redrawn"):
        assert list(again.history_[name]) == list(fitted.history_[name])
    assert again.sources_ == fitted.sources_
    again.write(tmp_path / "again.asdf")
    assert learned(tmp_path / "again.asdf") == learned(model)
    assert_same(draws_of(again, views["second"]), draws_of(fitted, views["second"]))
    assert_same(again.sample(n_samples=3), fitted.sample(n_samples=3))


def test_resumed_fit_of_images(
    fitted_images, images, tmp_path, imaging, draws_of, assert_same, killed
):
    checkpoint = tmp_path / "fit.checkpoint"
    options = {**imaging, "sources": ("los", "galaxy")}
    for _ in range(4):  # killed after each EM iteration
        with killed(1):
            DiffusionSourceSeparator(**options).fit(
                images, checkpoint=checkpoint, resume=checkpoint.exists()
            )
    again = DiffusionSourceSeparator(**options).fit(images, checkpoint=checkpoint, resume=True)
    assert_same(draws_of(again, images["galaxy"]), draws_of(fitted_images, images["galaxy"]))
    assert DiffusionSourceSeparator.read(checkpoint).sources_ == ("los", "galaxy")  # it has ended


def test_checkpoints_that_cannot_be_used(views, tmp_path, flat, flat_views, killed):
    checkpoint = tmp_path / "fit.checkpoint"
    with pytest.raises(InputError, match="resume: no checkpoint"):
        DiffusionSourceSeparator(**flat).fit(views, resume=True)
    with pytest.raises(InputError, match=r"fit\.checkpoint: cannot be read"):
        DiffusionSourceSeparator(**flat).fit(views, checkpoint=checkpoint, resume=True)
    checkpoint.write_text("nothing")
    with pytest.raises(InputError, match=r"fit\.checkpoint: .*expected an ASDF file"):
        DiffusionSourceSeparator(**flat).fit(views, checkpoint=checkpoint, resume=True)
    with killed(1):
        DiffusionSourceSeparator(**flat).fit(views, checkpoint=checkpoint)
    masked = View(
        views["second"].data,
        variance=views["second"].variance,
        mixing=views["second"].mixing,
        mask=np.arange(48).reshape(24, 2) == 7,
        unit=UNIT,
    )
    stretched = {s: Amplitude(2.0, (2,)) for s in "ab"}
    mixed = View(views["second"].data, variance=0.25, mixing=stretched, unit=UNIT)
    for dataset, options in (
        (flat_views(n=23, first="a", second="ab"), {}),
        (MultiViewDataset({"first": views["first"], "second": masked}), {}),
        (MultiViewDataset({"first": views["first"], "second": mixed}), {}),
        (views, {"chains": {"n_steps": 5}}),
        (views, {"seed": 1}),
    ):
        separator = DiffusionSourceSeparator(**flat | options)
        with pytest.raises(InputError, match=r"fit\.checkpoint: .* other data or with another"):
            separator.fit(dataset, checkpoint=checkpoint, resume=True)


@pytest.mark.parametrize("iteration", [1, 2, 3])
def test_an_unfinished_fit_is_no_model(views, tmp_path, iteration, flat, killed):
    checkpoint = tmp_path / "fit.checkpoint"
    with killed(iteration):
        DiffusionSourceSeparator(**flat).fit(views, checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"fit\.checkpoint: an unfinished fit, still learning .*b"):
        DiffusionSourceSeparator.read(checkpoint)


def test_the_class_of_a_file_is_found(fitted, views, model, tmp_path):
    """By its name in the file, for whoever reads any model; others refuse it."""
    gaussian = tmp_path / "gaussian.asdf"
    GaussianSourceSeparator(device="cpu", progress=False).fit(views).write(gaussian)
    for path, kind, other, message in (
        (model, DiffusionSourceSeparator, GaussianSourceSeparator, "'diffusion', exp.* 'gaussian'"),
        (gaussian, GaussianSourceSeparator, DiffusionSourceSeparator, "'gaussian', exp.*iffusion'"),
    ):
        assert type(SourceSeparator.read(path)) is type(kind.read(path)) is kind
        with pytest.raises(InputError, match=rf"{path.name}: .*method: found {message}"):
            other.read(path)
    tree = read_tree(model, "model")
    tree["config"]["method"] = "magic"
    write_tree(model, tree, overwrite=True)
    with pytest.raises(
        InputError, match=r"method: found 'magic', expected one of .*diffusion, gaus"
    ):
        SourceSeparator.read(model)


def test_weights_are_read_and_kept_as_they_are(fitted, model, tmp_path):
    """A model that was read and written again holds the same, and so does its configuration."""
    DiffusionSourceSeparator.read(model, device="cpu").write(tmp_path / "again.asdf")
    assert learned(tmp_path / "again.asdf") == learned(model)
    first, second = (read_tree(path, "model") for path in (model, tmp_path / "again.asdf"))
    for tree in (first, second):
        assert tree["config"]["network"] == fitted.config["network"]
        assert "device" not in tree["config"]["execution"]  # no part of what was learned
        assert "progress" not in tree["config"]
    assert digest(first["config"]) == digest(second["config"])


def test_provenance_is_that_of_the_bytes_that_were_read(model, views, fitted, tmp_path):
    separator = DiffusionSourceSeparator.read(model, device="cpu", progress=False)
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    fitted.write(model, overwrite=True, weights="float16")
    assert hashlib.sha256(model.read_bytes()).hexdigest() != sha256
    assert separator.sample(views["first"]).provenance["sha256"] == sha256
    model.unlink()
    assert separator.sample(views["first"]).provenance["sha256"] == sha256


@pytest.mark.parametrize(
    ("key", "value"),
    [("noise_scale", value) for value in (np.nan, 0.0, -1.0, 1e300, np.inf, "1", True)]
    + [("sigma_max", np.nan), ("sigma_max", -5.0), ("denoisers", np.nan), ("gaussians", np.inf)],
)
def test_numbers_of_a_model_that_cannot_be(model, key, value):
    tree = read_tree(model, "model")
    if key == "noise_scale":
        tree[key] = value
    elif key == "sigma_max":
        tree["state"][key]["a"] = value
    else:
        arrays = tree["state"][key]["a"]
        name = max(arrays, key=lambda name: arrays[name].size)
        arrays[name] = np.full_like(arrays[name], value)
    write_tree(model, tree, overwrite=True)
    expected = "numbers that are not finite" if key[0] in "dg" else f"{key}.*: found"
    with pytest.raises(InputError, match=f"no model of this version: .*{expected}"):
        DiffusionSourceSeparator.read(model)


def test_a_model_knows_the_fit_that_it_ends(model, views, flat):
    separator = DiffusionSourceSeparator(**flat)
    assert separator.has_learned(views, model)
    assert not DiffusionSourceSeparator(**flat, seed=1).has_learned(views, model)
    assert not separator.has_learned(MultiViewDataset({"first": views["first"]}), model)
