"""A survey as text: what `morphism check` prints of a split, and of what splits have in common."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from morphism.data import targets
from morphism.data.survey import RARE, TINY

SHOWN = 5  # sizes; copies of each kind
CLASSES = 100


def describe(title: str, report: dict[str, Any]) -> str:
    """The report of `survey.survey` as text, the bad records last."""
    lines = [f"{title}: {report['records']:,} records, {len(report['classes'])} classes"]
    sizes = [f"{size} ({count:,})" for size, count in report["sizes"].items()]
    lines.append(_line("images", [*sizes[:SHOWN], *_more(len(sizes), "other sizes")]))
    if len(sizes) > 1:
        lines.append(_spread(report, "image width / height"))
    if report["lacking"]:
        lacking = [f"{name} {count:,} images" for name, count in report["lacking"].items()]
        lines.append(_line("not annotated", lacking))
    counts = [report["classes"], *report["other classes"].values()]
    for name, each in zip(report["targets"], counts, strict=True):
        lines.append(_line(targets.get(name).COUNTED, _counts(each)))
        lines += _imbalance(each)
    if "pixels" in report:
        shares = {name: share for name, share in report["pixels"].items() if share}
        lines.append(_line("pixels", _limited([f"{name} {share:.1%}" for name, share in shares.items()])))
    lines += _boxes(report) if "boxes" in report else []
    if "masks" in report:
        unknown = [f"{report['unknown masks']:,} unknown"] if report["unknown masks"] else []
        lines.append(_line("masks", [f"{report['masks']:,}", *unknown]))
        lines += [_spread(report, name) for name in ("mask area", "mask / box area")]
    odd = report[targets.get(report["targets"][0]).ODD]
    lines += [odd] if odd else []
    if report["odd images"]:
        lines.append(f"odd images: {'; '.join(f'{n:,} {rule}' for rule, n in report['odd images'].items())}")
    lines += [report["high-bit"]] if report["high-bit"] else []
    lines += [f"refused: {refusal}" for refusal in report["refused"]]
    lines += [f"bad: {problem}" for problem in report["bad"]]
    return "\n".join([*lines, f"bad records: {len(report['bad']):,}"])


def _boxes(report: dict[str, Any]) -> list[str]:
    shares = [f"{name} {report[name] / max(1, report['boxes']):.1%}" for name in ("small", "medium", "large")]
    kinds = [f"{report[name]:,} {name}" for name in ("crowd", "difficult") if report[name]]
    lines = [_line("boxes", [f"{report['boxes']:,}", *kinds, *shares])]
    lines += [_spread(report, name) for name in ("boxes per image", "box width", "box height", "box width / height")]
    lines.append(_line("without boxes", [f"{report['images without boxes']:,} images"]))
    if report.get("tiny"):
        share = report["tiny"] / report["boxes"]
        at = f"less than {TINY} pixels wide or high at {report['tiny at']}"
        lines.append(_line("tiny boxes", [f"{report['tiny']:,} ({share:.1%}) {at}"]))
    beyond = report.get("beyond max_boxes", {"images": 0})
    if beyond["images"]:
        found = f"{beyond['images']:,} images have more than max_boxes={beyond['max_boxes']}, up to {beyond['most']}"
        lines.append(_line("many boxes", [found]))
    return lines


def common(found: dict[str, Any], root: str) -> str:
    """What was found of several splits: `classes.missing` under "missing", and `copies.copies` under "copies".

    root: the folder that names are shown from.
    """
    lines = []
    for split, names in found["missing"].items():
        if names:
            more = [f"and {len(names) - 2 * SHOWN:,} more"] if len(names) > 2 * SHOWN else []
            lines.append(_line(f"missing in {split}", [*names[: 2 * SHOWN], *more]))
    held = found["copies"]
    for split, kinds in held["within"].items():
        lines += _within(split, kinds, root)
    for each in held["between"]:
        lines += _between(each, root)
    plain = f"; {held['plain']:,} images of one colour are compared by their pixels alone" if held["plain"] else ""
    compared = f"compared: pixels; and {held['rule']} (mirrored, turned or cropped copies are not found){plain}"
    none = [] if lines else ["no image occurs twice"]
    return "\n".join([*none, *lines, compared])


def _within(split: str, kinds: dict[str, list[list[str]]], root: str) -> list[str]:
    lines = []
    for kind, sign in (("exact", "="), ("near", "~")):
        if kinds[kind]:
            images = sum(map(len, kinds[kind]))
            lines.append(f"copies in {split}, {kind}: {images:,} images in {_number(len(kinds[kind]), 'group')}")
            lines += _named([f" {sign} ".join(_short(_few(each), root)) for each in kinds[kind]])
    if kinds["annotations differ"]:
        lines.append(f"copies in {split} whose annotations differ: {_number(len(kinds['annotations differ']), 'group')}")
        lines += _named([" = ".join(_short(_few(each), root)) for each in kinds["annotations differ"]])
    return lines


def _between(each: dict[str, Any], root: str) -> list[str]:
    first, second = each["splits"]
    count = len(each["exact"]) + len(each["near"])
    if not count:
        return []
    exact = [" = ".join(_short(names, root)) for names in each["exact"]]
    near = [f"{' ~ '.join(_short(names, root))} ({bits} bits, {share:.3f})" for *names, bits, share in each["near"]]
    kinds = ", ".join(f"{len(found):,} {kind}" for kind, found in (("exact", exact), ("near", near)) if found)
    return [
        f"leakage: {_number(count, 'image')} of {second} ({each['share']:.1%}) {'is' if count == 1 else 'are'} in {first} "
        f"too: {kinds}",
        *_named(exact),
        *_named(near),
    ]


def _named(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in [*lines[:SHOWN], *_more(len(lines), "more (--json names all)")]]


def _few(names: Sequence[str]) -> list[str]:
    return [*names[:SHOWN], *([f"{len(names) - SHOWN:,} more"] if len(names) > SHOWN else [])]


def _short(names: Iterable[str], root: str) -> list[str]:
    return [os.path.relpath(name, root) if root and name.startswith(root + os.sep) else name for name in names]


def _imbalance(counts: dict[str, int]) -> list[str]:
    """Lines on classes that occur seldom or never."""
    held = {name: count for name, count in counts.items() if count}
    if not held or len(counts) < 2:
        return []
    most, least = max(held, key=held.get), min(held, key=held.get)
    lines = []
    if held[most] > held[least]:
        lines.append(_line("imbalance", [f"{held[most] / held[least]:.3g} : 1 ({most} : {least})"]))
    for title, names in (
        (f"fewer than {RARE}", [name for name, count in held.items() if count < RARE]),
        ("without any", [name for name in counts if name not in held]),
    ):
        if names:
            lines.append(_line(title, [f"{_number(len(names), 'class', 'classes')}: {names[0]}", *names[1:SHOWN]]))
            lines[-1] += f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return lines


def _spread(report: dict[str, Any], name: str) -> str:
    return _line(name, [f"{key} {value:g}" for key, value in report[name].items()])


def _line(name: str, values: Iterable[str]) -> str:
    return f"  {name:<20}{', '.join(values)}" if len(name) < 20 else f"  {name} {', '.join(values)}"


def _counts(counts: dict[str, int]) -> list[str]:
    return _limited([f"{name} {count:,}" for name, count in counts.items()])


def _limited(shown: list[str]) -> list[str]:
    return shown if len(shown) <= CLASSES else [*shown[:CLASSES], f"and {len(shown) - CLASSES:,} more"]


def _more(count: int, what: str) -> list[str]:
    return [f"and {count - SHOWN:,} {what}"] if count > SHOWN else []


def _number(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"
