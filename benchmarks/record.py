"""What every study's JSON holds beside its figures: configuration, device, versions, wall time."""

__all__ = ["write_record"]

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

import astro_ddprism


def write_record(path, *, study: str, configuration: dict, figures, device, started: float):
    """Write a study's results, whole or not at all.

    Parameters
    ----------
    path : path-like
        The JSON file; an older one is replaced.
    study : str
        Name of the study's module.
    configuration : dict
        All that the figures depend on.
    figures : dict or list
        What was measured.
    device : torch.device
        Where it was measured.
    started : float
        `time.perf_counter` at the beginning.
    """
    device = torch.device(device)
    record = {
        "study": study,
        "figures": figures,
        "configuration": configuration,
        "device": {
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "type": device.type,
            "threads": torch.get_num_threads(),
        },
        "versions": {
            "python": platform.python_version(),
            "astro-ddprism": astro_ddprism.__version__,
            **{name: version(name) for name in ("torch", "azula", "numpy")},
        },
        "wall_time_s": round(time.perf_counter() - started, 2),
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)


def _processor() -> str:
    """Name of the processor; the machine's architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
