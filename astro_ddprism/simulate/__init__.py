"""Simulated survey fields whose light is known object by object."""
