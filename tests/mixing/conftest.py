import pytest
import torch


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(20)


@pytest.fixture
def normal(rng):
    """Standard normal tensors in float64."""
    return lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.fixture
def check_adjoint(normal):
    """<A x, y> = <x, A^T y> to 1e-12 of the norms, for random x and y in float64."""

    def check(operator, batch=4):
        n = operator.n_observations or batch
        x, y = normal(n, *operator.source_shape), normal(n, *operator.observation_shape)
        Ax, Aty = operator(x), operator.adjoint(y)
        assert Ax.shape == y.shape
        assert Aty.shape == x.shape
        assert Ax.dtype == Aty.dtype == torch.float64
        # Observation by observation, so that no light of one goes to another.
        left = (Ax * y).flatten(1).sum(1)
        right = (x * Aty).flatten(1).sum(1)
        scale = Ax.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
        assert ((left - right).abs() <= 1e-12 * scale).all()

    return check


@pytest.fixture
def check_selection(normal):
    """operator[index] does with x[index] what the operator does with x, for every kind of index."""

    def check(operator, n=5, atol=1e-13):
        x, y = normal(n, *operator.source_shape), normal(n, *operator.observation_shape)
        Ax, Aty = operator(x), operator.adjoint(y)
        for index in (
            [3, 0, 3, 3],
            torch.tensor([4, 4, 1]),
            slice(1, None, 2),
            slice(None, None, -1),
            torch.tensor([True, False, True, False, False]).numpy(),
            [-1],
        ):
            rows = torch.as_tensor(list(range(n))[index] if isinstance(index, slice) else index)
            selected = operator[index]
            if operator.n_observations is None:
                assert selected is operator
            else:
                assert selected.n_observations == len(Ax[rows])
            torch.testing.assert_close(selected(x[rows]), Ax[rows], rtol=0, atol=atol)
            torch.testing.assert_close(selected.adjoint(y[rows]), Aty[rows], rtol=0, atol=atol)

    return check
