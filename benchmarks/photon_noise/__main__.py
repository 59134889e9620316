"""Run the study: ``python -m benchmarks.photon_noise``."""

from ..record import run_study
from .study import FULL, QUICK, run
from .study import __doc__ as description

run_study("photon_noise", description.splitlines()[0], run, FULL, QUICK)
