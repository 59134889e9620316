"""What every study's JSON holds beside its figures: configuration, device, versions, wall time."""

__all__ = ["run_pictured_study", "run_study", "write_record"]

import argparse
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


def run_study(study: str, description: str, run, full: dict, quick: dict, arguments=None):
    """Run a study from the command line and write its record.

    Parameters
    ----------
    study : str
        Name of the study's module.
    description : str
        What the help begins with.
    run : callable
        Called with a configuration and a device; returns the figures.
    full, quick : dict
        Configurations of the whole study and of a small version of it.
    arguments : sequence of str, optional
        Those of the command line by default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a small version of the study")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    started, device = time.perf_counter(), torch.device(options.device)
    configuration = quick if options.quick else full
    write_record(
        options.out,
        study=study,
        configuration=configuration,
        figures=run(configuration, device),
        device=device,
        started=started,
    )


def run_pictured_study(study: str, description: str, run, draw, full, quick, arguments=None):
    """Run a study of the processor from the command line, and write its record and its picture.

    Parameters
    ----------
    study : str
        Name of the study's module, and of its picture.
    description : str
        What the help begins with.
    run : callable
        Called with a configuration; returns the figures and what the picture shows.
    draw : callable
        Called with what the picture shows, and its file.
    full, quick : dict
        Configurations of the whole study and of a small version of it.
    arguments : sequence of str, optional
        Those of the command line by default.
    """
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="folder of the documentation, for the picture")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    configuration = quick if options.quick else full
    figures, shown = run(configuration)
    write_record(
        options.out,
        study=study,
        configuration=configuration,
        figures=figures,
        device="cpu",
        started=started,
    )
    if options.docs is not None:
        draw(shown, options.docs / "_static" / f"{study}.png")


def _processor() -> str:
    """Name of the processor; the machine's architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
