"""Workers of Dask that are lost, and what is not there."""

import distributed
import pytest

from astro_ddprism import InputError
from astro_ddprism.separator import workers
from astro_ddprism.separator.workers import run_tasks


def test_workers_that_do_not_come_back_are_replaced(monkeypatch):
    """Processes of our own, of which none is left; at last one line for each task."""
    sizes = [0, 1]

    def client(*_):
        options = {"processes": False, "dashboard_address": None, "set_as_default": False}
        return distributed.Client(n_workers=sizes.pop(0), threads_per_worker=1, **options)

    monkeypatch.setattr(workers, "_client", client)
    monkeypatch.setattr(workers, "PATIENCE", 0.3)
    assert sorted(run_tasks(max, [4, 7])) == [(4, 4), (7, 7)]
    assert sizes == []
    sizes += [0] * (1 + workers.RETRIES)
    ((task, error),) = run_tasks(max, [4])
    assert task == 4
    assert "found no worker" in str(error)


def test_what_is_not_there(monkeypatch):
    monkeypatch.setattr(workers, "ANSWER", 1)
    with pytest.raises(InputError, match=r"scheduler: found none at 'tcp://127\.0\.0\.1:1' \("):
        list(run_tasks(max, [1], scheduler="tcp://127.0.0.1:1"))
    monkeypatch.setattr(workers, "distributed", None)
    with pytest.raises(InputError, match=r"Dask: found none, .*astro-ddprism\[survey\]"):
        list(run_tasks(max, [1], scheduler="tcp://127.0.0.1:1"))
    assert list(run_tasks(max, [-1, 5], n_workers=0)) == [(-1, 0), (5, 5)]
