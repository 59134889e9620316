"""Files: ASDF for models and datasets, FITS for products."""
