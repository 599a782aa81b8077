"""What labels mean in every package: the host's targets, losses, metrics and drawings."""

IGNORE = 255  # the class of a pixel that counts for nothing
