"""Run the study: ``python -m benchmarks.kids_model``."""

import os

import torch

from .study import main

torch.set_num_threads(os.cpu_count() or 1)
main()
