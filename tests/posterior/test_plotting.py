import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from matplotlib.figure import Figure

from astro_ddprism import PosteriorSamples, View
from astro_ddprism.errors import InputError
from astro_ddprism.mixing import DenseMatrix, Identity
from astro_ddprism.posterior.plotting import (
    plot_history,
    plot_instruments,
    plot_prior,
    plot_separation,
)


def images(figure):
    """The image panels of a figure, without colour bars."""
    return [axis.images[0] for axis in figure.axes if axis.images]


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-8:8, -8:8]
    galaxy = 50 * np.exp(-(x**2 + y**2) / 8)[None] * np.array([1, 10, 100])[:, None, None, None]
    los = 20 * np.exp(-((x - 5) ** 2 + y**2) / 4) * np.ones((3, 1, 16, 16))
    identity = Identity((1, 16, 16))
    mask = np.zeros((3, 1, 16, 16), dtype=bool)
    mask[0, 0, :2] = True
    view = View(galaxy + los + rng.normal(size=los.shape), variance=1.0, mask=mask, unit="uJy",
                mixing={"los": identity, "galaxy": identity})  # fmt: skip
    draws = {"los": np.stack([los] * 4), "galaxy": np.stack([galaxy] * 4)}
    return PosteriorSamples(draws, view)


def test_separation_shows_what_it_says(samples, tmp_path):
    truth = {"galaxy": samples.mean["galaxy"].to(u.mJy), "los": samples.mean["los"]}
    figure = plot_separation(samples, rows=[2, 0], truth=truth)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["observed", "galaxy", "los", "true galaxy", "true los", "residual, ±4σ"]
    panels = np.array(images(figure)).reshape(2, 6)
    np.testing.assert_allclose(panels[0, 0].get_array(), samples.view.data[2, 0])
    assert np.ma.getmaskarray(panels[1, 0].get_array())[:2].all()
    np.testing.assert_allclose(panels[0, 1].get_array(), samples.mean["galaxy"].value[2, 0])
    np.testing.assert_allclose(panels[0, 3].get_array(), panels[0, 1].get_array(), rtol=1e-5)
    np.testing.assert_allclose(
        panels[1, 5].get_array().filled(np.nan), samples.residual().mean(0)[0, 0], rtol=1e-6
    )
    for row in panels:  # one stretch a row
        assert len({(p.norm.vmin, p.norm.vmax, p.norm.linear_width) for p in row[:5]}) == 1
    figure.savefig(tmp_path / "demo.png")


def test_separation_by_default_shows_the_first_rows(samples):
    figure = plot_separation(samples)
    assert len(images(figure)) == 3 * 4
    with pytest.raises(InputError, match="rows"):
        plot_separation(samples, rows=[])


def test_separation_refuses_what_is_no_image():
    view = View(np.ones((2, 3)), variance=1.0, mixing={"a": DenseMatrix(np.ones((3, 5)))})
    with pytest.raises(InputError, match="observations of shape"):
        plot_separation(PosteriorSamples({"a": np.zeros((2, 2, 5))}, view))


def test_prior_shows_each_source_in_its_stretch(samples, tmp_path):
    prior = {source: x[:, 0] for source, x in samples.samples.items()}
    figure = plot_prior(prior, n=3, noise=1 * u.uJy)
    assert len(images(figure)) == 2 * 3
    plot_prior({"galaxy": prior["galaxy"].value}).savefig(tmp_path / "prior.png")
    with pytest.raises(InputError, match="'galaxy'"):
        plot_prior({"galaxy": np.zeros((3, 5))})


def test_history_shows_each_column_by_source(tmp_path):
    history = QTable(
        {
            "iteration": [0, 1, 0, 1],
            "source": ["los", "los", "galaxy", "galaxy"],
            "loss": [1.0, 0.5, 2.0, 1.0],
            "time": [1.0, 2.0, 3.0, 4.0] * u.s,
        }
    )
    figure = plot_history(history)
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "time [s]"]
    np.testing.assert_array_equal(figure.axes[1].lines[1].get_ydata(), [3, 4])
    figure.savefig(tmp_path / "history.png")
    plot_history(QTable({"loss": [1.0, 2.0]}))
    with pytest.raises(InputError, match="history"):
        plot_history(history["iteration", "source"])


def test_instruments(pairs, tmp_path):
    view, truth = pairs()
    samples = PosteriorSamples({"galaxy": truth[None] * np.ones((2, 1, 1, 1, 1))}, view)
    figure = plot_instruments(samples, rows=[1, 0], bands={"galaxy": 1, "coarse": 1})
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    three = ["model", "residual, ±4σ"]
    assert titles == ["galaxy", "fine", *three, "coarse", *three]
    shown = images(figure)
    assert len(shown) == 7 + 4  # the fine instrument did not see number 0
    np.testing.assert_allclose(shown[0].get_array(), truth[1, 1], rtol=1e-6)
    np.testing.assert_allclose(shown[4].get_array(), view.images["coarse"].data[1, 1])
    figure.savefig(tmp_path / "instruments.png")
    with pytest.raises(InputError, match="several instruments"):
        plot_separation(samples)


def test_instruments_of_a_single_one(samples):
    figure = plot_instruments(samples)
    assert len(images(figure)) == 3 * 5
    view = View(np.ones((2, 3)), variance=1.0, mixing={"a": DenseMatrix(np.ones((3, 5)))})
    with pytest.raises(InputError, match=r"found images of shape \(5,\)"):
        plot_instruments(PosteriorSamples({"a": np.zeros((2, 2, 5))}, view))


def test_plots_in_an_axis(samples, pairs, tmp_path):
    """Panels lie within the axis that is given, and nothing of the rest of the figure changes."""
    view, truth = pairs()
    history = QTable({"iteration": [0, 1], "source": ["a", "a"], "loss": [2.0, 1.0]})
    figure = Figure(figsize=(12, 8))
    left, right = figure.subplots(1, 2)
    prior = {s: x[0] for s, x in samples.samples.items()}
    for plot, what in (
        (plot_separation, samples),
        (plot_instruments, PosteriorSamples({"galaxy": truth[None]}, view)),
        (plot_prior, prior),
        (plot_history, history),
    ):
        assert plot(what, ax=right) is figure
        panels = right.child_axes
        assert panels
        area = right.get_window_extent()
        for panel in panels:
            box = panel.get_window_extent()
            assert box.x0 >= area.x0 - 1
            assert box.x1 <= area.x1 + 1
            assert box.y0 >= area.y0 - 1
            assert box.y1 <= area.y1 + 1
        assert not left.child_axes
        right.clear()
    assert figure.axes == [left, right]
