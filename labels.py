"""What labels mean to all packages: targets, losses, metrics and drawings."""

IGNORE = 255  # the class of pixels that neither losses nor metrics count
