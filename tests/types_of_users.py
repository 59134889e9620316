"""A user's program, which mypy checks and nobody runs."""

from pathlib import Path
from typing import assert_type

import numpy as np

from astro_ddprism import (
    DiffusionSourceSeparator,
    GaussianSourceSeparator,
    InputError,
    MultiViewDataset,
    PosteriorSamples,
    View,
)
from astro_ddprism.views.base import Observations


def program() -> None:
    views = MultiViewDataset.read(Path("views.asdf"))
    assert_type(views, MultiViewDataset)
    assert_type(views["galaxy"], Observations)
    separator = DiffusionSourceSeparator(sources=("los", "galaxy"), seed=1, n_em_iterations=2)
    assert_type(separator.fit(views), DiffusionSourceSeparator)
    assert_type(GaussianSourceSeparator().fit(views), GaussianSourceSeparator)
    assert_type(DiffusionSourceSeparator.read("kids-r"), DiffusionSourceSeparator)
    assert_type(separator.sources_, tuple[str, ...])
    assert_type(PosteriorSamples.read("separated.fits"), PosteriorSamples)
    samples = separator.sample(views, n_samples=4)
    assert_type(samples, PosteriorSamples)
    assert_type(samples["a"], PosteriorSamples)
    assert_type(samples.n_samples, int)
    assert_type(samples.chi2, np.ndarray)
    try:
        View(np.ones((1, 2)), variance=1.0, mixing={})
    except InputError as error:
        message: str = str(error)
        assert message
