"""Run the study: ``python -m benchmarks.survey_field``."""

import os

import torch

from .study import main

torch.set_num_threads(os.cpu_count() or 1)
main()
