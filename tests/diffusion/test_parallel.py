"""Where and how to compute."""

import pytest
import torch

from astro_ddprism.diffusion.parallel import Execution
from astro_ddprism.errors import InputError


@pytest.mark.parametrize(("available", "found"), [(False, "cpu"), (True, "cuda")])
def test_a_gpu_where_there_is_one(monkeypatch, available, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert Execution().torch_device == torch.device(found)
    assert Execution("cpu").torch_device == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "cpu:x", "xpu", "hpu", "xla", "meta"])
def test_unknown_devices_are_refused(device):
    """Those that torch does not know, and those that this machine does not have."""
    with pytest.raises(InputError, match=rf"device: found '{device}', which this machine or torch"):
        _ = Execution(device).torch_device


def test_precision():
    assert Execution().dtype is torch.float32
    assert Execution(precision="bfloat16").dtype is torch.bfloat16
    with pytest.raises(InputError, match="precision: found 'float16', expected one of float32, bf"):
        Execution(precision="float16")


def test_batches():
    assert Execution().n_at_a_time == 128
    assert Execution(batch_size=7).n_at_a_time == 7
    with pytest.raises(InputError, match="batch_size: found 0, expected a number not below 1"):
        Execution(batch_size=0)
