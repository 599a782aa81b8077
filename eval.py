"""Evaluates a run, or other trained weights: what `morphism eval` runs."""

import sys

from morphism.commands import cli

if __name__ == "__main__":
    cli.run("eval", "eval.py", sys.argv[1:])
