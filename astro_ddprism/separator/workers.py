"""Tasks for the workers of Dask: any scheduler that is running, or processes of this machine."""

import logging
import os
import time

import torch

from ..errors import InputError

try:
    import distributed
except ImportError:  # an extra
    distributed = None

__all__ = ["run_tasks"]

logger = logging.getLogger(__name__)

RETRIES = 3  # of a task whose worker was lost
# Seconds between looks; and without any worker: on a busy machine one takes minutes to come back.
PAUSE, PATIENCE = 0.2, 300
ANSWER = 20  # seconds in which a scheduler answers
INSTALL = "install it with: pip install 'astro-ddprism[survey]'"


def run_tasks(function, tasks, scheduler=None, n_workers=None):
    """Do tasks, and yield each with its result, in the order in which they end.

    Parameters
    ----------
    function : callable
        Called with a task and the number of the worker.
    tasks : sequence
        What workers are given, which has to be picklable.
    scheduler : str, optional
        Address of a scheduler that is running.
    n_workers : int, optional
        Processes on this machine; 0 for none but this.

    Yields
    ------
    task, result
        The result is the error of one that failed on a worker, also after it was tried again.

    Raises
    ------
    InputError
        If Dask is needed and not installed, or nothing answers at the address.
    """
    if not tasks:
        return
    if n_workers == 0 and scheduler is None:
        for task in tasks:
            yield task, function(task, 0)
        return
    if distributed is None:
        raise InputError(
            f"Dask: found none, expected it to be installed: {INSTALL} (or take no workers, "
            "n_workers=0, --workers 0)"
        )
    left = dict(enumerate(tasks))
    for _ in range(1 + RETRIES):
        # Processes that Dask has lost for good leave their tasks waiting: others are started.
        for i, result in _run_on(_client(scheduler, n_workers), function, dict(left), scheduler):
            yield left.pop(i), result
        if not left:
            return
    for task in left.values():
        yield task, InputError(f"Dask: found no worker for {PATIENCE} s, expected one to stay")


def _run_on(client, function, tasks, scheduler):
    """Numbers of tasks with their results, as long as there are workers of processes of our own."""
    with client:
        futures = {
            client.submit(_Call(function), task, pure=False, retries=RETRIES): i
            for i, task in tasks.items()
        }
        done, seen = distributed.as_completed(list(futures), loop=client.loop), time.monotonic()
        while futures:
            for future in done.next_batch(block=False) if done.has_ready() else ():
                try:
                    result = future.result()
                except Exception as error:  # whatever a worker met, its end  # noqa: BLE001
                    result = error
                future.release()
                yield futures.pop(future), result
            if client.nthreads():
                seen = time.monotonic()
            elif time.monotonic() > seen + PATIENCE:
                logger.warning("no worker for %d s: waiting for one", PATIENCE)
                if scheduler is None:
                    return
                seen = time.monotonic()
            time.sleep(PAUSE)


class _Call:
    """A function that is told the number of its worker."""

    def __init__(self, function):
        self.function = function

    def __call__(self, task):
        name = distributed.get_worker().name
        return self.function(task, name if isinstance(name, int) else hash(str(name)) % 1024)


def _client(scheduler, n_workers):
    if scheduler is not None:
        try:
            return distributed.Client(scheduler, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(
                f"scheduler: found none at {scheduler!r} ({reason}), expected the address of one "
                "that is running, such as tcp://127.0.0.1:8786"
            ) from error
    n_gpus = torch.cuda.device_count()
    n_workers = n_workers or n_gpus or max(1, len(os.sched_getaffinity(0)) // 2)
    return distributed.Client(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=True,
        # Workers count page cache of what they read as theirs: no limit but the system's.
        memory_limit=0,
        dashboard_address=":0",
        set_as_default=False,
    )
