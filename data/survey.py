"""What is in a data source: every record read, its figures, what is bad about it, and a drawing of samples."""

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
from morphism.data.records import Source
from morphism.errors import UserError

SMALL, MEDIUM = 32**2, 96**2  # square pixels: COCO's small boxes end, and its large ones begin
COLUMNS, ROWS, CELL = 5, 4, 320  # of the grid of samples; pixels
GAP = 6  # pixels between samples
LEGEND, NAME, LINE = 100, 160, 20  # classes of masks that are named; the width and height of a name


class Look(NamedTuple):
    """What one record showed; `problem` is "" where training would take it. truths: of each of the source's targets."""

    size: tuple[int, int] | None
    odd: image.Odd
    problem: str
    truths: dict[str, Any]


def look(source: Source, index: int) -> Look:
    try:
        record = source[index]
        pixels, odd = image.decode(record["image"], record["name"])
        size = pixels.shape[:2]
        truths = {name: targets.get(name).read(record, size, source, index) for name in source.targets}
    except UserError as error:
        return Look(None, image.Odd(0), " ".join(str(error).split()), {})
    return Look(size, odd, "", truths)


def survey(source: Source) -> dict[str, Any]:
    """The figures of all records that can be read, and under "bad" what is wrong with the others.

    "classes" are the counts of what the source is for; of its other targets they are in "other classes".
    """
    found = list(_looks(source))
    read = [each for each in found if not each.problem]
    first, *others = source.targets
    report = {
        "records": len(source),
        "targets": list(source.targets),
        "classes": _class_counts(read, first, source.targets[first]),
        "other classes": {name: _class_counts(read, name, source.targets[name]) for name in others},
        "sizes": {f"{w} x {h}": n for (h, w), n in Counter(each.size for each in read).most_common()},
        "odd pictures": {
            rule: count for odd, rule in image.RULES.items() if (count := sum(odd in each.odd for each in read))
        },
        "refused": [],  # of the split as a whole: see examine
        "high-bit": _survey_values(source, found),
        "bad": [each.problem for each in found if each.problem],
    }
    if "boxes" in source.targets and read:
        report |= _survey_boxes([each.truths["boxes"] for each in read])
    return report | {targets.get(first).ODD: getattr(source, "oddities", "")}


def _class_counts(read: list[Look], target: str, classes: Sequence[str]) -> dict[str, int]:
    labels = [label for each in read for label in targets.get(target).classes(each.truths[target])]
    counts = np.bincount(np.array(labels, np.int64), minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def refusals(source: Source, config: ConfigDict, split: str) -> list[str]:
    """What training, or evaluation where `split` is not what is trained on, would refuse of the split as a whole."""
    trained = config.data.train_split.partition("[")[0]
    training = split.partition("[")[0] == trained
    checks = [lambda: check_split(source, config, split, training=training)]
    if not training and trained in sources.splits(config.data):
        train = sources.load(config.data, config.data.train_split)
        checks.append(lambda: sources.with_classes(source, train.classes, f"{config.data.source} {split}"))
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
        yield from tqdm(looks, total=len(source), unit=" pictures", disable=not sys.stderr.isatty())


def _survey_boxes(annotated: list[Annotations]) -> dict[str, Any]:
    boxes, area, crowd, difficult = (
        np.concatenate([getattr(each, field) for each in annotated])
        for field in ("boxes", "area", "crowd", "difficult")
    )
    a_picture = np.array([len(each) for each in annotated])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return {
        "boxes": len(boxes),
        "crowd": int(crowd.sum()),
        "difficult": int(difficult.sum()),
        "pictures without boxes": int((a_picture == 0).sum()),
        "boxes a picture": _spread(a_picture),
        "box width": _spread(width),
        "box height": _spread(height),
        "box width / height": _spread(width / height),
        "small": int((area < SMALL).sum()),
        "medium": int(((area >= SMALL) & (area <= MEDIUM)).sum()),
        "large": int((area > MEDIUM).sum()),
    }


def _survey_values(source: Source, found: list[Look]) -> str:
    """What images of more than 8 bits store; "" where there are none."""
    if not any(each.odd & image.Odd.DEEP for each in found):
        return ""
    return intensity.summarise(measured) if (measured := intensity.measure(source, seed=0)) else ""


def _spread(values: np.ndarray) -> dict[str, float]:
    named = zip(("least", "5 %", "median", "95 %", "most"), (0, 5, 50, 95, 100), strict=True)
    return {name: round(float(np.percentile(values, share)), 3) for name, share in named} if len(values) else {}


def describe(title: str, report: dict[str, Any]) -> str:
    """The report as a person reads it, the bad records last."""
    lines = [f"{title}: {report['records']:,} records, {len(report['classes'])} classes"]
    sizes = [f"{size} ({count:,})" for size, count in report["sizes"].items()]
    lines.append(_line("pictures", [*sizes[:5], *([f"and {len(sizes) - 5:,} other sizes"] if len(sizes) > 5 else [])]))
    counts = [report["classes"], *report["other classes"].values()]
    for name, each in zip(report["targets"], counts, strict=True):
        lines.append(_line(targets.get(name).COUNTED, _counts(each)))
    if "boxes" in report:
        shares = [f"{name} {report[name] / max(1, report['boxes']):.1%}" for name in ("small", "medium", "large")]
        kinds = [f"{report[name]:,} {name}" for name in ("crowd", "difficult") if report[name]]
        lines.append(_line("boxes", [f"{report['boxes']:,}", *kinds, *shares]))
        for name in ("boxes a picture", "box width", "box height", "box width / height"):
            lines.append(_line(name, [f"{key} {value:g}" for key, value in report[name].items()]))
        lines.append(_line("without boxes", [f"{report['pictures without boxes']:,} pictures"]))
    odd = report[targets.get(report["targets"][0]).ODD]
    lines += [odd] if odd else []
    if report["odd pictures"]:
        lines.append(f"odd pictures: {'; '.join(f'{n:,} {rule}' for rule, n in report['odd pictures'].items())}")
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
    """A grid of records evenly spread over the split; those that cannot be read are left black.

    Below masks stand the colours of the first LEGEND classes.
    """
    count = min(COLUMNS * ROWS, len(source))
    named = source.targets.get("segmentation", ())[:LEGEND]
    top, columns = -(-count // COLUMNS) * CELL, COLUMNS * CELL // NAME
    sheet = Image.new("RGB", (COLUMNS * CELL, top + -(-len(named) // columns) * LINE))
    pen = ImageDraw.Draw(sheet)
    for label, name in enumerate(named):
        corner = (label % columns * NAME, top + label // columns * LINE + 3)
        marks.write(pen, name, corner, sheet.size, marks.colour(label))
    for place, index in enumerate(np.linspace(0, len(source) - 1, count).astype(int)):
        try:
            sheet.paste(_sample(source, int(index)), (place % COLUMNS * CELL, place // COLUMNS * CELL))
        except UserError:
            continue
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--draw {path}: cannot be written ({error}); name a .png in a folder that exists") from error


def _sample(source: Source, index: int) -> Image.Image:
    """A record with all its truths, what the source is for on top."""
    record = source[index]
    pixels = image.to_8_bits(image.decode(record["image"], record["name"])[0])
    sample = Image.fromarray(np.ascontiguousarray(pixels))
    scale = (CELL - GAP) / max(sample.size)
    sample = sample.resize([max(1, int(side * scale)) for side in sample.size])
    for name, classes in reversed(source.targets.items()):
        truth = targets.get(name).read(record, pixels.shape[:2], source, index)
        sample = targets.get(name).draw(sample, truth, scale, classes)
    return sample
