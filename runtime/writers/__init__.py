"""Where the values of a run go besides metrics.jsonl: config.writers names them, one file in this folder for each.

tensorboard.py          files in the workdir, written at once; always complete
wandb.py, mlflow.py,    a service or store of its own, written in a background thread (background.py)
aim.py

A new one is a file with a class that has the members of `Sink`, an entry in EXTRA, and an extra in setup.cfg.
"""

import importlib
import importlib.util
from collections.abc import Collection

from morphism.errors import UserError
from morphism.runtime.writers.background import Background, Opening, Sink

TENSORBOARD = "tensorboard"
EXTRA = {"wandb": "WandB", "mlflow": "MLflow", "aim": "Aim"}  # name of the writer, its package and extra -> its class


def check_installed(writers: Collection[str]) -> None:
    """Raises UserError for a writer whose package is not installed."""
    for name in EXTRA:
        if name in writers and importlib.util.find_spec(name) is None:
            raise UserError(
                f"config.writers: {name} is not installed; pip install 'morphism[{name}]', or leave it out of the field"
            )


def in_thread(name: str, opening: Opening) -> Background:
    """The writer `name`, one of EXTRA."""

    def open_sink() -> Sink:  # in the thread: importing the package alone takes seconds
        return getattr(importlib.import_module(f"morphism.runtime.writers.{name}"), EXTRA[name])(opening)

    return Background(name, open_sink, opening)
