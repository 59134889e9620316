"""Train the model ``kids-r`` that comes with the package, on a real field of the KiDS survey."""
