"""What is in a data source: every record read, its figures, what is bad about it, and a drawing of samples."""

import colorsys
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageDraw
from tqdm import tqdm

from morphism.data import image, intensity, sources
from morphism.data.annotations import Annotations, check_size
from morphism.data.checks import check_split, task_of
from morphism.data.records import Record, Source
from morphism.data.segmentation import check_mask
from morphism.errors import UserError
from morphism.labels import IGNORE

SMALL, MEDIUM = 32**2, 96**2  # square pixels: COCO's small boxes end, and its large ones begin
ODD = {"detection": "odd boxes", "segmentation": "odd masks", "classification": "odd files"}
COLUMNS, ROWS, CELL = 5, 4, 320  # of the grid of samples; pixels
GAP = 6  # pixels between samples
LEGEND, NAME, LINE = 100, 160, 20  # classes of masks that are named; the width and height of a name


class Look(NamedTuple):
    """What one record showed; `problem` is "" where training would take it."""

    size: tuple[int, int] | None
    odd: image.Odd
    problem: str
    classes: list[int]
    annotations: Annotations | None


def look(source: Source, index: int) -> Look:
    try:
        record = source[index]
        annotations = record.get("annotations")
        classes = _classes(record)
        pixels, odd = image.decode(record["image"], record["name"])
        if annotations is not None:
            check_size(record["name"], pixels.shape, source.sizes[index])
        elif "segmentation" in record:  # next to annotations, as in scenes, it has other numbers and is not used
            check_mask(record["name"], pixels.shape, record["segmentation"], len(source.classes))
        for label in classes:
            if not 0 <= label < len(source.classes):
                raise UserError(
                    f"{record['name']}: label {label} is outside the {len(source.classes)} classes; mend it"
                )
    except UserError as error:
        return Look(None, image.Odd(0), " ".join(str(error).split()), [], None)
    return Look(pixels.shape[:2], odd, "", classes, annotations)


def _classes(record: Record) -> list[int]:
    """Of the picture, of each object, or each that some pixel is of."""
    if "annotations" in record:
        return record["annotations"].classes.tolist()
    if "segmentation" in record:
        return [label for label in np.unique(record["segmentation"]).tolist() if label != IGNORE]
    return [record["label"]]


def survey(source: Source) -> dict[str, Any]:
    """The figures of all records that can be read, and under "bad" what is wrong with the others."""
    found = list(_looks(source))
    read = [each for each in found if not each.problem]
    labels = np.array([label for each in read for label in each.classes], np.int64)
    counts = np.bincount(labels, minlength=len(source.classes))
    report = {
        "records": len(source),
        "classes": dict(zip(source.classes, counts.tolist(), strict=True)),
        "sizes": {f"{w} x {h}": n for (h, w), n in Counter(each.size for each in read).most_common()},
        "odd pictures": {
            rule: count for odd, rule in image.RULES.items() if (count := sum(odd in each.odd for each in read))
        },
        "refused": [],  # of the split as a whole: see examine
        "high-bit": _survey_values(source, found),
        "bad": [each.problem for each in found if each.problem],
    }
    task = task_of(source)
    if task == "detection" and read:
        report |= _survey_boxes([each.annotations for each in read])
    return report | {ODD[task]: getattr(source, "oddities", "")}


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
    counted = "objects" if "boxes" in report else "pictures with" if "odd masks" in report else "labels"
    lines.append(_line(counted, _counts(report["classes"])))
    if "boxes" in report:
        shares = [f"{name} {report[name] / max(1, report['boxes']):.1%}" for name in ("small", "medium", "large")]
        kinds = [f"{report[name]:,} {name}" for name in ("crowd", "difficult") if report[name]]
        lines.append(_line("boxes", [f"{report['boxes']:,}", *kinds, *shares]))
        for name in ("boxes a picture", "box width", "box height", "box width / height"):
            lines.append(_line(name, [f"{key} {value:g}" for key, value in report[name].items()]))
        lines.append(_line("without boxes", [f"{report['pictures without boxes']:,} pictures"]))
    lines += [report[odd] for odd in ODD.values() if report.get(odd)]
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
    named = source.classes[:LEGEND] if task_of(source) == "segmentation" else ()
    top, columns = -(-count // COLUMNS) * CELL, COLUMNS * CELL // NAME
    sheet = Image.new("RGB", (COLUMNS * CELL, top + -(-len(named) // columns) * LINE))
    pen = ImageDraw.Draw(sheet)
    for label, name in enumerate(named):
        corner = (label % columns * NAME, top + label // columns * LINE + 3)
        _label(pen, name, corner, sheet.size, _colour(label))
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
    record = source[index]
    pixels = image.to_8_bits(image.decode(record["image"], record["name"])[0])
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = (CELL - GAP) / max(picture.size)
    picture = picture.resize([max(1, int(side * scale)) for side in picture.size])
    pen = ImageDraw.Draw(picture)
    if "segmentation" in record and "annotations" not in record:
        colours = np.array([_colour(label) for label in range(IGNORE)] + [(0, 0, 0)], np.uint8)
        mask = Image.fromarray(colours[record["segmentation"]]).resize(picture.size, Image.Resampling.NEAREST)
        return Image.blend(picture, mask, 0.5)
    if "annotations" not in record:
        _label(pen, source.classes[record["label"]], (0, 0), picture.size, (0, 0, 0))
        return picture
    found = record["annotations"]
    for box, label in zip((found.boxes * scale).tolist(), found.classes.tolist(), strict=True):
        color = _colour(label)
        x0, y0, x1, y1 = box
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=2)
        _label(pen, source.classes[label], (x0, y0), picture.size, color)
    return picture


def _label(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    size: tuple[int, int],
    colour: tuple[int, int, int],
) -> None:
    """`text` on a ground of `colour`, its upper left at `corner` or as near to it as lies within the image."""
    _, _, width, height = pen.textbbox((0, 0), text)
    x, y = (max(0, min(at, side - long - 3)) for at, side, long in zip(corner, size, (width, height), strict=True))
    pen.rectangle((x, y, x + width + 2, y + height + 1), fill=colour)
    light = np.dot(colour, (0.299, 0.587, 0.114)) > 127  # luma: ITU-R BT.601
    pen.text((x + 2, y), text, "black" if light else "white")


def _colour(label: int) -> tuple[int, int, int]:
    return tuple(int(255 * part) for part in colorsys.hsv_to_rgb(label * 0.382 % 1, 0.9, 1))
