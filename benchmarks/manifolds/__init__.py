"""The published problems of sources on curves: accuracy, calibration and cost."""
