"""Recognises what lies at a path: `recognise("bccd")` finds the kind of source, such as voc:bccd.

`at` also takes a source whose kind is known, and `is_path` tells the two apart.

Formats with files of their own come before pairs of folders, and these before folders of images (Layout.rank), within a
rank in alphabetical order. Other formats that would fit are named, not read: a folder may hold the same objects twice.
If nothing fits, the dataset may lie deeper: the only one recognised among the folders within, no more than DEPTH levels
below, is taken. A file is recognised by what it describes: data.yaml, CVAT's annotations.xml, COCO's JSON.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from morphism.data.kinds import kinds, module_of
from morphism.data.layouts import DEPTH, VALIDATION, Layout, Look, Seen
from morphism.errors import UserError

VAL_FRACTION = 0.1  # cut from train where there is no validation split
CUT = (
    f"no validation split; {VAL_FRACTION:.0%} of train is held out for it, by a hash of each name "
    f"(config.data.val_fraction={VAL_FRACTION})"
)
LIKELY = ("folder", "yolo")  # named where nothing of any layout is there
SHOWN = 4  # of several datasets
WITHIN = 50  # most folders that are searched for the dataset


class Found(NamedTuple):
    """What lies at a path.

    source: in full, as for config.data.source. splits: those that it holds. about: all of it in a line for people.
    """

    source: str
    splits: tuple[str, ...]
    about: str


class _Match(NamedTuple):
    kind: str
    layout: Layout
    path: Path
    seen: Seen


def at(spec: str, data_dir: str = "") -> Found:
    """What a path holds, or a source such as voc:photos. Raises UserError as `recognise` and the source do."""
    kind, _, argument = spec.partition(":")
    if kind not in kinds() or is_path(spec):
        return recognise(spec)
    splits = tuple(module_of(kind).splits(argument, data_dir))
    return Found(spec, splits, f"{spec}: {_splits(splits)}")


def is_path(spec: str) -> bool:
    """Whether `spec` is a path without a kind; a folder that is called as a kind is, where the kind needs a path."""
    kind, colon, _ = spec.partition(":")
    there = bool(spec) and os.path.exists(os.path.expanduser(spec))
    if kind in kinds():
        return there and not colon and not getattr(module_of(kind), "ALONE", False)
    return there or (not colon and (os.sep in kind or kind.startswith("~")))  # the second: meant as a path


def recognise(path: str) -> Found:
    """Raises UserError if nothing is at `path`, or if it is none of the layouts, or several: it names the nearest."""
    root = Path(path).expanduser().absolute()
    if not root.exists():
        raise UserError(f"{path}: no such file or folder; correct the path")
    if not os.access(root, os.R_OK):
        raise UserError(f"{path}: cannot be read; make it readable")
    if root.is_file():
        return _described(*_of_file(root))
    matches = _matches(root)
    fitting = [match for match in matches if match.seen.whole]
    if not fitting:
        fitting = _within(root)
        if len({match.path for match in fitting}) > 1:
            several = list({match.path: match for match in reversed(fitting)}.values())[::-1]
            more = f", or one of {len(several) - SHOWN:,} more" if len(several) > SHOWN else ""
            raise UserError(f"{path}: holds several datasets; give one of them: {_listed(several[:SHOWN])}{more}")
    if not fitting:
        broken = next((match for match in matches if match.seen.broken), None)
        raise UserError(broken.seen.broken if broken else _refusal(root, matches))
    return _described(*fitting)


def fields(found: Found) -> dict[str, Any]:
    """The fields of config.data for `found`; without a validation split, VAL_FRACTION is cut from train."""
    has_val = any(name in found.splits for name in VALIDATION)
    return {
        "source": found.source,
        "train_split": "train",
        "val_split": "val",
        "val_fraction": 0.0 if has_val else VAL_FRACTION,
    }


def _matches(root: Path) -> list[_Match]:
    """Every layout, and how much of it lies at `root`, in the order in which they are tried."""
    look, found = Look(root), []
    for kind in kinds():
        module = module_of(kind)
        if layout := getattr(module, "LAYOUT", None):
            found.append(_Match(kind, layout, root, module.seen(look)))
    return sorted(found, key=lambda match: (match.layout.rank, match.kind))


def _within(root: Path) -> list[_Match]:
    """All that fits the datasets in folders within `root`; a dataset is not searched for others."""
    level, found = [root], []
    for _ in range(DEPTH):
        folders = [folder / name for folder in level for name in Look(folder).folders][:WITHIN]
        fitting = {folder: [match for match in _matches(folder) if match.seen.whole] for folder in folders}
        found += [match for matches in fitting.values() for match in matches]
        level = [folder for folder, matches in fitting.items() if not matches]
    return found


def _of_file(path: Path) -> tuple[_Match, ...]:
    """What a single file is: the description of a dataset."""
    found = []
    for kind in kinds():
        module = module_of(kind)
        if getattr(module, "describes", None) and module.describes(path):
            found.append(_Match(kind, module.LAYOUT, path, Seen((path.name,), ())))
    if not found:
        raise UserError(
            f"{path}: does not describe a dataset; give its folder, or a data.yaml of YOLO, a JSON of COCO or an "
            "annotations.xml of CVAT"
        )
    return tuple(found)


def _described(first: _Match, *others: _Match) -> Found:
    source = f"{first.kind}:{first.path}"
    module = module_of(first.kind)
    splits = tuple(module.splits(str(first.path), ""))
    known = getattr(module, "classes", None)
    parts = [
        f"{first.path}: {first.layout.what} ({', '.join(first.seen.found)})",
        *([_number(len(known(str(first.path), "")), "class", "classes")] if known else []),
        _splits(splits),
        f"read as {source}",
        *([f"it could also be read as {_listed(others)}"] if others else []),
    ]
    return Found(
        source,
        splits,
        ", ".join(parts[:-1] if others else parts) + (f"; {parts[-1]}" if others else ""),
    )


def _refusal(root: Path, matches: Sequence[_Match]) -> str:
    """Names the two layouts that are nearest: of which most is there, and least is lacking."""
    nearest = sorted(
        matches,
        key=lambda match: (
            -len(match.seen.found),
            not match.seen.found and match.kind not in LIKELY,
            len(match.seen.missing),
        ),
    )[:2]
    if not Look(root).entries:
        return f"{root}: is empty; put the data there, or correct the path"
    known = " and ".join(f"{each.layout.what} ({_lacking(each)})" for each in nearest)
    return (
        f"{root}: cannot tell what it holds; nearest are {known}; mend it, or write a kind before the path, such as "
        f"{nearest[0].kind}:{root}"
    )


def _lacking(match: _Match) -> str:
    if not match.seen.found:
        return f"needs {match.layout.needs}"
    return f"found {_joined(match.seen.found)}; lacks {_joined(match.seen.missing)}"


def _listed(matches: Iterable[_Match]) -> str:
    return _joined(list(dict.fromkeys(f"{match.kind}:{match.path}" for match in matches)))


def _splits(names: Sequence[str]) -> str:
    return f"{'split' if len(names) == 1 else 'splits'} {_joined(names)}"


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _number(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
