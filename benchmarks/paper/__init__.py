"""The tables of arXiv:2510.05205, with published values beside this package's."""
