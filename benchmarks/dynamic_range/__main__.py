"""Run the study: ``python -m benchmarks.dynamic_range``."""

import torch

from .study import main

torch.set_num_threads(1)
main()
