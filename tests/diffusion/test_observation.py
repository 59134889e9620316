"""The whitened observation against dense matrices."""

import numpy as np
import pytest
import torch

from astro_ddprism.diffusion.observation import JointObservation


@pytest.mark.parametrize("psf", [False, True], ids=["matrices", "psf"])
@pytest.mark.parametrize("n_sources", [1, 2, 3])
def test_against_dense_matrices(linear_problem, n_sources, psf):
    problem = linear_problem(n_sources, psf)
    observation = problem.observation()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, problem.matrices.shape[2]))
    r = rng.normal(size=problem.y.shape)
    whitened = np.sqrt(problem.weights)[..., None] * problem.matrices
    expected = (whitened @ x[..., None])[..., 0]
    np.testing.assert_allclose(observation.forward(torch.tensor(x)), expected, atol=1e-12)
    expected = (whitened.swapaxes(1, 2) @ r[..., None])[..., 0]
    np.testing.assert_allclose(observation.adjoint(torch.tensor(r)), expected, atol=1e-12)


@pytest.mark.parametrize("psf", [False, True])
def test_masked_pixels_say_nothing(linear_problem, psf):
    """They hold NaN in the view, and are zero in all that is computed from it."""
    problem = linear_problem(2, psf)
    observation = problem.observation()
    expected = np.where(problem.mask, 0, problem.y / np.sqrt(problem.variance))
    np.testing.assert_allclose(observation.y, expected, rtol=1e-6)
    x = torch.ones(2, 24, dtype=torch.float64)
    assert (observation.forward(x)[torch.tensor(problem.mask)] == 0).all()
    np.testing.assert_array_equal(observation.n_valid, (~problem.mask).sum(axis=1))


def test_chi2(linear_problem):
    problem = linear_problem(2, psf=True)
    x = np.random.default_rng(2).normal(size=(2, 24))
    residual = problem.y - (problem.matrices @ x[..., None])[..., 0]
    expected = (residual**2 * problem.weights).sum(axis=1) / (~problem.mask).sum(axis=1)
    found = problem.observation().chi2(torch.tensor(x))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_split_and_join(linear_problem):
    problem = linear_problem(3, psf=True)
    observation = problem.observation(2)
    assert len(observation) == 4
    x = torch.randn(4, 36, generator=torch.Generator().manual_seed(3))
    parts = observation.split(x)
    assert [part.shape for part in parts] == 3 * [(4, 1, 3, 4)]
    assert torch.equal(observation.join(parts), x)
    assert torch.equal(parts[1].flatten(1), x[:, 12:24])


def test_sources_that_a_view_does_not_hold(linear_problem):
    problem = linear_problem(1, psf=True)
    shapes = {"before": (5,), **problem.source_shapes, "after": (2, 3)}
    observation = JointObservation(problem.view.batch(dtype=torch.float64), shapes)
    alone = problem.observation()
    x = torch.randn(2, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    assert torch.equal(observation.forward(x), alone.forward(x[:, 5:17]))
    back = observation.adjoint(observation.y)
    assert torch.equal(back[:, 5:17], alone.adjoint(alone.y))
    assert (back[:, :5] == 0).all()
    assert (back[:, 17:] == 0).all()


def test_repeated_observations(linear_problem):
    """Chains of one observation see the same."""
    problem = linear_problem(2, psf=False)
    once, often = problem.observation(), problem.observation(3)
    x = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(
        often.forward(x.repeat_interleave(3, dim=0)), once.forward(x).repeat_interleave(3, dim=0)
    )
