"""Views of a few numbers and of small images, what was learned of them, and fits that end early."""

from contextlib import contextmanager

import numpy as np
import pytest
from astropy import units as u

from astro_ddprism import DiffusionSourceSeparator, MultiViewDataset, View
from astro_ddprism.io.asdf import write_tree
from astro_ddprism.mixing import Convolution, Identity
from astro_ddprism.separator import base

FLAT = {
    "device": "cpu",
    "progress": False,
    "network": {"name": "mlp", "width": 16, "depth": 1, "embedding": 8},
    "n_em_iterations": 1,
    "training": {"n_first_images": 640, "n_images": 320},
    "chains": {"n_steps": 4},
    "execution": {"batch_size": 16},
    "warm_start": {"name": "gaussian", "iterations": 2},
}
IMAGING = FLAT | {
    "network": {"name": "unet", "channels": [4, 8], "blocks": [1, 1], "embedding": 8},
    "training": {"n_first_images": 640, "n_images": 160},
}
AMORTIZING = IMAGING | {
    "posterior": {
        "name": "amortized",
        "network": {"name": "unet", "channels": [4], "blocks": [1], "embedding": 8},
        "n_images": 960,
        "flux_factors": {"galaxy": [0.5, 2]},
    },
    "chains": {"n_steps": 4, "max_chi2": 5.0},
}
UNIT = u.uJy
SHAPE = (1, 8, 8)


@pytest.fixture
def flat():
    """Parameters for vectors."""
    return dict(FLAT)


@pytest.fixture
def imaging():
    """Parameters for images."""
    return dict(IMAGING)


@pytest.fixture
def amortizing():
    """Parameters for images, with an amortized posterior."""
    return dict(AMORTIZING)


def make_flat_views(n=24, size=2, **held):
    """Views of sources with means of their own, in microjansky, of noise 0.5."""
    rng = np.random.default_rng(1)
    means = {"a": 2.0, "b": -3.0, "c": 5.0}
    data = {
        name: sum(rng.normal(means[s], 1, (n, size)) for s in sources)
        + rng.normal(0, 0.5, (n, size))
        for name, sources in held.items()
    }
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": data[name] * UNIT,
                "variance": 0.25 * UNIT**2,
                "mixing": {s: np.eye(size) for s in sources},
            }
            for name, sources in held.items()
        }
    )


def make_image_views(psf=False, n=12, masked=True):
    """Noise at random positions; a blob in the centre of galaxies; one masked pixel, or none."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:8, :8] - 3.5
    blob = 5 * np.exp(-(x**2 + y**2) / 4)
    operator = Convolution(make_kernel(), SHAPE) if psf else Identity(SHAPE)
    mask = np.zeros((n, *SHAPE), dtype=bool)
    mask[:, 0, 1, 2] = masked
    views = {"random": ("los",), "galaxy": ("los", "galaxy")}
    return MultiViewDataset.from_arrays(
        {
            name: {
                "data": rng.normal(len(sources) * blob - blob, 1.2, (n, *SHAPE)) * UNIT,
                "variance": 1.0 * UNIT**2,
                "mask": mask,
                "mixing": dict.fromkeys(sources, operator),
            }
            for name, sources in views.items()
        }
    )


def make_kernel():
    y, x = np.mgrid[-2:3, -2:3]
    kernel = np.exp(-(x**2 + y**2) / 2)
    return kernel / kernel.sum()


@pytest.fixture
def kernel():
    """A PSF of 5 x 5 pixels."""
    return make_kernel()


@pytest.fixture
def flat_views():
    """Function that makes views of vectors."""
    return make_flat_views


@pytest.fixture
def image_views():
    """Function that makes views of images."""
    return make_image_views


@pytest.fixture
def in_unit():
    """Function that gives a view another unit."""

    def convert(view, unit):
        factor = UNIT.to(unit)
        return View(
            view.data * factor,
            variance=view.variance * factor**2,
            mask=view.mask,
            mixing=view.mixing,
            unit=unit,
            name=view.name,
        )

    return convert


@pytest.fixture(scope="session")
def views():
    return make_flat_views(first="a", second="ab")


@pytest.fixture(scope="session")
def fitted(views):
    return DiffusionSourceSeparator(**FLAT).fit(views)


@pytest.fixture(scope="session")
def images():
    return make_image_views()


@pytest.fixture(scope="session")
def fitted_images(images):
    return DiffusionSourceSeparator(sources=("los", "galaxy"), **IMAGING).fit(images)


@pytest.fixture(scope="session")
def whole_images():
    """Without a masked pixel: such observations are not left to moment matching."""
    return make_image_views(masked=False)


@pytest.fixture(scope="session")
def amortized(whole_images):
    return DiffusionSourceSeparator(**AMORTIZING).fit(whole_images)


@pytest.fixture
def model(fitted, tmp_path):
    path = tmp_path / "model.asdf"
    fitted.write(path)
    return path


@pytest.fixture
def draws_of():
    """Function that draws two posterior samples of each source."""

    def draw(separator, view, **options):
        samples = separator.sample(view, 2, **options).samples
        return {source: x.value for source, x in samples.items()}

    return draw


@pytest.fixture
def assert_same():
    """Function that compares draws to the last bit."""

    def compare(draws, others):
        assert list(draws) == list(others)
        for source, x in draws.items():
            np.testing.assert_array_equal(x, others[source])

    return compare


class Killed(Exception):  # noqa: N818
    """In place of a signal."""


@pytest.fixture
def killed(monkeypatch):
    """Context in which the n-th write of a checkpoint is the last, done or not."""

    @contextmanager
    def killed(n, before=False):
        count = 0

        def write(*args, **options):
            nonlocal count
            count += 1
            if count == n and before:
                raise Killed
            write_tree(*args, **options)
            if count == n:
                raise Killed

        monkeypatch.setattr(base, "write_tree", write)
        with pytest.raises(Killed):
            yield
        monkeypatch.setattr(base, "write_tree", write_tree)

    return killed
