"""Sweeps: many runs of one experiment over a space of its fields. Optuna's storage holds the truth about them."""
