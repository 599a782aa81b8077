"""Evaluation: each example exactly once, on any number of devices."""
