r"""Problems whose answer is known: vectors on random smooth curves, mixed and observed in part.

A source is a point of a curve in :math:`D` dimensions, at a place :math:`z` drawn uniformly from
[0, 1]. Each of its coordinates is a short series of sines with a power-law spectrum [1]_,

.. math:: x_d(z) \propto \sum_{k=1}^{K} k^{-\alpha} a_{dk} \sin 2 \pi (k b_{dk} z + c_{dk}),
    \qquad K = \lceil 10^{3 / \alpha} \rceil,

:math:`a, b, c` uniform in [0, 1], scaled so that it spans [-2, 2]. What is seen are :math:`M < D`
linear combinations of the sum of all sources of a view, other combinations in each observation,

.. math:: y_i = A_i \sum_s c_{vs} x_{is} + \epsilon_i, \qquad \epsilon_i \sim N(0, \sigma^2 I),

where the rows of :math:`A_i` have random directions and unit length. Problems differ in
:math:`c` [2]_:

* *contrastive*: view ``v`` holds sources 1 to ``v`` with weight 1 and no other;
* *mixed*: every view holds all, its own with weight 1 and the others with weight ``f``.

The published data sets are read from files, problems of any other size are generated. In the
published contrastive problem all views have the same :math:`x_i`, :math:`A_i` and even
:math:`\epsilon_i`, so that differences of views would be free of noise: views are to be used as
sets of observations that have nothing to do with each other, which generated ones are.

References
----------
.. [1] F. Zenke, T. Vogels, *The remarkable robustness of surrogate gradient learning for instilling
   complex function in spiking neural networks*, Neural Computation 33, 899 (2021); as a test of
   priors learned from observations: F. Rozet et al., arXiv:2405.13712.
.. [2] S. Wagner-Carena et al., *A data-driven prism: multi-view source separation with diffusion
   model priors*, arXiv:2510.05205.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astro_ddprism import MultiViewDataset

__all__ = [
    "ManifoldProblem",
    "ManifoldView",
    "RandomCurve",
    "data_folder",
    "generate_contrastive",
    "generate_mixed",
    "load_contrastive",
    "load_mixed",
    "to_dataset",
]


@dataclass(frozen=True)
class ManifoldView:
    """Observations of one view.

    Parameters
    ----------
    y : ndarray, shape (n, M)
        The observations.
    mixing : dict of str to ndarray, shape (n, M, D)
        For each source that the view holds its matrices, weight included.
    truth : ndarray of int, shape (n,)
        Rows of `ManifoldProblem.x` that the observations were made of.
    """

    y: np.ndarray
    mixing: dict[str, np.ndarray]
    truth: np.ndarray

    def __len__(self):
        return len(self.y)


@dataclass(frozen=True)
class ManifoldProblem:
    """Views of several sources, and the truth about them.

    Parameters
    ----------
    name : str
        Such as ``contrastive-2`` or ``mixed-0.1``.
    x : ndarray, shape (N, S, D)
        Samples of all sources. ``x[view.truth]`` is the truth of a view; rows that no view points
        to are further samples of the same curves.
    sources : tuple of str
        Names along the second axis of ``x``.
    views : dict of str to ManifoldView
        The observations.
    noise_std : float
        Standard deviation of the noise.
    """

    name: str
    x: np.ndarray
    sources: tuple[str, ...]
    views: dict[str, ManifoldView]
    noise_std: float

    def truth(self, view: str) -> dict[str, np.ndarray]:
        """For each source of a view the truth of its observations, shape (n, D)."""
        chosen = self.views[view]
        return {s: self.x[chosen.truth, self.sources.index(s)] for s in chosen.mixing}


def to_dataset(problem: ManifoldProblem) -> MultiViewDataset:
    """What a separator learns from: observations, noise and mixing, and nothing of the truth."""
    return MultiViewDataset.from_arrays(
        {
            name: {"data": view.y, "variance": problem.noise_std**2, "mixing": view.mixing}
            for name, view in problem.views.items()
        }
    )


def data_folder() -> Path:
    """Folder of the published data sets: ``manifolds`` in that of the shared data.

    The environment variable ``ASTRO_DDPRISM_DATA`` names the latter; by default it is
    ``shared/data`` beside the project.
    """
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("ASTRO_DDPRISM_DATA", default)) / "manifolds"


def load_contrastive(n=None, *, n_sources=2, folder=None) -> ManifoldProblem:
    """Read the published contrastive problem.

    Parameters
    ----------
    n : int, optional
        Observations of each view: the first ``n`` of the file; by default all 65,536. The others'
        truth remains in `ManifoldProblem.x`.
    n_sources : int, optional
        2 or 3: how many sources and views.
    folder : path-like, optional
        Where ``contrastive.npz`` lies, by default `data_folder`.

    Returns
    -------
    problem : ManifoldProblem

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    """
    data = _read(folder, "contrastive.npz")
    x = data["x"][:, :n_sources]
    rows = np.arange(len(x))[:n]
    return ManifoldProblem(
        name=f"contrastive-{n_sources}",
        x=x,
        sources=_names("source", n_sources),
        views={
            name: _view(data["y"][rows, v], data["A"][rows, None], weights, rows)
            for v, (name, weights) in enumerate(_contrastive(n_sources).items())
        },
        noise_std=0.01,
    )


def load_mixed(n=None, *, folder=None) -> ManifoldProblem:
    """Read the published mixed problem, of weight ``f`` = 0.1.

    Parameters
    ----------
    n : int, optional
        Observations of each view, by default all 65,536. Observation ``j`` of each view was made
        with the same matrix, from sources of its own.
    folder : path-like, optional
        Where ``mixed_0.1.npz`` lies, by default `data_folder`.

    Returns
    -------
    problem : ManifoldProblem

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    """
    data = _read(folder, "mixed_0.1.npz")
    A = data["A"][:n]
    rows = np.arange(len(data["y"])).reshape(-1, 2)[:n]
    return ManifoldProblem(
        name="mixed-0.1",
        x=data["x"],
        sources=_names("source", 2),
        views={
            name: _view(data["y"][rows[:, v]], A[:, None], weights, rows[:, v])
            for v, (name, weights) in enumerate(_by_view(data["c"]).items())
        },
        noise_std=0.01,
    )


def generate_contrastive(n, n_sources=2, *, seed, **options) -> ManifoldProblem:
    """A contrastive problem of any size.

    Parameters
    ----------
    n : int
        Observations of each view.
    n_sources : int, optional
        How many sources and views.
    seed : int
        The same seed gives the same problem.
    **options
        ``dimension`` of a source (5), ``n_observed`` elements of an observation (3), ``noise_std``
        (0.01), ``smoothness`` of each source's curve (3, 4, 5, ...), ``n_spare``, how many samples
        to add to ``x`` that no observation was made of (32,768), and ``own_operators``, whether
        every source has a matrix of its own in each observation (False).

    Returns
    -------
    problem : ManifoldProblem
        No two observations have a sample, a matrix or noise in common.
    """
    views = _contrastive(n_sources)
    return _generate(f"contrastive-{n_sources}", views, n, n_sources, seed, **options)


def generate_mixed(n, n_sources=2, *, f, seed, **options) -> ManifoldProblem:
    """A mixed problem of any size and weight.

    Parameters
    ----------
    n : int
        Observations of each view.
    n_sources : int, optional
        How many sources and views.
    f : float
        Weight of a source in the views that are not its own: 0, no mixing, to 1, views that are
        all alike.
    seed, **options
        As for `generate_contrastive`.

    Returns
    -------
    problem : ManifoldProblem
        No two observations have a sample, a matrix or noise in common.
    """
    views = _by_view(f + (1 - f) * np.eye(n_sources))
    return _generate(f"mixed-{f:g}", views, n, n_sources, seed, **options)


class RandomCurve:
    """A random smooth curve that spans [-2, 2] along each axis.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of its coefficients.
    dimension : int
        How many coordinates it has.
    smoothness : float
        The exponent of its spectrum.
    """

    def __init__(self, rng, dimension: int, smoothness: float):
        k = np.arange(1.0, math.ceil(10 ** (3 / smoothness)) + 1)
        a, b, self._phase = rng.random((3, dimension, len(k)))
        self._amplitude, self._frequency = a * k**-smoothness, b * k
        dense = self._series(np.linspace(0, 1, 65_536))
        low, high = dense.min(0), dense.max(0)
        self._centre, self._scale = (low + high) / 2, (high - low) / 4

    def __call__(self, z):
        """Points at places ``z`` (n,) in [0, 1], shape (n, dimension)."""
        return (self._series(z) - self._centre) / self._scale

    def _series(self, z):
        waves = np.zeros((len(z), len(self._phase)))
        terms = zip(self._amplitude.T, self._frequency.T, self._phase.T, strict=True)
        for amplitude, frequency, phase in terms:
            waves += amplitude * np.sin(2 * np.pi * (np.outer(z, frequency) + phase))
        return waves


def _generate(
    name,
    weights,
    n,
    n_sources,
    seed,
    *,
    dimension=5,
    n_observed=3,
    noise_std=0.01,
    smoothness=None,
    n_spare=32_768,
    own_operators=False,
) -> ManifoldProblem:
    """Draw curves, samples, matrices and noise, in this order, each from a stream of its own."""
    rngs = [np.random.default_rng((seed, stream)) for stream in range(4)]
    smoothness = range(3, 3 + n_sources) if smoothness is None else smoothness
    curves = [
        RandomCurve(rngs[0], dimension, s)
        for _, s in zip(_names("", n_sources), smoothness, strict=True)
    ]
    n_rows = n * len(weights)
    x = np.stack([curve(rngs[1].random(n_rows + n_spare)) for curve in curves], 1)
    n_operators = n_sources if own_operators else 1
    A = rngs[2].normal(size=(n_rows, n_operators, n_observed, dimension))
    A /= np.linalg.norm(A, axis=-1, keepdims=True)
    noise = noise_std * rngs[3].normal(size=(n_rows, n_observed))
    views = {}
    for v, (view, of_sources) in enumerate(weights.items()):
        rows = slice(v * n, (v + 1) * n)
        seen = np.broadcast_to(A[rows], (n, n_sources, *A.shape[2:]))
        y = np.einsum("nsij,s,nsj->ni", seen, of_sources, x[rows], optimize=True) + noise[rows]
        views[view] = _view(
            y.astype(np.float32), A[rows].astype(np.float32), of_sources, np.arange(n_rows)[rows]
        )
    return ManifoldProblem(
        name, x.astype(np.float32), _names("source", n_sources), views, float(noise_std)
    )


def _view(y, A, weights, truth) -> ManifoldView:
    """A view of what has a weight in it; ``A`` is (n, S, M, D), or of one matrix for all."""
    names = _names("source", len(weights))
    operators = [A[:, min(s, A.shape[1] - 1)] for s in range(len(weights))]
    mixing = {
        source: own if w == 1 else np.float32(w) * own
        for source, own, w in zip(names, operators, weights, strict=True)
        if w
    }
    return ManifoldView(y, mixing, truth)


def _contrastive(n_sources: int) -> dict:
    return _by_view(np.tri(n_sources))


def _by_view(weights) -> dict:
    """Rows of a matrix of weights (views, sources), by the names of the views."""
    return dict(zip(_names("view", len(weights)), weights, strict=True))


def _names(what: str, n: int) -> tuple[str, ...]:
    return tuple(f"{what} {k}" for k in range(1, n + 1))


def _read(folder, name: str) -> dict:
    """All arrays of a published file."""
    path = Path(data_folder() if folder is None else folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not found; ASTRO_DDPRISM_DATA names the folder that 'manifolds' lies in"
        )
    with np.load(path) as data:
        return dict(data)
