"""What the samples of one object cost, against the network evaluations that they take."""

__all__ = ["one_object_cost"]

import statistics
import time

import torch

N_REPEATS = 7


def one_object_cost(separator, view, n_samples=16):
    """Time of the posterior samples of the first object of a view.

    Parameters
    ----------
    separator : DiffusionSourceSeparator
        With an amortized posterior of the view's sources.
    view : View
        Some objects.
    n_samples : int
        Samples, drawn side by side.

    Returns
    -------
    cost : dict
        ``n_samples``; ``threads``, of the processor; ``time_s``, the median of several runs;
        ``n_evaluations`` of the network for each sample, ``network_s``, what these alone take at
        the same batch, and ``ratio`` of the two times.
    """
    posterior, method = separator.posterior_[view.sources], separator.posterior
    n_evaluations = method.n_starts + method.n_steps + 1
    parameter = next(posterior.parameters())
    sources, size = len(view.sources), view.data.shape[-2:]
    shape = (n_samples, posterior.n_features, sources * view.data.shape[1], *size)
    features = torch.randn(shape, dtype=parameter.dtype, device=parameter.device)
    log_sigma = torch.zeros(1, dtype=parameter.dtype, device=parameter.device)

    @torch.no_grad()
    @torch.autocast(
        parameter.device.type,
        dtype=posterior.precision,
        enabled=posterior.precision != torch.float32,
    )
    def evaluate():
        for _ in range(n_evaluations):
            posterior.backbone(features, log_sigma)
        _wait(parameter.device)

    def sample():
        separator.sample(view[:1], n_samples=n_samples, seed=0)
        _wait(parameter.device)

    # In turns, so that a busy machine slows both alike.
    times = [(_seconds(sample), _seconds(evaluate)) for _ in range(N_REPEATS + 1)][1:]
    whole, network = map(statistics.median, zip(*times, strict=True))
    return {
        "n_samples": n_samples,
        "threads": torch.get_num_threads(),
        "time_s": whole,
        "n_evaluations": n_evaluations,
        "network_s": network,
        "ratio": whole / network,
    }


def _seconds(run):
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
