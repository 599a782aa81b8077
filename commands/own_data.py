"""--data: other data takes the place of the experiment's, or of the run's."""

import sys
from collections.abc import Collection

from ml_collections import ConfigDict

from morphism.errors import UserError

MEANING = "Your data: a folder, or the file that describes it, whose format is found out; or KIND:PATH."


def find(config: ConfigDict, overrides: Collection[str], data: str | None) -> None:
    """Makes `data`, or what lies at a config.data.source without its kind, that of `config`, and prints what it is.

    `data` is a path, or a source such as voc:photos; its splits take the place of the experiment's too. Fields in
    `overrides`, such as "data.val_fraction", were given on the command line, and stay. Raises UserError as
    `recognise.at` does.
    """
    from morphism.data import recognise, sources

    if data and "data.source" in overrides:
        raise UserError("--data and --config.data.source both say where the data is; leave out one")
    if not data and not sources.is_path(config.data.source):
        return
    found = recognise.at(data or config.data.source, config.data.data_dir)
    print(f"data: {found.about}", file=sys.stderr, flush=True)
    fields = recognise.fields(found) if data else {}
    kept = {name: value for name, value in fields.items() if f"data.{name}" not in overrides}
    with config.unlocked():
        config.data.update(kept | {"source": found.source})
    if kept.get("val_fraction"):
        print(f"data: {recognise.CUT}", file=sys.stderr, flush=True)
