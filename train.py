"""Trains an experiment, or continues a run: what `morphism train` runs."""

import sys

from morphism.commands import cli

if __name__ == "__main__":
    cli.run("train", "train.py", sys.argv[1:])
