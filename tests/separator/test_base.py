"""What all separators do with seeds, units, views and interrupted fits."""

import copy
import pickle

import numpy as np
import pytest
import torch
from astropy import units as u

from astro_ddprism import DiffusionSourceSeparator, InputError, MultiViewDataset, View
from astro_ddprism.diffusion.learning.em import ExpectationMaximization
from astro_ddprism.diffusion.learning.training import Trainer
from astro_ddprism.io.asdf import read_tree
from astro_ddprism.mixing import Identity
from astro_ddprism.posterior.quality import Quality
from astro_ddprism.separator.state import contents, digest

UNIT = u.uJy


def test_a_seed_repeats_a_run(fitted, views, flat, draws_of, assert_same):
    torch.manual_seed(99)  # of no matter
    again = DiffusionSourceSeparator(**flat).fit(views)
    other = DiffusionSourceSeparator(**flat, seed=1).fit(views)
    for source, x in fitted.sample(n_samples=4).items():
        np.testing.assert_array_equal(x, again.sample(n_samples=4)[source])
        assert (x != other.sample(n_samples=4, seed=0)[source]).all()
    assert_same(draws_of(fitted, views["second"]), draws_of(again, views["second"]))
    first, second = (draws_of(fitted, views["second"], seed=seed) for seed in (1, 2))
    assert (first["a"] != second["a"]).all()


def test_samples_do_not_depend_on_what_was_drawn_before(fitted, views, draws_of, assert_same):
    before = draws_of(fitted, views["second"])
    fitted.sample(n_samples=3)
    assert_same(draws_of(fitted, views["second"]), before)


@pytest.mark.parametrize(
    ("posterior", "dataset", "name"),
    [
        ("fitted", "views", "second"),
        ("fitted_images", "images", "galaxy"),
        ("amortized", "whole_images", "galaxy"),
    ],
)
@pytest.mark.parametrize(
    "chains", [{}, {"chains": {"n_steps": 4, "n_candidates": 2, "n_redraws": 2, "max_chi2": 1.0}}]
)
def test_draws_depend_on_seed_observation_and_sample_alone(
    posterior, dataset, name, chains, request, draws_of
):
    """Alone, in batches of any size, in any order and number, on two threads: to 1e-4 of the noise.

    Its ``ids`` say which observation one is.
    """
    separator = copy.copy(request.getfixturevalue(posterior))
    view = request.getfixturevalue(dataset)[name][:5]
    separator.set_params(seed=2, **chains)
    expected = draws_of(separator, view)

    def assert_close(found, where=slice(None)):
        for source, x in expected.items():
            tolerance = 1e-4 * separator.noise_scale_
            np.testing.assert_allclose(found[source], x[:, where], rtol=0, atol=tolerance)

    for i in range(len(view)):
        assert_close(draws_of(separator, view[[i]]), [i])
    more = separator.sample(view[[3, 0, 4]], 3).samples
    assert_close({source: x.value[:2] for source, x in more.items()}, [3, 0, 4])
    for batch_size, threads in ((1, 1), (7, 2), (64, 2)):
        separator.set_params(execution__batch_size=batch_size)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert_close(draws_of(separator, view))
        finally:
            torch.set_num_threads(before)


def test_more_prior_samples_begin_with_the_fewer(fitted_images):
    separator = copy.copy(fitted_images)
    few = separator.sample(n_samples=3)
    separator.set_params(execution__batch_size=5)
    for source, x in separator.sample(n_samples=12).items():
        tolerance = 1e-4 * separator.noise_scale_
        np.testing.assert_allclose(x[:3].value, few[source].value, rtol=0, atol=tolerance)


def test_other_units(fitted, views, in_unit):
    """The same observations in another unit give the same fluxes."""
    view = in_unit(views["second"], u.nJy)
    expected = fitted.sample(views["second"], 2)
    found = fitted.sample(view, 2)
    for source, x in found.samples.items():
        assert x.unit == u.nJy
        np.testing.assert_allclose(x.to_value(UNIT), expected.samples[source].value, rtol=1e-3,
                                   atol=1e-3)  # fmt: skip
    x = expected.samples["a"][0]
    same = fitted.log_prob(x.to(u.nJy), "a"), fitted.log_prob(x.value, "a")
    np.testing.assert_allclose(*same, rtol=1e-4)


def test_maggies_are_those_of_the_ab_system(fitted, views):
    """A nanomaggie is 3.6308 microjansky."""
    view = views["second"]
    data, variance = view.data / 3.630781, view.variance / 3.630781**2
    view = View(data, variance=variance, mixing=view.mixing, unit="nmgy", name="second")
    found, expected = (fitted.sample(v, 2).samples["a"] for v in (view, views["second"]))
    assert found.unit == u.nmgy
    np.testing.assert_allclose(3.630781 * found.value, expected.value, rtol=1e-3, atol=1e-3)
    same = fitted.log_prob(found[0], "a"), fitted.log_prob(3.630781 * found[0].value, "a")
    np.testing.assert_allclose(*same, rtol=1e-4)


def test_log_prob_is_a_density_in_the_unit(fitted):
    """Integrated over the plane of fluxes it is one."""
    grid = np.linspace(-6, 10, 17)
    x = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    separator = copy.copy(fitted)
    separator.set_params(execution__batch_size=len(x))  # all at a time, which is faster
    density = np.exp(separator.log_prob(x * UNIT, "a"))
    assert density.sum() * (grid[1] - grid[0]) ** 2 == pytest.approx(1, abs=0.1)


def test_posterior_samples_know_their_origin(fitted, model, views):
    assert set(fitted.sample(views["first"]).provenance) >= {"version", "seed"}
    provenance = DiffusionSourceSeparator.read(model).sample(views["first"], seed=7).provenance
    assert provenance["model"] == "model.asdf"
    assert len(provenance["sha256"]) == 64
    assert provenance["seed"] == 7


def test_nothing_learned_yet(views, tmp_path, flat):
    separator = DiffusionSourceSeparator(**flat)
    for use in (
        lambda: separator.sample(views["first"]),
        lambda: separator.log_prob(np.zeros((1, 2)), "a"),
        lambda: separator.write(tmp_path / "model.asdf"),
        lambda: separator.history_,
    ):
        with pytest.raises(InputError, match="learned nothing yet"):
            use()
    assert list(tmp_path.iterdir()) == []


def test_views_that_do_not_fit_the_model(fitted, views):
    def view(data, mixing, unit=UNIT):
        return View(data, variance=1.0, mixing=mixing, unit=unit, name="mine")

    zeros = np.zeros((4, 2))
    for bad, message in (
        (
            view(zeros, {"dust": Identity((2,))}),
            "view 'mine': holds the source 'dust'; expected .*a, b",
        ),
        (view(np.zeros((4, 3)), {"a": Identity((3,))}), r"'mine': source 'a' has the shape \(3,\)"),
        (view(zeros, {"a": Identity((2,))}, u.s), "view 'mine': flux in s; expected .*uJy"),
        (view(zeros, {"a": Identity((2,))}, None), "view 'mine': flux in no unit; expected .*uJy"),
    ):
        with pytest.raises(InputError, match=message):
            fitted.sample(bad)
    with pytest.raises(InputError, match="n_samples: found 0"):
        fitted.sample(views["first"], n_samples=0)


def test_candidates_that_do_not_fit_the_model(fitted):
    for x, source, message in (
        (np.zeros((1, 2)), "dust", "source: 'dust'; expected one of a, b"),
        (np.zeros((1, 3)), "a", r"x: shape \(1, 3\); expected \(N, 2\)"),
        (np.zeros(2), "a", r"x: shape \(2,\); expected \(N, 2\)"),
        (np.zeros((1, 2)) * u.s, "a", "x: unit s; expected uJy"),
    ):
        with pytest.raises(InputError, match=message):
            fitted.log_prob(x, source)


def brighter(dataset):
    """The same in another unit, 100 times as bright."""
    return MultiViewDataset(
        {
            name: View(100 * v.data, variance=1e4 * v.variance, mixing=v.mixing, unit=UNIT)
            for name, v in dataset.items()
        }
    )


@pytest.mark.parametrize("reason", ["initial", "checkpoint", "network", "dataset"])
def test_a_refused_fit_leaves_what_was_learned(
    fitted, views, tmp_path, monkeypatch, reason, flat, draws_of, assert_same
):
    monkeypatch.setattr(ExpectationMaximization, "run", None)  # no work is begun
    separator, dataset, options = copy.copy(fitted), brighter(views), {}
    if reason == "initial":
        options = {"initial": DiffusionSourceSeparator(**flat)}
    elif reason == "checkpoint":
        options = {"checkpoint": tmp_path / "absent", "resume": True}
    elif reason == "network":
        separator.network = "unet"
    else:
        separator.sources = ("a", "c")
    with pytest.raises(InputError):
        separator.fit(dataset, **options)
    assert separator.noise_scale_ == fitted.noise_scale_
    assert separator.training_ == fitted.training_
    assert_same(separator.sample(n_samples=3), fitted.sample(n_samples=3))
    assert_same(draws_of(separator, views["second"]), draws_of(fitted, views["second"]))


@pytest.mark.parametrize("iteration", [1, 3])
def test_an_interrupted_fit_leaves_what_was_learned(
    fitted, views, tmp_path, iteration, flat, assert_same, killed
):
    separator, new = copy.copy(fitted), DiffusionSourceSeparator(**flat)
    with killed(iteration):
        separator.fit(brighter(views), checkpoint=tmp_path / "fit.checkpoint")
    assert len(separator.history_) == len(fitted.history_)
    assert_same(separator.sample(n_samples=3), fitted.sample(n_samples=3))
    with killed(iteration):
        new.fit(views, checkpoint=tmp_path / "fit.checkpoint")
    with pytest.raises(InputError, match="learned nothing yet"):
        new.sample(n_samples=3)
    with pytest.raises(InputError, match="learned nothing yet"):
        _ = new.sources_
    assert "not yet" in new._repr_html_()


def test_an_interruption_tells_how_to_go_on(fitted, views, flat, tmp_path, monkeypatch):
    file = tmp_path / "fit.checkpoint"
    for save, expected in ((True, f"checkpoint={str(file)!r}, resume=True"), (False, "anew")):

        def interrupt(_, task, save=save):
            if save:
                task.save(fitted._learned.state, [])
            raise KeyboardInterrupt

        separator = DiffusionSourceSeparator(**flat)
        monkeypatch.setattr(DiffusionSourceSeparator, "_fit", interrupt)
        with pytest.raises(KeyboardInterrupt) as interruption:
            separator.fit(views, checkpoint=file)
        monkeypatch.undo()
        assert expected in interruption.value.__notes__[0]


def test_what_fails_after_hours_tells_how_to_go_on(fitted, views, flat, tmp_path, monkeypatch):
    """A full memory or disk does, where there is a checkpoint; without one, it is as it was."""
    file = tmp_path / "fit.checkpoint"
    for save in (True, False):

        def fail(_, task, save=save):
            if save:
                task.save(fitted._learned.state, [])
            raise MemoryError("full")

        monkeypatch.setattr(DiffusionSourceSeparator, "_fit", fail)
        with pytest.raises(MemoryError) as failure:
            DiffusionSourceSeparator(**flat).fit(views, checkpoint=file)
        monkeypatch.undo()
        notes = "".join(getattr(failure.value, "__notes__", []))
        assert (f"checkpoint={str(file)!r}, resume=True" in notes) == save


def test_samples_of_a_dataset_are_those_of_its_richest_view(fitted, views, assert_same):
    several = fitted.sample(views, 2, seed=np.random.default_rng(3))
    assert several.view is views["second"]
    rng = np.random.default_rng(3)
    assert several.provenance["seed"] == int(rng.integers(2**31))
    for n_samples in (0, 1.5, "3"):
        with pytest.raises(InputError, match="n_samples: found"):
            fitted.sample(views, n_samples)


def test_separators_pickle(fitted, views, assert_same, draws_of):
    again = pickle.loads(pickle.dumps(fitted))
    assert_same(draws_of(again, views["second"]), draws_of(fitted, views["second"]))
    html = fitted._repr_html_()
    assert "DiffusionSourceSeparator" in html
    assert "trained on" in html


def test_a_training_that_fails_leaves_what_was_learned(
    fitted, views, tmp_path, monkeypatch, assert_same
):
    """And the checkpoint of the last EM iteration that went well."""
    train = Trainer.train

    def spoiled(trainer, denoiser, draw, n_images, held_out):
        if "'b'" in trainer.label and "iteration 1" in trainer.label:
            return train(trainer, denoiser, lambda n: (draw(n)[0] * np.nan,), n_images)
        return train(trainer, denoiser, draw, n_images, held_out)

    monkeypatch.setattr(Trainer, "train", spoiled)
    separator, checkpoint = copy.copy(fitted), tmp_path / "fit.checkpoint"
    with pytest.raises(InputError, match="the source 'b', EM iteration 1: found a loss of nan"):
        separator.fit(brighter(views), checkpoint=checkpoint)
    assert_same(separator.sample(n_samples=3), fitted.sample(n_samples=3))
    weights = read_tree(checkpoint, "model")["state"]["denoisers"]["b"]
    assert all(np.isfinite(value).all() for value in weights.values())


def test_several_instruments(pairs, imaging):
    """From the warm start to the samples, of observations with one image or two."""
    view, truth = pairs(24)
    dataset = MultiViewDataset({"pairs": view})
    separator = DiffusionSourceSeparator(**imaging).fit(dataset)
    samples = separator.sample(dataset["pairs"], n_samples=3)
    assert samples.mean["galaxy"].shape == truth.shape
    assert samples.mean["galaxy"].wcs is dataset["pairs"].source_wcs
    assert np.median(samples.chi2) < 2
    found = samples.mean["galaxy"].value.mean(axis=1)[1::3], truth.mean(axis=1)[1::3]
    assert np.corrcoef(*(images.ravel() for images in found))[0, 1] > 0.8
    # What has one image only is as good a view of the model's sources, as light before the PSF.
    separator.sample(view.images["coarse"])
    changed = MultiViewDataset({"pairs": pairs(24, seed=1)[0]})
    assert digest(contents(dataset)) != digest(contents(changed))


@pytest.mark.parametrize("value", [1e10, 1e20, 3e38])
def test_an_absurd_pixel_spoils_its_own_observation_alone(fitted, views, flat, value, caplog):
    """The draws of all others are those without it; its own are none, and flagged."""
    spoiled = copy.copy(views["second"])
    spoiled.data = spoiled.data.copy()
    spoiled.data[2, 1] = value
    found, expected = (fitted.sample(view, 2) for view in (spoiled, views["second"]))
    others = np.arange(len(spoiled)) != 2
    for source, x in expected.samples.items():
        np.testing.assert_array_equal(found.samples[source][:, others], x[:, others])
        assert np.isnan(found.samples[source][:, 2]).all()
    flags = found.catalog()["flags"]
    assert flags[2] & Quality.BAD_FIT
    np.testing.assert_array_equal(flags[others], expected.catalog()["flags"][others])
    assert "1 of 24 observations hold pixels of over 1.7e+07 times their noise" in caplog.text
    dataset = MultiViewDataset({"first": views["first"], "second": spoiled})
    without = {"first": views["first"], "second": views["second"][others]}
    fits = [DiffusionSourceSeparator(**flat).fit(d) for d in (dataset, MultiViewDataset(without))]
    for found, expected in zip(*(fit.sample(n_samples=3).values() for fit in fits), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_no_observation_can_be_used(fitted, views):
    spoiled = copy.copy(views["second"])
    spoiled.data = np.full_like(spoiled.data, 1e30)
    with pytest.raises(InputError, match="in all observations, expected some without"):
        fitted.sample(spoiled)
