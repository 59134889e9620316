"""Files, knowing nothing of the package's own objects."""
