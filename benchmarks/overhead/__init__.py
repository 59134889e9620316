"""What joint posterior sampling costs beyond the networks that it has to evaluate."""
