"""Tasks for the workers of Dask: any scheduler that is running, or processes of this machine."""

import os

import torch

from ..errors import InputError

try:
    import distributed
except ImportError:  # an extra
    distributed = None

__all__ = ["run_tasks"]

RETRIES = 3  # of a task whose worker was lost
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
    with _client(scheduler, n_workers) as client:
        futures = {}
        for task in tasks:
            future = client.submit(_Call(function), task, pure=False, retries=RETRIES)
            futures[future] = task
        for future in distributed.as_completed(list(futures), loop=client.loop):
            task = futures.pop(future)
            try:
                result = future.result()
            except Exception as error:  # whatever a worker met, its end among it  # noqa: BLE001
                result = error
            future.release()
            yield task, result


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
            return distributed.Client(scheduler, timeout="20s", set_as_default=False)
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
