"""What holds for noise of every kind, against dense covariance matrices; and independent noise."""

import numpy as np
import pytest
import scipy.linalg
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import (
    CorrelatedNoise,
    DiagonalNoise,
    LowRankNoise,
    Noise,
    PhotonNoise,
    noise_from_state,
)

BAD = [0.0, -1.0, np.nan, np.inf, -np.inf]
SHAPE = (2, 5, 4)
N = 5
rng = np.random.default_rng(1)
VARIANCE = rng.uniform(0.5, 4, (N, *SHAPE))
MASK = rng.random((N, *SHAPE)) < 0.2
MASK[2:4] = False
VARIANCE[0, 0, 0, :3] = [0, np.nan, np.inf]
PATCH = np.array([[0.1, 0.2, -0.05], [0.3, 1, 0.3], [-0.05, 0.2, 0.1]])
PATTERNS = rng.normal(size=(N, 3, *SHAPE))


def dense_correlation(patch):
    """Correlation matrix of the pixels of one band, entry by entry."""
    ny, nx = SHAPE[1:]
    ry, rx = (n // 2 for n in patch.shape)
    matrix = np.zeros((ny, nx, ny, nx))
    for y, x, v, u in np.ndindex(matrix.shape):
        if abs(y - v) <= ry and abs(x - u) <= rx:
            matrix[y, x, v, u] = patch[y - v + ry, x - u + rx]
    return matrix.reshape(ny * nx, ny * nx)


def kinds():
    """For each kind, noise in float64 and what all its covariance matrices should be."""
    pixels = DiagonalNoise(VARIANCE, MASK, dtype=torch.float64)
    std = np.sqrt(np.where(np.isfinite(VARIANCE), VARIANCE, 0)).reshape(N, -1)
    diagonal = np.stack([np.diag(s**2) for s in std])
    patches = np.stack([PATCH, 0.5 * PATCH])
    patches[:, 1, 1] = 1
    correlation = scipy.linalg.block_diag(*map(dense_correlation, patches))
    correlated = std[:, :, None] * correlation * std[:, None, :]
    shared = dense_correlation(PATCH[1:2])
    shared = std[:, :, None] * scipy.linalg.block_diag(shared, shared) * std[:, None, :]
    U = PATTERNS.reshape(N, 3, -1)
    correlated_noise = CorrelatedNoise(VARIANCE, patches, MASK, dtype=torch.float64)
    return {
        "diagonal": (pixels, diagonal),
        "correlated": (correlated_noise, correlated),
        "correlated along rows": (
            CorrelatedNoise(VARIANCE, PATCH[1:2], MASK, dtype=torch.float64),
            shared,
        ),
        "patterns": (LowRankNoise(pixels, PATTERNS), diagonal + U.mT @ U),
        "one pattern": (
            LowRankNoise(correlated_noise, PATTERNS[0, :1]),
            correlated + U[0, :1].T @ U[0, :1],
        ),
        "photons, in the dark": (
            PhotonNoise(LowRankNoise(pixels, PATTERNS), 3.0),
            diagonal + U.mT @ U,
        ),
    }


@pytest.fixture(params=kinds())
def kind(request):
    return kinds()[request.param]


@pytest.fixture
def noise(kind):
    return kind[0]


def matrices(noise, operation):
    """The dense matrix of an operation for each observation."""
    size = int(np.prod(noise.shape))
    columns = [
        operation(e.reshape(noise.shape).expand(noise.n_observations, *noise.shape)).flatten(1)
        for e in torch.eye(size, dtype=torch.float64)
    ]
    return torch.stack(columns, dim=-1)


def test_covariance(kind):
    """L L^T is the covariance of the valid pixels, and W whitens it, to 1e-12."""
    noise, covariances = kind
    L, W = matrices(noise, noise.colour).numpy(), matrices(noise, noise.whiten).numpy()
    for i, valid in enumerate(noise.valid.flatten(1).numpy()):
        covariance = np.where(np.outer(valid, valid), covariances[i], 0)
        np.testing.assert_allclose(L[i] @ L[i].T, covariance, rtol=0, atol=1e-12)
        np.testing.assert_allclose(W[i] @ covariance @ W[i].T, np.diag(valid), rtol=0, atol=1e-12)
        inverse = np.zeros_like(covariance)
        inverse[np.ix_(valid, valid)] = scipy.linalg.inv(covariance[np.ix_(valid, valid)])
        np.testing.assert_allclose(W[i].T @ W[i], inverse, rtol=0, atol=1e-11)


def test_added_variance(noise, normal):
    """It grows by what was added, and whitening still undoes colouring."""
    more = normal(N, *SHAPE).square()
    grown = noise.added(torch.where(noise.valid, more, torch.nan))
    assert type(grown) is type(noise)
    assert torch.equal(grown.valid, noise.valid)
    torch.testing.assert_close(grown.variance, noise.variance + more, rtol=1e-12, atol=0)
    L = matrices(grown, grown.colour)
    variance = torch.where(noise.valid, grown.variance, 0).flatten(1)
    torch.testing.assert_close((L @ L.mT).diagonal(dim1=1, dim2=2), variance)
    z = torch.where(noise.valid, normal(N, *SHAPE), 0)
    torch.testing.assert_close(grown.whiten(grown.colour(z)), z, rtol=0, atol=1e-12)


def test_only_photons_depend_on_the_signal(noise):
    if not noise.depends_on_signal:
        assert noise.at(torch.ones(N, *SHAPE)) is noise


def test_whiten_adjoint(noise):
    W = matrices(noise, noise.whiten)
    torch.testing.assert_close(matrices(noise, noise.whiten_adjoint), W.mT, rtol=0, atol=1e-13)


def test_adjoint_dot_products(noise, normal):
    r, z = normal(N, *SHAPE), normal(N, *SHAPE)
    left = (noise.whiten(r) * z).flatten(1).sum(1)
    right = (r * noise.whiten_adjoint(z)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_whiten_undoes_colour(noise, normal):
    z = normal(N, *SHAPE)
    expected = torch.where(noise.valid, z, 0)
    torch.testing.assert_close(noise.whiten(noise.colour(z)), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        noise.colour(noise.whiten(z)), torch.where(noise.valid, z, 0), rtol=0, atol=1e-12
    )


def test_no_operation_reads_or_writes_a_bad_pixel(noise, normal):
    n_bad = (~noise.valid).flatten(1).sum(1)
    assert n_bad.tolist()[2:4] == [0, 0]
    assert (n_bad[[0, 1, 4]] > 3).all()
    assert torch.equal(noise.n_valid, 40 - n_bad)
    r = normal(N, *SHAPE)
    bad = torch.where(noise.valid, r, torch.nan)
    for operation in (noise.whiten, noise.whiten_adjoint, noise.colour):
        result = operation(bad)
        assert (result[~noise.valid] == 0).all()
        assert torch.equal(result, operation(r))


def test_gradient_is_the_adjoint(noise, normal):
    r = torch.where(noise.valid, normal(N, *SHAPE), torch.nan).requires_grad_()
    z = normal(N, *SHAPE)
    for operation, adjoint in (
        (noise.whiten, noise.whiten_adjoint),
        (noise.whiten_adjoint, noise.whiten),
    ):
        (gradient,) = torch.autograd.grad((operation(r) * z).sum(), r)
        torch.testing.assert_close(gradient, adjoint(z), rtol=0, atol=1e-12)


def test_variance(kind):
    noise, covariances = kind
    expected = covariances.diagonal(axis1=1, axis2=2).reshape(N, *SHAPE)
    expected = np.where(noise.valid, expected, np.inf)
    np.testing.assert_allclose(noise.variance, expected, rtol=1e-13)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize(
    "index", [[3, 0, 3, 3, 1], slice(None, None, -2), torch.tensor([4, 4]), [-1], MASK[:, 0, 0, 0]]
)
def test_selection(noise, normal, index, used):
    r = normal(N, *SHAPE)
    expected = {name: getattr(noise, name)(r) for name in ("whiten", "whiten_adjoint", "colour")}
    noise = noise if used else noise_from_state(noise.state())
    some = noise[index]
    rows = np.atleast_1d(np.arange(N)[index]).copy()
    assert some.n_observations == len(rows)
    assert torch.equal(some.valid, noise.valid[rows])
    for name, result in expected.items():
        torch.testing.assert_close(getattr(some, name)(r[rows]), result[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_precision(noise, normal, used):
    r = normal(N, *SHAPE)
    expected = noise.whiten(r)
    noise = noise if used else noise_from_state(noise.state())
    single = noise.to("cpu", torch.float32)
    whitened = single.whiten(r.float())
    assert whitened.dtype == torch.float32
    torch.testing.assert_close(whitened.double(), expected, rtol=0, atol=1e-5)
    # Back in float64 only what was stored is rounded, not what is computed from it.
    double = single.to(dtype=torch.float64)
    z = torch.where(noise.valid, r, 0)
    torch.testing.assert_close(double.whiten(double.colour(r)), z, rtol=0, atol=1e-12)


def test_rescaled(noise, normal):
    r = normal(N, *SHAPE)
    for _ in range(2):  # fresh, and with whatever is kept
        scaled = noise.rescaled(3.0)
        torch.testing.assert_close(scaled.whiten(3 * r), noise.whiten(r), rtol=0, atol=1e-13)
        torch.testing.assert_close(scaled.colour(r), 3 * noise.colour(r), rtol=0, atol=1e-13)
        torch.testing.assert_close(scaled.variance, 9 * noise.variance)


def test_masked(kind, normal):
    noise, covariances = kind
    r = normal(N, *SHAPE)
    noise.whiten(r)
    more = np.zeros((N, *SHAPE), bool)
    more[3, 1, 2] = True
    masked = noise.masked(more)
    assert torch.equal(masked.valid, noise.valid & ~torch.as_tensor(more))
    assert torch.equal(masked.whiten(r)[:3], noise.whiten(r)[:3])
    valid = masked.valid[3].flatten().numpy()
    residual = r[3].flatten().numpy()[valid]
    expected = residual @ scipy.linalg.solve(covariances[3][np.ix_(valid, valid)], residual)
    np.testing.assert_allclose(masked.whiten(r)[3].square().sum(), expected, rtol=1e-11)
    with pytest.raises(InputError, match="mask: found shape"):
        noise.masked(more[0])


def test_state_round_trip(noise, normal):
    state = noise.state()
    again = noise_from_state(state)
    assert type(again) is type(noise)
    assert repr(again) == repr(noise)
    r = normal(N, *SHAPE)
    assert torch.equal(again.valid, noise.valid)
    for name in ("whiten", "whiten_adjoint", "colour"):
        assert torch.equal(getattr(again, name)(r), getattr(noise, name)(r))
    single = noise.to(dtype=torch.float32).rescaled(1e-25)  # its variances are not in float32
    again = noise_from_state(single.state())
    torch.testing.assert_close(
        again.whiten(r.float()), single.whiten(r.float()), rtol=1e-5, atol=1e19
    )


def test_state_is_plain(noise):
    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            for one in value.values():
                check(one)
        else:
            assert isinstance(value, str | int | float | np.ndarray)

    check(noise.state())


def test_wrong_shape(noise, normal):
    with pytest.raises(ValueError, match=r"Noise: found shape .* expected \(5, 2, 5, 4\)"):
        noise.whiten(normal(1, *SHAPE))


def test_a_new_kind_is_found_by_its_name():
    class DoubledNoise(DiagonalNoise):
        def state(self):
            return {**super().state(), "noise": "DoubledNoise"}

    noise = noise_from_state(DoubledNoise([[1.0]]).state())
    assert isinstance(noise, DoubledNoise)
    assert isinstance(noise, Noise)


def test_a_second_kind_of_a_name_is_refused():
    state = DiagonalNoise([[1.0]]).state()
    with pytest.raises(InputError, match=r"^noise 'DiagonalNoise': found .* beside astro_ddprism"):
        type("DiagonalNoise", (DiagonalNoise,), {"__module__": "theirs"})
    assert type(noise_from_state(state)) is DiagonalNoise


@pytest.mark.parametrize("state", [{"noise": "Nothing"}, {}])
def test_unknown_noise(state):
    with pytest.raises(InputError, match=r"noise: found .*, expected one of .*DiagonalNoise"):
        noise_from_state(state)


class TestDiagonalNoise:
    @pytest.fixture
    def noise(self):
        variance = np.full((3, 7), 4.0)
        variance[0, :5] = BAD
        mask = np.zeros((3, 7), bool)
        mask[1, 0] = True
        return DiagonalNoise(variance, mask, dtype=torch.float64)

    def test_pixels_without_information(self, noise):
        assert noise.n_valid.tolist() == [2, 6, 7]
        assert (noise.n_observations, noise.shape) == (3, (7,))
        r = torch.full((3, 7), 6.0, dtype=torch.float64)
        r[0, :5] = torch.tensor([np.nan, np.inf, -np.inf, 1e300, 1.0])
        r[1, 0] = torch.nan
        for operation, expected in ((noise.whiten, 3.0), (noise.colour, 12.0)):
            result = operation(r)
            assert (result[~noise.valid] == 0).all()
            assert (result[noise.valid] == expected).all()

    def test_gradient_at_bad_pixels_is_zero(self, noise):
        r = torch.full((3, 7), torch.nan, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(noise.whiten(r).sum(), r)
        assert torch.equal(gradient, noise.weight)

    def test_selection_and_precision(self, noise):
        some = noise[[2, 0, 0]].to(dtype=torch.float32)
        assert some.n_valid.tolist() == [7, 2, 2]
        assert some.std.dtype == some.weight.dtype == torch.float32
        assert some.valid.dtype == torch.bool
        assert noise[1:].n_observations == 2
        assert repr(some) == "<DiagonalNoise (7,), 3 observations>"

    def test_coloured_noise_has_the_variance(self):
        variance = torch.tensor([0.25, 9.0]).expand(100_000, 2)
        z = torch.randn(variance.shape, generator=torch.Generator().manual_seed(3))
        # The standard error of a variance is sqrt(2 / n) of it: 0.45 %.
        torch.testing.assert_close(
            DiagonalNoise(variance).colour(z).var(0), variance[0], rtol=0.02, atol=0
        )

    def test_mask_of_another_shape(self):
        with pytest.raises(InputError, match=r"mask: found shape \(2,\), expected .* \(3, 2\)"):
            DiagonalNoise(np.ones((3, 2)), np.zeros(2, bool))
