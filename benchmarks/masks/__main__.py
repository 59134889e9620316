"""Run the study: ``python -m benchmarks.masks``."""

import torch

from .study import main

torch.set_num_threads(1)
main()
