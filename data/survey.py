"""Surveys a source: reads every record once, counts what it holds, and lists what is bad."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from morphism.data import intensity, sources, targets
from morphism.data.canvases import listed, resized
from morphism.data.checks import check_split
from morphism.data.odd import RULES, Odd
from morphism.data.records import Source
from morphism.data.tally import Columns, Tally, counted, look, merged
from morphism.errors import UserError
from morphism.labels import IGNORE
from morphism.threads import cores, in_threads

SMALL, MEDIUM = 32**2, 96**2  # square pixels: upper limits of COCO's small and medium boxes
TINY = 8  # pixels: a cell of the finest maps that most detectors look at
RARE = 10  # objects, or images: with fewer of a class, little is learned of it
AT_ONCE = 16  # most records that a thread reads before it takes others
MERGED = 256  # tallies, which are then kept as one


class Survey(NamedTuple):
    """report: the counts, as JSON has them. images: what `duplicates` compares, a row per image that can be read."""

    report: dict[str, Any]
    images: Columns


def survey(source: Source, data: ConfigDict | None = None, title: str = "") -> Survey:
    """Counts over all records that can be read, and under "bad" the errors of the others.

    "classes" counts the classes of the source's main target, "other classes" those of its other targets. data: the
    fields of config.data that say at which size boxes are trained; without them, tiny boxes are those of tiny objects
    in the images as they are. title: of the progress bar.
    """
    tally = _tally(source, title)
    first, *others = source.targets
    sizes = tally.images.get("size", np.zeros((0, 2), np.int32))
    classes = {name: dict(zip(source.targets[name], n.tolist(), strict=True)) for name, n in tally.classes.items()}
    odd = tally.images.get("odd", np.zeros(0, np.int32))
    report = {
        "records": len(source),
        "targets": list(source.targets),
        "classes": classes[first],
        "other classes": {name: classes[name] for name in others},
        "lacking": {name: tally.lacking[name] for name in source.targets if tally.lacking[name]},
        "sizes": {f"{w} x {h}": n for (h, w), n in Counter(map(tuple, sizes.tolist())).most_common()},
        "image width / height": _spread(sizes[:, 1] / sizes[:, 0]),
        "odd images": {rule: count for each, rule in RULES.items() if (count := int(((odd & each) > 0).sum()))},
        "refused": [],  # for `refusals`
        "high-bit": _survey_values(source, odd),
        "bad": tally.bad,
    }
    if "segmentation" in source.targets:
        report["pixels"] = _pixel_shares(tally, source.targets["segmentation"])
    if tally.objects:
        report |= _survey_boxes(tally, data)
        report |= _survey_masks(tally.objects) if "masks" in source.targets else {}
    return Survey(report | {targets.get(first).ODD: getattr(source, "oddities", "")}, tally.images)


def refusals(source: Source, config: ConfigDict, split: str, trained: Mapping[str, Sequence[str]]) -> list[str]:
    """Why training would refuse the split as a whole; or evaluation, if `split` is not the one trained on.

    trained: the classes of each target of the split trained on; {} for that split itself.
    """
    training = split.partition("[")[0] == config.data.train_split.partition("[")[0]
    checks = [lambda: check_split(source, config, split, training=training)]
    if trained:
        checks.append(lambda: sources.with_classes(source, trained, f"{config.data.source} {split}"))
    found = []
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(str(error))
    return found


def missing(reports: Mapping[str, dict[str, Any]]) -> dict[str, list[str]]:
    """For each split the classes that it lacks and another one has."""
    counts = {split: report["classes"] for split, report in reports.items()}
    held = dict.fromkeys(name for each in counts.values() for name, count in each.items() if count)
    return {split: [name for name in held if not each.get(name)] for split, each in counts.items()}


def _tally(source: Source, title: str) -> Tally:
    """Of all records, read by threads; what they have read and not yet counted stays small."""
    step = max(1, min(AT_ONCE, len(source) // (4 * cores())))

    def read(start: int) -> Tally:
        rows = range(start, min(len(source), start + step))
        return merged([counted(look(source, row), row, source) for row in rows])

    blocks, held = [], []
    with tqdm(total=len(source), unit=" images", desc=title or None, disable=not sys.stderr.isatty()) as bar:
        for each in in_threads(read, range(0, len(source), step)):
            bar.update(min(step, len(source) - bar.n))
            held.append(each)
            if len(held) == MERGED:
                blocks.append(merged(held))
                held = []
    return merged([*blocks, *held])


def _survey_boxes(tally: Tally, data: ConfigDict | None) -> dict[str, Any]:
    objects, per_image = tally.objects, tally.images["boxes"]
    per_image, area = per_image[per_image >= 0], objects["area"]
    width, height = (objects["box"][:, 2:] - objects["box"][:, :2]).T
    report = {
        "boxes": len(area),
        "crowd": int(objects["crowd"].sum()),
        "difficult": int(objects["difficult"].sum()),
        "images without boxes": int((per_image == 0).sum()),
        "boxes per image": _spread(per_image),
        "box width": _spread(width),
        "box height": _spread(height),
        "box width / height": _spread(width / height),
        "small": int((area < SMALL).sum()),
        "medium": int(((area >= SMALL) & (area <= MEDIUM)).sum()),
        "large": int((area > MEDIUM).sum()),
    }
    if data is None:
        return report | {"tiny": int((np.minimum(width, height) < TINY).sum()), "tiny at": "their own size"}
    tiny = np.minimum(width, height) * _scales(objects["size"], data) < TINY
    return report | {
        "tiny": int(tiny.sum()),
        "tiny at": f"the training size, image_size={data.image_size}",
        "beyond max_boxes": {
            "max_boxes": data.max_boxes,
            "images": int((tally.images["slots"] > data.max_boxes).sum()),
            "most": int(tally.images["slots"].max()),
        },
    }


def _scales(sizes: np.ndarray, data: ConfigDict) -> np.ndarray:
    """By how much training shrinks the shorter side of images of `sizes` [n, 2]."""
    known, which = np.unique(sizes, axis=0, return_inverse=True)
    canvas = listed(data)[-1]
    scales = [min(resized((h, w), canvas, data)) / min(h, w) for h, w in known.tolist()]
    return np.array(scales)[which.ravel()]


def _survey_masks(objects: Columns) -> dict[str, Any]:
    known, areas = objects["known"], objects["mask"]
    return {
        "masks": int(known.sum()),
        "unknown masks": int((~known).sum()),
        "mask area": _spread(areas[known]),
        "mask / box area": _spread((areas / np.prod(objects["box"][:, 2:] - objects["box"][:, :2], axis=1))[known]),
    }


def _pixel_shares(tally: Tally, classes: Sequence[str]) -> dict[str, float]:
    """The share of pixels of each class, and of ignored ones, of all."""
    total = max(1, int(tally.pixels.sum()))
    shares = {name: tally.pixels[index] / total for index, name in enumerate(classes)}
    return {
        name: round(float(share), 6) for name, share in (shares | {"(ignored)": tally.pixels[IGNORE] / total}).items()
    }


def _survey_values(source: Source, odd: np.ndarray) -> str:
    """A clause on the values of high-bit images; "" if there are none."""
    if not (odd & Odd.DEEP).any():
        return ""
    return intensity.summarise(measured) if (measured := intensity.measure(source, seed=0)) else ""


def _spread(values: np.ndarray) -> dict[str, float]:
    named = zip(("least", "5 %", "median", "95 %", "most"), (0, 5, 50, 95, 100), strict=True)
    return {name: round(float(np.percentile(values, share)), 3) for name, share in named} if len(values) else {}
