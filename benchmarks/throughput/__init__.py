"""How near training and drawing come to the networks that they have to evaluate."""
