"""Numbers and names as a report writes them."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from morphism.evaluation.report.markup import Html, joined, tag
from morphism.evaluation.report.reading import RunFiles

LOWER_IS_BETTER = re.compile(r"(^|_|/)(loss|calibration_error|error|hd95|distance)")
LEAST, MOST = 0.005, 6  # classes named per image: smallest share, number
SHORT = {  # metrics whose names are abbreviations
    **{name: name.upper() for name in ("ap", "ap50", "ap75", "ar1", "ar10", "ar100", "pq", "sq", "rq")},
    **{"miou": "mIoU", "dice": "Dice", "top1": "top-1", "top5": "top-5", "voc10_ap50": "VOC 2010 AP", "mfu": "MFU"},
    **{"voc07_ap50": "VOC 2007 AP", "flops_per_s": "FLOP/s"},
}


def number(value: Any) -> str:
    """A number, with 4 decimals if it is small; a dash for none, and for -1, which stands for what does not exist."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value == -1 or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def quantity(value: float | None, units: Sequence[tuple[float, str]], unknown: str = "–") -> str:
    """A quantity in the first unit of which there is at least one, else in the last."""
    if value is None:
        return unknown
    size, unit = next((each for each in units if abs(value) >= each[0]), units[-1])
    amount = f"{value / size:.3g}" if abs(value / size) < 1000 else f"{value / size:,.0f}"
    return f"{amount}\N{NO-BREAK SPACE}{unit}"


COUNT = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))
BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
SECONDS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def title(metric: str) -> str:
    """A metric's name for people: "val/objects/ap50" is "objects AP50"."""
    *parts, name = metric.split("/")
    parts = [each for each in parts if each not in ("val", "train")]
    mask = name.removeprefix("mask_")
    own = SHORT.get(mask) or mask.replace("_", " ")
    own = re.sub(r"\biou\b", "IoU", own)
    own = re.sub(r"\b(ap|ar|pq|sq|rq)\b", lambda found: found[0].upper(), own)
    return " ".join([*parts, f"mask {own}" if mask != name else own])


def content(value: Any) -> str:
    """What is true of an image, or predicted: a class, classes with counts or shares, or these by part."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        kept = [f"{name} {_amount(each)}" for name, each in value.items() if each >= LEAST]
        return ", ".join(kept[:MOST]) or "nothing"
    return "–"


def _amount(value: Any) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, float) else f"× {value}"


def of_image(image: Mapping[str, Any], key: str) -> str:
    """`content` of "true" or "predicted" of an image, of all its parts."""
    if "parts" in image:
        return "; ".join(f"{part}: {content(each.get(key))}" for part, each in image["parts"].items())
    return content(image.get(key))


def letter(index: int) -> str:
    """A, B, ..., Z, 27, 28, ...: the mark of a run."""
    return chr(ord("A") + index) if index < 26 else str(index + 1)


def chip(index: int) -> Html:
    return tag("span", letter(index), class_=f"chip run{index % 8}", aria_hidden="true")


def run_name(runs: Sequence[RunFiles], index: int) -> Html:
    return joined(chip(index), " ", tag("span", runs[index].name, class_="name"))


def heads(runs: Sequence[RunFiles], of: Iterable[int] | None = None) -> list[Html]:
    """The heads of a table's columns, one per run, or per run in `of`."""
    columns = range(len(runs)) if of is None else of
    return [tag("th", run_name(runs, index), scope="col", class_="value") for index in columns]
