"""Workers of Dask that are lost, a scheduler that runs, and what is not there."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import distributed
import pytest
from distributed.utils import json_load_robust

from astro_ddprism import InputError
from astro_ddprism.separator import workers
from astro_ddprism.separator.workers import run_tasks

LIMIT = 300  # seconds, for processes to start and tasks to be done


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


@pytest.fixture
def address(tmp_path):
    """Of a scheduler and two workers that were started by their own commands."""
    told = str(tmp_path / "scheduler.json")
    own = ["--no-dashboard", "--scheduler-file", told]
    worker = ["worker", "--no-nanny", "--nthreads", "1"]
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *command, *own],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )
        for command in (scheduler, worker, worker)
    ]
    # Workers need not import this package.
    cloudpickle.register_pickle_by_value(workers)
    try:
        yield json_load_robust(told, timeout=LIMIT)["address"]
    finally:
        cloudpickle.unregister_pickle_by_value(workers)
        for process in started:
            process.kill()
            process.wait()


def test_a_task_whose_worker_is_lost_is_done_by_another(address, tmp_path):
    """By one of a scheduler that is running; a task that fails costs no other."""
    lost = tmp_path / "lost"

    def work(task, number):
        if task == 1 and not lost.exists():
            lost.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        if task == 2:
            raise ValueError("no")
        return task * 10, number >= 0, os.getpid()

    assert address.startswith("tcp://127.0.0.1:")
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: dict(run_tasks(work, [0, 1, 2, 3], scheduler=address)))
        done = done.result(timeout=LIMIT)
    assert isinstance(done.pop(2), ValueError)
    assert {task: result[:2] for task, result in done.items()} == {
        task: (10 * task, True) for task in (0, 1, 3)
    }
    assert done[1][2] not in {os.getpid(), int(lost.read_text())}


def test_what_is_not_there(monkeypatch):
    monkeypatch.setattr(workers, "ANSWER", 1)
    with pytest.raises(InputError, match=r"scheduler: found none at 'tcp://127\.0\.0\.1:1' \("):
        list(run_tasks(max, [1], scheduler="tcp://127.0.0.1:1"))
    monkeypatch.setattr(workers, "distributed", None)
    with pytest.raises(InputError, match=r"Dask: found none, .*astro-ddprism\[survey\]"):
        list(run_tasks(max, [1], scheduler="tcp://127.0.0.1:1"))
    assert list(run_tasks(max, [-1, 5], n_workers=0)) == [(-1, 0), (5, 5)]
