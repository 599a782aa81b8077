"""Trains many trials of an experiment, or continues a sweep: what `morphism sweep` runs."""

import sys

from morphism.commands import cli

if __name__ == "__main__":
    cli.run("sweep", "sweep.py", sys.argv[1:])
