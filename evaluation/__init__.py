"""Evaluation: every example exactly once, on any number of devices."""
