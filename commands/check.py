"""Reads the whole of a data source and reports what is in it, before a training does.

    morphism check /data/photos                      # of any layout in docs/data.md
    morphism check voc:/data/VOCdevkit/VOC2007 [--split train] [--draw samples.png] [--json]
    morphism check --config experiments/voc_fcn.py [--config.data.max_boxes=200] [--split val]

Every image is decoded, and its size is compared with that in its annotations. Everything that training would refuse is
listed, and the exit status is then 1: files that are missing or cannot be read, and what the split as a whole lacks for
the fields of --config, or for their defaults; with --config also a validation split that cannot be opened. Splits other
than train's may only have classes of train's. The first annotations that cannot be read at all end the command with
status 2.
`--draw` writes a grid of samples with their ground truth; `--json` prints the figures for other programs.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from morphism.commands import cli
from morphism.data import sources
from morphism.data.recognise import recognise
from morphism.data.records import Source, first_target
from morphism.data.survey import describe, draw, refusals, survey
from morphism.errors import UserError, noting
from morphism.experiments.base import FIELDS, get_base

COMMAND = cli.Command(config="flag")
_SPLIT = COMMAND.string("split", "", "Split of the source; the config's train_split unless given.")
_DATA_DIR = COMMAND.string("data_dir", "", "Folder of prepared TFDS datasets; TFDS's default unless given.")
_DRAW = COMMAND.string("draw", "", "A PNG to write, with samples.")
_JSON = COMMAND.boolean("json", False, "Print JSON.")


def main(argv: list[str]) -> None:
    if len(argv) > 2 or (len(argv) == 1 and not COMMAND.config.given):
        raise UserError("give one source, such as folder:/images, voc:/data/VOC2007 or embedded, or --config")
    given = COMMAND.config.value if COMMAND.config.given else None
    title, source, report = examine(_recognised("".join(argv[1:])), _DATA_DIR.value, _SPLIT.value, given)
    print(json.dumps(report, ensure_ascii=False, allow_nan=False) if _JSON.value else describe(title, report))
    if _DRAW.value:
        draw(source, Path(_DRAW.value))
    if report["bad"] or report["refused"]:
        sys.stdout.flush()
        sys.exit(1)


def _recognised(spec: str) -> str:
    """`spec` with its kind; prints what lies there if it is a path alone."""
    if not sources.is_path(spec):
        return spec
    found = recognise(spec)
    print(found.about, file=sys.stderr)
    return found.source


def examine(spec: str, data_dir: str, split: str, given: ConfigDict | None) -> tuple[str, Source, dict[str, Any]]:
    """A title, the source as far as it can be opened, and the `survey` of it with everything that is refused.

    `spec`, `data_dir` and `split` take precedence over those of the configuration `given`; without it the defaults of
    the data's task are used. Raises UserError where nothing can be opened, after printing what else is bad.
    """
    config = (given or get_base()).copy_and_resolve_references()
    opened = {"source": spec or config.data.source, "data_dir": data_dir or config.data.data_dir}
    config.data.update(opened)
    if not given:
        config.data.targets = (*config.data.targets, "masks")  # whatever the source has
    split = split or config.data.train_split
    with noting() as notes:
        try:
            source = sources.load(config.data, split)
        except UserError:
            for note in notes:
                print(f"bad: {note}", flush=True)
            raise
    if not given:
        config = _base(first_target(source))
        config.data.update(opened)
    with noting():  # bad files of train are reported when train is checked
        refused = refusals(source, config, split) + (_unopened(config.data, split) if given else [])
        report = survey(source)
    title = f"{config.data.source} {split}"
    return title, source, report | {"refused": refused, "bad": [*notes, *report["bad"]]}


def _unopened(data: ConfigDict, split: str) -> list[str]:
    """Why the validation split, which a training opens too, cannot be opened; [] if it can."""
    try:
        if split != data.val_split:
            sources.load(data, data.val_split)
    except UserError as error:
        return [str(error)]
    return []


def _base(target: str) -> ConfigDict:
    """The defaults of the task that learns from `target`."""
    return next(base for base in map(get_base, FIELDS) if base.data.targets[0] == target)
