"""--data: data at a path takes the place of the experiment's."""

import sys
from collections.abc import Collection

from ml_collections import ConfigDict

from morphism.errors import UserError

MEANING = "Your data: a folder, or the file that describes it; which format it has is found out."


def find(config: ConfigDict, overrides: Collection[str], path: str | None) -> None:
    """Makes the data at `path`, or at a config.data.source without its kind, that of `config`, and prints what it is.

    With `path` the splits of the data take the place of the experiment's too. Fields in `overrides`, such as
    "data.val_fraction", were given on the command line, and stay. Raises UserError as `recognise` does.
    """
    from morphism.data import recognise, sources

    if path and "data.source" in overrides:
        raise UserError("--data and --config.data.source both say where the data is; leave out one")
    if not path and not sources.is_path(config.data.source):
        return
    found = recognise.recognise(path or config.data.source)
    print(f"data: {found.about}", file=sys.stderr, flush=True)
    fields = recognise.fields(found) if path else {}
    kept = {name: value for name, value in fields.items() if f"data.{name}" not in overrides}
    with config.unlocked():
        config.data.update(kept | {"source": found.source})
    if kept.get("val_fraction"):
        print(f"data: {recognise.CUT}", file=sys.stderr, flush=True)
