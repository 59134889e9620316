"""One source of five bands behind a real patch of sky that HST and HSC have seen."""
