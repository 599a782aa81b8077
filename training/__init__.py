"""Training: state, optimiser, step, checkpoints, loop."""
