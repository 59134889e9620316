"""Where and how to compute."""

from types import SimpleNamespace

import pytest
import torch

from astro_ddprism.diffusion import parallel
from astro_ddprism.diffusion.networks import MLP, UNet
from astro_ddprism.diffusion.parallel import Execution, in_pieces
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


def test_precision(monkeypatch):
    unet, mlp = UNet((4,), (1,)).build((1, 8, 8), 2), MLP(width=8).build((3,), 2)
    for network in (unet, mlp):
        assert Execution("cpu").dtype_of(network) is torch.float32
        for name in ("float32", "bfloat16"):
            assert Execution("cpu", name).dtype_of(network) is getattr(torch, name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _, able=able: able)
        assert Execution().dtype_of(unet) is (torch.bfloat16 if able else torch.float32)
        assert Execution().dtype_of(mlp) is torch.float32
    with pytest.raises(InputError, match="precision: found 'float16', expected one of auto, fl"):
        Execution(precision="float16")


def test_batches():
    assert Execution().n_at_a_time == 128
    assert Execution(batch_size=7).n_at_a_time == Execution(batch_size=7).n_for(2048) == 7
    assert Execution("cpu").n_for(2048) == 128
    with pytest.raises(InputError, match="batch_size: found 0, expected a number not below 1"):
        Execution(batch_size=0)


def test_batches_that_fit_a_gpu(monkeypatch):
    """Powers of two that take no more than 0.4 of the free memory, by 8 KiB a number."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free in (80e9, 10e9, 1e9):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (int(free), 0))
        for size in (5, 2 * 32**2, 2 * 128**2):
            n = Execution().n_for(size)
            assert n & (n - 1) == 0
            assert n * size * 8192 <= 0.4 * free
            assert n == 16384 or 2 * n * size * 8192 > 0.4 * free
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 0))
    assert Execution().n_for(2048) == 1
    assert Execution(batch_size=300).n_for(2048) == 300


def test_what_does_not_fit_is_done_in_pieces():
    rows, tried = torch.arange(13), []

    def work(piece):
        tried.append(piece)
        if piece.stop - piece.start > 4:
            raise torch.OutOfMemoryError
        return rows[piece]

    assert torch.equal(torch.cat(in_pieces(work, 13)), rows)
    assert tried[0] == slice(0, 13)

    def never(piece):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_pieces(never, 3)


def test_rows_go_to_a_gpu_through_two_pinned_buffers(monkeypatch):
    """A processor in the place of a GPU: copies arrive when their events are waited for."""
    pending, pinned, empty = [], [], torch.empty

    class Late(torch.Tensor):
        """A tensor on a device, to which copies arrive late."""

    def fake_empty(*shape, pin_memory=False, device=None, **options):
        out = empty(*shape, **options)
        if pin_memory:
            pinned.append(out)
        return out if pin_memory else out.as_subclass(Late)

    def late_copy(self, source, non_blocking=False):
        if not non_blocking:
            return torch.Tensor.copy_(self, source)
        assert any(source.data_ptr() == each.data_ptr() for each in pinned)
        pending.append((self, source))  # what is in the buffer when it is copied arrives
        return self

    Late.copy_ = late_copy

    class Event:
        def __init__(self):
            self.copies = []

        def record(self, _):
            self.copies = pending[:]
            pending.clear()

        def synchronize(self):
            for target, source in self.copies:
                torch.Tensor.copy_(target, source)
            self.copies = []

    monkeypatch.setattr(parallel, "BUFFER", 3 * 8)
    monkeypatch.setattr(torch, "empty", fake_empty)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    rows = torch.arange(40.0).view(20, 2)
    index = torch.tensor([3, 19, 4, 4, 0, 11, 12])
    found = parallel.on_device(rows, index, SimpleNamespace(type="cuda"))
    assert len(pinned) == 2
    assert pinned[0].shape == (3, 2)
    assert torch.equal(found.as_subclass(torch.Tensor), rows[index])


def test_rows_on_the_host():
    rows, index = torch.arange(40.0).view(20, 2), torch.tensor([3, 19, 4])
    assert torch.equal(parallel.on_device(rows, index, torch.device("cpu")), rows[index])
    assert parallel.room(torch.device("cpu")) == float("inf")


def test_room_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    assert parallel.room(torch.device("cuda")) == 250
