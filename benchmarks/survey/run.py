"""One run of a survey, as a program: ``python -m benchmarks.survey.run ARGUMENTS`` (JSON)."""

import json
import sys

import torch

from astro_ddprism import separate_tiles

if __name__ == "__main__":  # Dask's workers import the main module
    torch.set_num_threads(1)
    separate_tiles(**json.loads(sys.argv[1]))
