"""Reads the whole of a data source and tells what is in it, before a training finds out.

    python -m data.check voc:/data/VOCdevkit/VOC2007 [--split train] [--draw samples.png] [--json]

Every picture is decoded, and compared with the size that its annotations are for. What training would refuse is listed,
all of it, and the exit status is then 1; annotations that cannot be read at all end the command at the first (2).
`--draw` writes a grid of samples with their boxes or classes; `--json` prints the figures for other programs.
"""

import colorsys
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from PIL import Image, ImageDraw
from tqdm import tqdm

import cli
from data import image, sources
from data.annotations import Annotations, check_size
from data.boxes import IGNORE
from data.segmentation import check_mask
from data.sources import Record, Source
from errors import UserError

SMALL, MEDIUM = 32**2, 96**2  # square pixels: COCO's small boxes end, and its large ones begin
COLUMNS, ROWS, CELL = 5, 4, 320  # of the grid of samples; pixels


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
        if "segmentation" in record:
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
        "bad": [each.problem for each in found if each.problem],
    }
    annotated = [each.annotations for each in read if each.annotations is not None]
    if annotated:
        return report | _survey_boxes(annotated) | {"odd boxes": source.oddities}
    return report | ({"odd masks": source.oddities} if hasattr(source, "oddities") else {})


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
    lines += [report["odd masks"]] if report.get("odd masks") else []
    if "boxes" in report:
        shares = [f"{name} {report[name] / max(1, report['boxes']):.1%}" for name in ("small", "medium", "large")]
        kinds = [f"{report[name]:,} {name}" for name in ("crowd", "difficult") if report[name]]
        lines.append(_line("boxes", [f"{report['boxes']:,}", *kinds, *shares]))
        for name in ("boxes a picture", "box width", "box height", "box width / height"):
            lines.append(_line(name, [f"{key} {value:g}" for key, value in report[name].items()]))
        lines.append(_line("without boxes", [f"{report['pictures without boxes']:,} pictures"]))
        lines += [report["odd boxes"]] if report["odd boxes"] else []
    if report["odd pictures"]:
        lines.append(f"odd pictures: {'; '.join(f'{n:,} {rule}' for rule, n in report['odd pictures'].items())}")
    lines += [f"bad: {problem}" for problem in report["bad"]]
    return "\n".join([*lines, f"bad records: {len(report['bad']):,}"])


def _line(name: str, values: list[str]) -> str:
    return f"  {name:<20}{', '.join(values)}"


def _counts(counts: dict[str, int]) -> list[str]:
    shown = [f"{name} {count:,}" for name, count in counts.items()]
    return shown if len(shown) <= 100 else [*shown[:100], f"and {len(shown) - 100:,} more"]


def draw(source: Source, path: Path) -> None:
    """A grid of records evenly spread over the split; those that cannot be read are left black."""
    count = min(COLUMNS * ROWS, len(source))
    sheet = Image.new("RGB", (COLUMNS * CELL, -(-count // COLUMNS) * CELL))
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
    picture = Image.fromarray(np.ascontiguousarray(image.decode(record["image"], record["name"])[0]))
    scale = CELL / max(picture.size)
    picture = picture.resize([max(1, int(side * scale)) for side in picture.size])
    pen = ImageDraw.Draw(picture)
    if "segmentation" in record and "annotations" not in record:
        colours = np.array([_colour(label) for label in range(IGNORE)] + [(0, 0, 0)], np.uint8)
        mask = Image.fromarray(colours[record["segmentation"]]).resize(picture.size, Image.Resampling.NEAREST)
        return Image.blend(picture, mask, 0.5)
    if "annotations" not in record:
        pen.text((3, 3), source.classes[record["label"]], "white", stroke_width=1, stroke_fill="black")
        return picture
    found = record["annotations"]
    for box, label in zip((found.boxes * scale).tolist(), found.classes.tolist(), strict=True):
        color = _colour(label)
        x0, y0, x1, y1 = box
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=2)
        pen.text((x0 + 3, y0 + 1), source.classes[label], color, stroke_width=1, stroke_fill="black")
    return picture


def _colour(label: int) -> tuple[int, int, int]:
    return tuple(int(255 * part) for part in colorsys.hsv_to_rgb(label * 0.382 % 1, 0.9, 1))


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise UserError("give one source, such as folder:/pictures, voc:/data/VOC2007 or embedded")
    data = ConfigDict({"source": argv[1], "data_dir": _DATA_DIR.value, "val_fraction": 0.0, "split_seed": 0})
    source = sources.load(data, _SPLIT.value)
    report = survey(source)
    print(
        json.dumps(report, ensure_ascii=False, allow_nan=False)
        if _JSON.value
        else describe(f"{argv[1]} {_SPLIT.value}", report)
    )
    if _DRAW.value:
        draw(source, Path(_DRAW.value))
    if report["bad"]:
        sys.stdout.flush()
        sys.exit(1)


if __name__ == "__main__":
    _SPLIT = flags.DEFINE_string("split", "train", "Which of the source's splits.")
    _DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared TFDS datasets lie; TFDS's default.")
    _DRAW = flags.DEFINE_string("draw", "", "A PNG to write, with samples.")
    _JSON = flags.DEFINE_bool("json", False, "Print JSON.")
    cli.run(main, "data.check")
