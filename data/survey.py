"""Surveys a source: reads every record, counts what it holds, lists what is bad, and draws samples."""

import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw
from tqdm import tqdm

from morphism.data import image, intensity, marks, sources, targets
from morphism.data.annotations import Annotations
from morphism.data.checks import check_split
from morphism.data.odd import RULES, Odd
from morphism.data.records import Source
from morphism.data.targets.masks import Shapes
from morphism.errors import UserError

SMALL, MEDIUM = 32**2, 96**2  # square pixels: upper limits of COCO's small and medium boxes
COLUMNS, ROWS, CELL = 5, 4, 320  # the grid of samples, and pixels per side of a cell
GAP = 6  # pixels between samples
LEGEND, NAME, LINE = 100, 160, 20  # most classes in the legend; width and height of a name in pixels


class Look(NamedTuple):
    """What a record holds. `problem` says why training would refuse it, or is "".

    truths: one per target; an empty one for those of `lacking`, which the record does not carry.
    """

    size: tuple[int, int] | None
    odd: Odd
    problem: str
    truths: dict[str, Any]
    lacking: frozenset[str] = frozenset()


def look(source: Source, index: int) -> Look:
    try:
        record = source[index]
        pixels, odd = image.decode(record["image"], record["name"])
        size = pixels.shape[:2]
        truths = {name: targets.get(name).read(record, size, source, index) for name in source.targets}
    except UserError as error:
        return Look(None, Odd(0), " ".join(str(error).split()), {})
    lacking = frozenset(name for name in source.targets if targets.get(name).KEY not in record)
    return Look(size, odd, "", truths, lacking)


def survey(source: Source) -> dict[str, Any]:
    """Counts over all records that can be read, and under "bad" the errors of the others.

    "classes" counts the classes of the source's main target, "other classes" those of its other targets.
    """
    found = list(_looks(source))
    read = [each for each in found if not each.problem]
    first, *others = source.targets
    report = {
        "records": len(source),
        "targets": list(source.targets),
        "classes": _class_counts(read, first, source.targets[first]),
        "other classes": {name: _class_counts(read, name, source.targets[name]) for name in others},
        "lacking": {name: count for name in source.targets if (count := sum(name in each.lacking for each in read))},
        "sizes": {f"{w} x {h}": n for (h, w), n in Counter(each.size for each in read).most_common()},
        "odd images": {rule: count for odd, rule in RULES.items() if (count := sum(odd in each.odd for each in read))},
        "refused": [],  # for `refusals`
        "high-bit": _survey_values(source, found),
        "bad": [each.problem for each in found if each.problem],
    }
    for name, counted in (("boxes", _survey_boxes), ("masks", _survey_masks)):
        known = [each.truths[name] for each in read if name in each.truths and name not in each.lacking]
        report |= counted(known) if known else {}
    return report | {targets.get(first).ODD: getattr(source, "oddities", "")}


def _class_counts(read: list[Look], target: str, classes: Sequence[str]) -> dict[str, int]:
    labels = [label for each in read for label in targets.get(target).classes(each.truths[target])]
    counts = np.bincount(np.array(labels, np.int64), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def refusals(source: Source, config: ConfigDict, split: str) -> list[str]:
    """Why training would refuse the split as a whole; or evaluation, if `split` is not the one trained on."""
    trained = config.data.train_split.partition("[")[0]
    training = split.partition("[")[0] == trained
    checks = [lambda: check_split(source, config, split, training=training)]
    if not training and trained in sources.splits(config.data):
        train = sources.load(config.data, config.data.train_split)
        classes = {target: train.targets[target] for target in config.data.targets if target in train.targets}
        checks.append(lambda: sources.with_classes(source, classes, f"{config.data.source} {split}"))
    found = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(str(error))
    return found


def _looks(source: Source) -> Iterator[Look]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = pool.map(lambda index: look(source, index), range(len(source)))
        yield from tqdm(looks, total=len(source), unit=" images", disable=not sys.stderr.isatty())


def _survey_boxes(annotated: list[Annotations]) -> dict[str, Any]:
    boxes, area, crowd, difficult = (
        np.concatenate([getattr(each, field) for each in annotated])
        for field in ("boxes", "area", "crowd", "difficult")
    )
    per_image = np.array([len(each) for each in annotated])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return {
        "boxes": len(boxes),
        "crowd": int(crowd.sum()),
        "difficult": int(difficult.sum()),
        "images without boxes": int((per_image == 0).sum()),
        "boxes per image": _spread(per_image),
        "box width": _spread(width),
        "box height": _spread(height),
        "box width / height": _spread(width / height),
        "small": int((area < SMALL).sum()),
        "medium": int(((area >= SMALL) & (area <= MEDIUM)).sum()),
        "large": int((area > MEDIUM).sum()),
    }


def _survey_masks(outlined: list[Shapes]) -> dict[str, Any]:
    known = np.concatenate([each.outlines.known for each in outlined])
    areas = np.concatenate([each.runs.areas for each in outlined])
    boxes = np.concatenate([each.objects.boxes for each in outlined])
    return {
        "masks": int(known.sum()),
        "unknown masks": int((~known).sum()),
        "mask area": _spread(areas[known]),
        "mask / box area": _spread((areas / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))[known]),
    }


def _survey_values(source: Source, found: list[Look]) -> str:
    """A clause on the values of high-bit images; "" if there are none."""
    if not any(each.odd & Odd.DEEP for each in found):
        return ""
    return intensity.summarise(measured) if (measured := intensity.measure(source, seed=0)) else ""


def _spread(values: np.ndarray) -> dict[str, float]:
    named = zip(("least", "5 %", "median", "95 %", "most"), (0, 5, 50, 95, 100), strict=True)
    return {name: round(float(np.percentile(values, share)), 3) for name, share in named} if len(values) else {}


def describe(title: str, report: dict[str, Any]) -> str:
    """The report as text, the bad records last."""
    lines = [f"{title}: {report['records']:,} records, {len(report['classes'])} classes"]
    sizes = [f"{size} ({count:,})" for size, count in report["sizes"].items()]
    lines.append(_line("images", [*sizes[:5], *([f"and {len(sizes) - 5:,} other sizes"] if len(sizes) > 5 else [])]))
    if report["lacking"]:
        lacking = [f"{name} {count:,} images" for name, count in report["lacking"].items()]
        lines.append(_line("not annotated", lacking))
    counts = [report["classes"], *report["other classes"].values()]
    for name, each in zip(report["targets"], counts, strict=True):
        lines.append(_line(targets.get(name).COUNTED, _counts(each)))
    if "boxes" in report:
        shares = [f"{name} {report[name] / max(1, report['boxes']):.1%}" for name in ("small", "medium", "large")]
        kinds = [f"{report[name]:,} {name}" for name in ("crowd", "difficult") if report[name]]
        lines.append(_line("boxes", [f"{report['boxes']:,}", *kinds, *shares]))
        for name in ("boxes per image", "box width", "box height", "box width / height"):
            lines.append(_line(name, [f"{key} {value:g}" for key, value in report[name].items()]))
        lines.append(_line("without boxes", [f"{report['images without boxes']:,} images"]))
    if "masks" in report:
        unknown = [f"{report['unknown masks']:,} unknown"] if report["unknown masks"] else []
        lines.append(_line("masks", [f"{report['masks']:,}", *unknown]))
        for name in ("mask area", "mask / box area"):
            lines.append(_line(name, [f"{key} {value:g}" for key, value in report[name].items()]))
    odd = report[targets.get(report["targets"][0]).ODD]
    lines += [odd] if odd else []
    if report["odd images"]:
        lines.append(f"odd images: {'; '.join(f'{n:,} {rule}' for rule, n in report['odd images'].items())}")
    lines += [report["high-bit"]] if report["high-bit"] else []
    lines += [f"refused: {refusal}" for refusal in report["refused"]]
    lines += [f"bad: {problem}" for problem in report["bad"]]
    return "\n".join([*lines, f"bad records: {len(report['bad']):,}"])


def _line(name: str, values: list[str]) -> str:
    return f"  {name:<20}{', '.join(values)}"


def _counts(counts: dict[str, int]) -> list[str]:
    shown = [f"{name} {count:,}" for name, count in counts.items()]
    return shown if len(shown) <= 100 else [*shown[:100], f"and {len(shown) - 100:,} more"]


def draw(source: Source, path: Path) -> None:
    """Draws a grid of records, evenly spread over the split; those that cannot be read stay black.

    Below are the colours of the first LEGEND classes that have positions in the image; a small box has no name.
    """
    colours = marks.colours(source.targets.values())
    count = min(COLUMNS * ROWS, len(source))
    placed = (classes for target, classes in source.targets.items() if targets.get(target).IS_PLACED)
    named = [name for name in dict.fromkeys(itertools.chain(*placed)) if name != marks.BACKGROUND][:LEGEND]
    top, columns = -(-count // COLUMNS) * CELL, COLUMNS * CELL // NAME
    sheet = Image.new("RGB", (COLUMNS * CELL, top + -(-len(named) // columns) * LINE))
    pen = ImageDraw.Draw(sheet)
    for index, name in enumerate(named):
        corner = (index % columns * NAME, top + index // columns * LINE + 3)
        marks.write(pen, name, corner, sheet.size, colours[name])
    for place, index in enumerate(np.linspace(0, len(source) - 1, count).astype(int)):
        try:
            sheet.paste(_sample(source, int(index), colours), (place % COLUMNS * CELL, place // COLUMNS * CELL))
        except UserError:
            continue
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--draw {path}: cannot be written ({error}); name a .png in a folder that exists") from error


def _sample(source: Source, index: int, colours: dict[str, marks.Colour]) -> Image.Image:
    """Draws a record with all its truths, the main target on top."""
    record = source[index]
    pixels = image.to_8_bits(image.decode(record["image"], record["name"])[0])
    sample = Image.fromarray(np.ascontiguousarray(pixels))
    scale = (CELL - GAP) / max(sample.size)
    sample = sample.resize([max(1, int(side * scale)) for side in sample.size])
    for name, classes in reversed(source.targets.items()):
        truth = targets.get(name).read(record, pixels.shape[:2], source, index)
        sample = targets.get(name).draw(sample, truth, scale, classes, [colours[each] for each in classes])
    return sample
