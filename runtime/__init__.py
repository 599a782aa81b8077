"""What a run needs around its numbers: devices and processes, and the workdir with its checkpoints and records."""
