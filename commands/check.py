"""Reads the whole of a dataset and reports what is in it, before a training does.

    morphism check PATH [--split train] [--draw samples.png] [--json]
    morphism check voc:/data/VOCdevkit/VOC2007 --write coco:/data/voc_as_coco
    morphism check --config experiments/voc_fcn.py [--config.data.max_boxes=200] [--split val]

All of train, val and test are read, unless --split names one. Every image is decoded once, and its size is compared
with that in its annotations. Bad files and records are named, and the rest goes on. Then images that occur twice are
named, within a split and in two: the same pixels, or images that look alike. The last line is a command that trains.

Everything that training would refuse is listed, and the exit status is then 1: files that are missing or cannot be
read, splits that cannot be opened, and what a split as a whole lacks for the fields of --config, or for their defaults.
Splits other than train's may only have classes of train's. The exit status is 2 if no split can be opened at all.

`--draw` writes a sheet of samples with their ground truth; `--json` prints all figures and names for other programs.
`--write FORMAT:FOLDER` writes what can be read as another dataset: coco:, yolo: (boxes) or masks: (a class per pixel).
"""

import json
import os
import re
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from morphism.commands import cli
from morphism.data import sources, writing
from morphism.data.copies import Part, copies
from morphism.data.derived import Subset
from morphism.data.recognise import VAL_FRACTION, recognise
from morphism.data.records import Source, first_target, names
from morphism.data.survey import Survey, missing, refusals, survey
from morphism.data.survey_text import common, describe
from morphism.errors import UserError, noting
from morphism.experiments.base import FIELDS, get_base

COMMAND = cli.Command(config="flag")
_SPLIT = COMMAND.string("split", "", "The only split to read; train, val and test unless given.")
_DATA_DIR = COMMAND.string("data_dir", "", "Folder of prepared TFDS datasets; TFDS's default unless given.")
_DRAW = COMMAND.string("draw", "", "A PNG to write, with samples of the first split.")
_JSON = COMMAND.boolean("json", False, "Print JSON.")
_WRITE = COMMAND.string("write", "", "Write the data as another dataset: coco:FOLDER, yolo:FOLDER or masks:FOLDER.")

MODELS = {"label": "resnet50", "boxes": "faster_rcnn", "masks": "mask_rcnn", "segmentation": "deeplabv3"}


class Opened(NamedTuple):
    """A split as far as it can be opened. notes: what had to be left out. source: None if it cannot be opened."""

    split: str
    source: Source | None
    notes: list[str]


class Checked(NamedTuple):
    split: str
    source: Source
    survey: Survey


def main(argv: list[str]) -> None:
    if len(argv) > 2 or (len(argv) == 1 and not COMMAND.config.given):
        raise UserError("give one folder or source, such as /data/pets, voc:/data/VOC2007 or embedded, or --config")
    given = COMMAND.config.value if COMMAND.config.given else None
    target = writing.parse(_WRITE.value) if _WRITE.value else None
    say = (lambda *words: None) if _JSON.value else (lambda *words: print(*words, flush=True))
    checked, report = check("".join(argv[1:]), _DATA_DIR.value, _SPLIT.value, given, say, target)
    if target:
        parts = [writing.Part(each.split, each.source, each.survey.images["row"]) for each in checked]
        report["written"] = writing.write(target, parts)
        say("\n".join(report["written"]))
    if _DRAW.value:
        from morphism.tasks.drawing.samples import draw

        draw(checked[0].source, Path(_DRAW.value))
    report["train"] = train_command("".join(argv[1:]), checked[0].source, sys.argv if given else [], report["on"])
    when = "" if report["sound"] else ", once what is bad or refused is mended"
    say(f"to train{when}: {report['train']}")
    if _JSON.value:
        print(json.dumps(report, ensure_ascii=False, allow_nan=False))
    if not report["sound"]:
        sys.stdout.flush()
        sys.exit(1)


def check(
    spec: str,
    data_dir: str,
    split: str,
    given: ConfigDict | None,
    say: Callable[..., object] = print,
    target: writing.Target | None = None,
) -> tuple[list[Checked], dict[str, Any]]:
    """The splits that can be opened, and what was found; `say` gets it as text, part by part.

    `spec` and `data_dir` take precedence over those of the configuration `given`; without it the defaults of the data's
    task are used. Raises UserError where no split can be opened, after saying what else is bad, and where they cannot
    be written as `target`.
    """
    started = time.monotonic()
    about = recognise(spec).about if sources.is_path(spec) else ""
    if about:
        say(about)
    config = _configured(sources.full_spec(spec), data_dir, given)
    title = config.data.source
    held = opened(config, split, given is not None)
    lost = {each.split: each.notes for each in held if each.source is None}
    for each, notes in lost.items():
        say("\n".join([f"{title} {each}: cannot be opened", *(f"bad: {note}" for note in notes)]))
    if len(lost) == len(held):
        raise UserError(held[-1].notes[-1])
    if target:
        writing.check(target, {each.split: each.source for each in held if each.source is not None})
    config = config if given else _with_defaults(config, held)
    checked = []
    for each in held:
        if each.source is not None:
            checked.append(_checked(each, config, held, given is not None))
            say(describe(f"{title} {each.split}", checked[-1].survey.report))
    seconds = time.monotonic() - started
    reports = {each.split: each.survey.report for each in checked}
    read = {each.split for each in held}
    found = {
        "source": title,
        "about": about,
        "val_fraction": config.data.val_fraction,
        "on": "" if given or "train" in sources.splits(config.data) else checked[0].split,
        "not read": [each for each in sources.splits(config.data) if not split and not given and each not in read],
        "splits": reports,
        "cannot be opened": lost,
        "missing": missing(reports),
        "copies": copies([Part(*each[:2], each.survey.images) for each in checked]),
        "seconds": round(seconds, 2),
        "sound": not lost and not any(report["bad"] or report["refused"] for report in reports.values()),
    }
    say(common(found, os.path.abspath(title.partition(":")[2])))
    say(_cost(sum(report["records"] for report in reports.values()), seconds))
    return checked, found


def opened(config: ConfigDict, split: str, given: bool) -> list[Opened]:
    """`split`, or without it those of the configuration if one is `given`, else train, val and test of the source.

    Without a validation split, VAL_FRACTION of train is cut from it, as training does; `config` then says so.
    """
    data = config.data
    if split:
        return [_opened(data, split)]
    available = sources.splits(data)
    if given:
        wanted = dict.fromkeys((data.train_split, data.val_split, *(["test"] if "test" in available else [])))
        return _noted_once([_opened(data, each) for each in wanted])
    validation = sources.validation(available)
    usual = [each for each in ("train", validation, "test") if each in available]
    held = [_opened(data, each) for each in (usual if "train" in usual else available)]
    return [part for each in held for part in ([each] if validation in usual else _cut(each, data))]


def _cut(whole: Opened, data: ConfigDict) -> list[Opened]:
    """train and val of a split that is called train; the split itself if it is not, or is too small, which is noted."""
    if whole.split != "train" or whole.source is None:
        return [whole]
    if round(VAL_FRACTION * len(whole.source)) == 0:
        return [whole._replace(notes=[*whole.notes, sources.too_few(VAL_FRACTION, len(whole.source), data.source)])]
    data.val_fraction = VAL_FRACTION
    held = sources.held_out(names(whole.source), VAL_FRACTION, data.split_seed)
    train, val = (Subset(whole.source, np.flatnonzero(each)) for each in (~held, held))
    return [Opened("train", train, whole.notes), Opened("val", val, [])]


def _opened(data: ConfigDict, split: str) -> Opened:
    with noting() as notes:
        try:
            return Opened(split, sources.load(data, split), notes)
        except UserError as error:
            return Opened(split, None, [*notes, " ".join(str(error).split())])


def _noted_once(held: Sequence[Opened]) -> list[Opened]:
    """Splits that are cut from one have the same notes."""
    said: set[str] = set()
    kept = []
    for each in held:
        kept.append(each._replace(notes=[note for note in each.notes if note not in said]))
        said.update(each.notes)
    return kept


def _configured(spec: str, data_dir: str, given: ConfigDict | None) -> ConfigDict:
    config = (given or get_base()).copy_and_resolve_references()
    with config.unlocked():
        config.data.update({"source": spec or config.data.source, "data_dir": data_dir or config.data.data_dir})
        if not given:
            config.data.targets = (*config.data.targets, "masks")  # whatever the source has
    return config


def _with_defaults(config: ConfigDict, held: Sequence[Opened]) -> ConfigDict:
    """The defaults of the task that learns from the data's main target, with as many slots for boxes as it needs."""
    source = next(each.source for each in held if each.source is not None)
    found = next(base for base in map(get_base, FIELDS) if base.data.targets[0] == first_target(source))
    with found.unlocked():
        found.data.update({name: config.data[name] for name in ("source", "data_dir", "val_fraction")})
        if "boxes" in source.targets and "max_boxes" in found.data:
            most = [int(each.source.box_counts[:, 1].max(initial=0)) for each in held if each.source is not None]
            found.data.max_boxes = max(found.data.max_boxes, *most)
    return found


def _checked(each: Opened, config: ConfigDict, held: Sequence[Opened], given: bool) -> Checked:
    trained = {name: tuple(classes) for name, classes in _trained(each, config, held).items()}
    with noting():  # bad files of train are reported when train is checked
        refused = refusals(each.source, config, each.split, trained)
        found = survey(each.source, config.data if given else None, each.split)
    report = found.report | {"refused": refused, "bad": [*each.notes, *found.report["bad"]]}
    return Checked(each.split, each.source, found._replace(report=report))


def _trained(each: Opened, config: ConfigDict, held: Sequence[Opened]) -> Mapping[str, Sequence[str]]:
    """The classes of each target of the split that is trained on; none if `each` is that split, or there is none."""
    trained = config.data.train_split
    if each.split.partition("[")[0] == trained.partition("[")[0]:
        return {}
    train = next((other.source for other in held if other.split == trained), None)
    if train is None and sources.has_split(config.data, trained):
        with noting():
            train = sources.load(config.data, trained)
    return {name: train.targets[name] for name in config.data.targets if train and name in train.targets}


def _cost(images: int, seconds: float) -> str:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    rate = images / seconds
    return f"read {images:,} records in {seconds:.1f} s, {rate:,.0f} per second; peak memory {memory:.2f} GiB"


def train_command(spec: str, source: Source, argv: Sequence[str], on: str) -> str:
    """The command that trains on `spec`: with the --config of `argv`, or without it by the recipe for own data.

    on: the split, where there is none for training.
    """
    model = MODELS["masks" if "masks" in source.targets and first_target(source) == "boxes" else first_target(source)]
    chosen = list(_config_words(argv)) or ["--config", f"experiments/finetune.py:{model}"]
    slug = re.sub(r"[^\w.-]+", "-", Path(spec.partition(":")[2] or spec).name or "mine").strip("-.") or "mine"
    data = ["--data", spec] if spec else []
    data += [f"--config.data.train_split={on}"] if on else []
    return shlex.join(["morphism", "train", *chosen, *data, "--workdir", f"runs/{slug}"])


def _config_words(argv: Sequence[str]) -> Iterator[str]:
    """The words of a command line that set the configuration."""
    for word, before in zip(argv, ["", *argv], strict=False):
        if word.startswith("--config") or before == "--config":
            yield word
