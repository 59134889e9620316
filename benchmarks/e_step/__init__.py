"""How fast the E-step of small networks is, against a plain loop of the same arithmetic."""
