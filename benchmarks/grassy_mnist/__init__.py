"""Digits in front of grass: the published image problem, on a like set."""
