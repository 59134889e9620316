import numpy as np
import pytest
import torch

from astro_ddprism.errors import InputError
from astro_ddprism.mixing import Amplitude, Identity, Mask


def test_identity(normal):
    x = normal(3, 2, 4)
    assert torch.equal(Identity((2, 4))(x), x)


def test_amplitude_per_observation(normal):
    x, a = normal(3, 2, 4), np.array([1.0, -2.0, 0.0])
    expected = x.numpy() * a[:, None, None]
    result = Amplitude(a, (2, 4), dtype=torch.float64)(x)
    np.testing.assert_array_equal(result, expected)


def test_shared_amplitude_takes_any_batch(normal):
    half = Amplitude(0.5, (4,), dtype=torch.float64)
    for n in (1, 7):
        x = normal(n, 4)
        assert torch.equal(half(x), x / 2)


@pytest.mark.parametrize("amplitude", [[[1.0]], [1.0, np.nan], np.inf])
def test_bad_amplitude(amplitude):
    with pytest.raises(InputError, match="amplitude: found"):
        Amplitude(amplitude, (4,))


def test_mask_reads_no_bad_pixel():
    bad = np.array([[True, False], [False, True]])
    x = torch.tensor([[torch.nan, 1.0], [2.0, torch.inf]])
    assert Mask(bad, (2,))(x).tolist() == [[0, 1], [2, 0]]
    # Without a shape, all axes belong to the pixels.
    assert Mask(bad).n_observations is None
    assert Mask(bad)(x[None]).tolist() == [[[0, 1], [2, 0]]]


def test_mask_stays_boolean():
    assert Mask([True, False]).to(dtype=torch.float64).mask.dtype == torch.bool


def test_bad_mask():
    with pytest.raises(InputError, match=r"mask: found shape \(3, 2\), expected \(3,\)"):
        Mask(np.zeros((3, 2), bool), (3,))
    with pytest.raises(InputError, match=r"mask: found type .*float.*, expected bool"):
        Mask(np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"mask: found type .*int.*, expected bool"):
        Mask(torch.zeros(3, 2, dtype=torch.int64))
