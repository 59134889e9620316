import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import (
    Amplitude,
    Composition,
    Convolution,
    DenseMatrix,
    Identity,
    Mask,
    MixingOperator,
    operator_from_state,
)

SHAPE = (2, 5, 6)


def operators(normal):
    psf = normal(5, 2, 3, 3)
    return {
        "identity": Identity(SHAPE),
        "amplitude": Amplitude(normal(5), SHAPE),
        "one amplitude": Amplitude(0.3, SHAPE, dtype=torch.float64),
        "mask": Mask(normal(5, *SHAPE) > 0, SHAPE),
        "one mask": Mask(normal(*SHAPE) > 0),
        "psf": Convolution(psf, SHAPE),
        "one psf": Convolution(psf[0, 0], SHAPE),
        "matrices": DenseMatrix(normal(5, 60, 7), observation_shape=SHAPE),
        "one matrix": DenseMatrix(normal(60, 60), SHAPE, SHAPE),
        "all": Composition(
            Mask(normal(*SHAPE) > 0),
            Amplitude(normal(5), SHAPE),
            Convolution(psf, SHAPE),
            DenseMatrix(normal(60, 7), observation_shape=SHAPE),
        ),
    }


@pytest.fixture(params=operators(lambda *shape: torch.zeros(shape)))
def operator(request, normal):
    return operators(normal)[request.param]


def test_adjoint(operator, check_adjoint):
    check_adjoint(operator)


def test_selection(operator, check_selection):
    check_selection(operator)


def test_linear(operator, normal):
    x, z = normal(5, *operator.source_shape), normal(5, *operator.source_shape)
    torch.testing.assert_close(
        operator(2 * x - z), 2 * operator(x) - operator(z), rtol=0, atol=1e-12
    )


def test_state_round_trip(operator, normal):
    state = operator.state()
    again = operator_from_state(state)
    assert type(again) is type(operator)
    assert again.n_observations == operator.n_observations
    assert repr(again) == repr(operator)
    x = normal(5, *operator.source_shape)
    assert torch.equal(again(x), operator(x))  # float64 stays float64


def test_state_is_plain(operator):
    def check(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                check(one)
        else:
            assert isinstance(value, str | int | float | np.ndarray)

    check(operator.state())


def test_precision(operator, normal):
    x = normal(5, *operator.source_shape)
    single = operator.to(dtype=torch.float32)(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), operator(x), rtol=1e-5, atol=1e-4)


def test_gradient_is_the_adjoint(operator, normal):
    x = normal(5, *operator.source_shape).requires_grad_()
    y = normal(5, *operator.observation_shape)
    (gradient,) = torch.autograd.grad((operator(x) * y).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(y), rtol=0, atol=1e-12)


def test_float32_by_default():
    x = torch.ones(3, 2)
    assert Amplitude(np.array([1.0, 2.0, 3.0]), (2,))(x).dtype == torch.float32
    assert DenseMatrix(np.eye(2))(x).dtype == torch.float32
    assert Amplitude(torch.tensor([1, 2, 3]), (2,))(x).dtype == torch.float32


def test_arrays_as_fits_gives_them():
    matrix = np.arange(6.0).reshape(2, 3).astype(">f4")
    matrix.flags.writeable = False
    x = torch.tensor([[1.0, 1.0, 1.0]])
    assert DenseMatrix(matrix)(x).tolist() == [[3.0, 12.0]]


@pytest.mark.parametrize("shape", [(4, *SHAPE), (6, *SHAPE), (5, 2, 5, 5), (5, 5, 6)])
def test_wrong_shapes(normal, shape):
    operator = Amplitude(normal(5), SHAPE)
    with pytest.raises(ValueError, match=r"Amplitude: source has shape .* expected \(5, 2, 5, 6\)"):
        operator(normal(*shape))
    with pytest.raises(ValueError, match="Amplitude: observation has shape"):
        operator.adjoint(normal(*shape))


def test_a_new_operator_is_found_by_its_name():
    class Negative(MixingOperator):
        n_observations = None

        def __init__(self, shape):
            self.source_shape = self.observation_shape = tuple(shape)

        def _apply(self, x):
            return -x

        _apply_adjoint = _apply

        def state(self):
            return {"operator": "Negative", "shape": list(self.source_shape)}

    negative = operator_from_state(Negative((2,)).state())
    assert isinstance(negative, Negative)
    assert negative(torch.ones(1, 2)).tolist() == [[-1, -1]]


def test_a_second_operator_of_a_name_is_refused(normal):
    state = Amplitude(normal(5), SHAPE).state()
    message = r"^mixing operator 'Amplitude': found .*<locals>\.Amplitude beside astro_ddprism\..*"
    with pytest.raises(InputError, match=message):
        type("Amplitude", (Amplitude,), {"__qualname__": "f.<locals>.Amplitude"})
    assert type(operator_from_state(state)) is Amplitude


@pytest.mark.parametrize("state", [{"operator": "Nothing"}, {}])
def test_unknown_operator(state):
    with pytest.raises(InputError, match=r"found .*, expected one of .*Convolution"):
        operator_from_state(state)
