"""`mix:`: several sources as one, drawn from in given proportions.

    mix:2*coco:/data/coco + 1*masks:/data/camvid        two draws from the first to one from the second
    mix:driving.yaml                                    with common names for classes

The file is a list with an entry per source:

    - source: coco:/data/coco
      weight: 2                     1 if it is left out
      classes: {car: car, person: pedestrian, bicycle: ~}
      train_split: train[:90%]      the split's own name if it is left out; "" for a split without this source
      val_split: val

or it holds such a list as `sources` and, as `classes`, the common names of each target's classes in order: {boxes:
[car, pedestrian]}. Else their order is that in which the sources name them.

`classes` maps a source's own names to common ones. What is of a class that it leaves out, or maps to ~ (nothing), is
left out: objects are dropped, pixels ignored, labels removed; this is reported. Without `classes`, all own names are
common. A record has only the truths that its own source has: a task of several parts counts it in the others alone, a
single task refuses it. Where several sources have a target, a source may lack classes that others have: its objects of
these classes, which are not annotated, are learned as background. That is reported too.

An epoch is as many draws as there are records. In evaluation each record counts once, whatever the weights. A split
such as train[:10%] takes that share of every source.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Int

from morphism.data import sources
from morphism.data.files import read_text
from morphism.data.mixed import LEFT_OUT, Mix, Renamed
from morphism.data.records import Source
from morphism.errors import UserError, check_choice, did_you_mean

SLICES = MASKS = True
SPLITS = ("train", "val", "test")
FIELDS = ("source", "weight", "classes", *(f"{split}_split" for split in SPLITS))
FORM = "write mix:2*coco:/data/coco + 1*masks:/data/camvid, or mix:<file>.yaml"
INLINE = re.compile(r"(?:([^*:]*)\*)?(.*)", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One of the sources. classes: own name -> common name, None for a class that is left out; empty without a map."""

    source: str
    weight: Fraction
    classes: Mapping[str, str | None] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)

    def split(self, name: str) -> str:
        """The source's own name of a split; "" if the split has nothing of this source."""
        return self.splits.get(name, name)


@dataclass(frozen=True)
class Recipe:
    """What a mix consists of. classes: target -> the common names in order, as far as stated. where: for errors."""

    entries: Sequence[Entry]
    classes: Mapping[str, Sequence[str]]
    where: str


def splits(argument: str, data_dir: str) -> tuple[str, ...]:
    """Those that any of the sources has; `load` says which of them lacks one."""
    entries = _recipe(argument).entries
    return tuple(split for split in SPLITS if any(_has(entry, split, data_dir) for entry in entries))


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> Mix:
    recipe = _recipe(argument)
    name, bracket, rest = split.partition("[")
    if bracket and not re.fullmatch(r"(\d+(\.\d+)?%)?:(\d+(\.\d+)?%)?\]", rest):
        raise UserError(
            f"{recipe.where}: the split {split!r} must have percents, as train[:10%]: each source is cut alike"
        )
    entries = [entry for entry in recipe.entries if entry.split(name)]
    if not entries:
        raise UserError(f"{recipe.where}: no source has a split {name!r}; give one a {name}_split")
    found = [_open(entry, name, bracket + rest, data_dir, masks, recipe.where) for entry in entries]
    maps = [_names(entry, source, recipe.where) for entry, source in zip(entries, found, strict=True)]
    common = _common(recipe, maps)
    parts = [
        Renamed(source, {target: common[target] for target in own}, _tables(own, common))
        for source, own in zip(found, maps, strict=True)
    ]
    lines = [line for entry, part, own in zip(entries, parts, maps, strict=True) for line in _odd(entry, part, own)]
    return Mix(parts, [entry.weight for entry in entries], common, "; ".join(dict.fromkeys(filter(None, lines))))


def _has(entry: Entry, split: str, data_dir: str) -> bool:
    own = entry.split(split)
    return bool(own) and sources.has_split(sources.within(entry.source, data_dir), own)


def _open(entry: Entry, name: str, part: str, data_dir: str, masks: bool, where: str) -> Source:
    """The source at its own split of this name, or a `part` of that, such as [:10%]."""
    own, data = entry.split(name), sources.within(entry.source, data_dir, masks)
    if not sources.has_split(data, own):
        held = ", ".join(sources.splits(data))
        raise UserError(
            f"{where}: {entry.source} has no split {own!r}, it has {held}; state another as {name}_split in the mix's "
            f'file, or {name}_split: "" to leave this source out'
        )
    if part and "[" in own:
        raise UserError(
            f"{where}: {name}{part} is no part of {own}, to which {entry.source} is cut; change one of them"
        )
    return sources.load(data, own + part)


Names = Mapping[str, Sequence[str | None]]  # target -> the common name of each of a source's classes


def _names(entry: Entry, source: Source, where: str) -> Names:
    """The common names of the source's classes, None for those that are left out."""
    known = {name for own in source.targets.values() for name in own}
    for name in entry.classes:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"{where}: {entry.source} has no class {name!r}; mend its classes{near}")
    if not entry.classes:
        return {target: tuple(own) for target, own in source.targets.items()}
    return {target: tuple(map(entry.classes.get, own)) for target, own in source.targets.items()}


def _common(recipe: Recipe, maps: Sequence[Names]) -> dict[str, tuple[str, ...]]:
    """The common names of the classes of each target: as stated, else in the order in which the sources name them."""
    found: dict[str, dict[str, None]] = {}
    for own in maps:
        for target, names in own.items():
            found.setdefault(target, {}).update(dict.fromkeys(name for name in names if name is not None))
    for target, stated in recipe.classes.items():
        check_choice(f"{recipe.where}: the target", target, found)
        lacking = [name for name in found[target] if name not in stated]
        if lacking:
            raise UserError(
                f"{recipe.where}: classes of {target} lack {lacking[0]!r}, to which a source's classes are mapped; add "
                "it, or map them to ~"
            )
    common = {target: tuple(recipe.classes.get(target, names)) for target, names in found.items()}
    if "masks" in common:
        common["masks"] = common["boxes"]
    empty = [target for target, names in common.items() if not names]
    if empty:
        raise UserError(f"{recipe.where}: all classes of {empty[0]} are left out; map some of them")
    return common


def _tables(own: Names, common: Mapping[str, Sequence[str]]) -> dict[str, Int[np.ndarray, "own"]]:
    """For each target the common class of each of the source's classes, or LEFT_OUT."""
    return {
        target: np.array([LEFT_OUT if name is None else common[target].index(name) for name in names], np.int32)
        for target, names in own.items()
    }


def _odd(entry: Entry, part: Renamed, own: Names) -> list[str]:
    """Reports what the source itself reports, what the map leaves out, and common classes that the source lacks."""
    lines = [getattr(part.source, "oddities", "")]
    for target, names in own.items():
        lost = [name for name, mapped in zip(part.source.targets[target], names, strict=True) if mapped is None]
        lacking = [name for name in part.common[target] if name not in names]
        if target == "masks":  # those of the boxes
            continue
        if lost:
            lines.append(f"odd classes of {entry.source}: {_left_out(target, lost, part)}")
        if lacking and target != "label":
            lines.append(
                f"odd classes of {entry.source}: it has no {target} of {_few(lacking)}; what its images show of them "
                "is learned as something else"
            )
    return lines


def _left_out(target: str, lost: Sequence[str], part: Renamed) -> str:
    store = getattr(part.source, "store", None)
    if target == "boxes":
        dropped = "" if store is None else f"{len(store.flat) - int(part.box_counts[:, 0].sum()):,} "
        return f"{dropped}objects of {_few(lost)} dropped"
    return f"labels {_few(lost)} removed" if target == "label" else f"pixels of {_few(lost)} ignored"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _recipe(argument: str) -> Recipe:
    if argument.endswith((".yaml", ".yml")):
        path = Path(argument).expanduser()
        return _read(path, f"mix:{path}")
    where = f"mix:{argument}"
    return Recipe([_inline(each.strip(), where) for each in argument.split(" + ")], {}, where)


def _inline(text: str, where: str) -> Entry:
    found = INLINE.fullmatch(text)
    if not found[2]:
        raise UserError(f"config.data.source is {where!r}; {FORM}")
    return _entry({"source": found[2], "weight": (found[1] or "1").strip()}, where)


def _read(path: Path, where: str) -> Recipe:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}); mend it") from error
    content = {"sources": content} if isinstance(content, list) else content
    if not isinstance(content, dict) or not isinstance(content.get("sources"), list) or not content["sources"]:
        raise UserError(f"{path}: holds no list of sources; write '- source: coco:/data/coco' for each")
    for key in content:
        check_choice(f"{path}: the field", str(key), ("sources", "classes"))
    classes = content.get("classes") or {}
    if not isinstance(classes, dict) or not all(_is_names(names) for names in classes.values()):
        raise UserError(f"{path}: classes must be a list of names per target: {{boxes: [car, sign]}}; mend it")
    entries = [_entry(each, f"{path}: source {k}") for k, each in enumerate(content["sources"], start=1)]
    return Recipe(entries, {target: tuple(names) for target, names in classes.items()}, where)


def _is_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _entry(given: Any, where: str) -> Entry:
    if not isinstance(given, dict) or not isinstance(given.get("source"), str):
        raise UserError(f"{where}: has no source; write 'source: coco:/data/coco'")
    for key in given:
        check_choice(f"{where}: the field", str(key), FIELDS)
    source = given["source"].strip()
    sources.check_kind(source)
    if source.startswith("mix:"):
        raise UserError(f"{where}: a mix within a mix; list its sources here, each with its weight")
    classes = given.get("classes") or {}
    if not isinstance(classes, dict) or not all(
        isinstance(own, str) and isinstance(name, str | None) for own, name in classes.items()
    ):
        raise UserError(f"{where}: classes must map own names to common ones: {{person: pedestrian}}; mend it")
    stated = {split: given[f"{split}_split"] or "" for split in SPLITS if f"{split}_split" in given}
    if not all(isinstance(each, str) for each in stated.values()):
        raise UserError(f"{where}: a split must be a text, such as train[:90%]; mend it")
    return Entry(source, _weight(given.get("weight", 1), where), classes, stated)


def _weight(given: Any, where: str) -> Fraction:
    try:
        weight = Fraction(str(given))
        if weight > 0 and not isinstance(given, bool):
            return weight
    except (ValueError, ZeroDivisionError):
        pass
    raise UserError(f"{where}: the weight {given!r:.60} is not a number above 0; mend it")
