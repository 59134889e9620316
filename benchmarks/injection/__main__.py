"""Run the study: ``python -m benchmarks.injection``."""

import os

import torch

from .study import main

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
main()
