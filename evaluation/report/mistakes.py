"""What goes wrong: the kinds of a detector's errors, what is confused with what, the best and the worst images."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from morphism.evaluation.report.markup import Html, joined, tag
from morphism.evaluation.report.reading import Evaluation, RunFiles, by_part
from morphism.evaluation.report.tables import Shown, cells_of, table
from morphism.evaluation.report.words import heads, number, of_image, run_name

JPEGS = 6_500_000  # bytes of small images in the whole report; base64 adds a third
MATRIX = 20  # most classes of a matrix; of more, those that are confused most
PAIRS = 12  # pairs of classes in the list of what is confused most
PER_CELL = 24  # images listed per cell
BACKGROUND = "background"

TIDE = {  # the sentences are those of Bolya et al. 2020, figure 2
    "cls": ("classification", "at the right place, but of another class"),
    "loc": ("localisation", "of the right class, but the box or mask overlaps too little: IoU 0.1 to 0.5"),
    "both": ("class and place", "of another class, and overlapping too little"),
    "dupe": ("duplicate", "right, but a detection of a higher score has the object already"),
    "bkg": ("background", "where no object is: IoU below 0.1"),
    "miss": ("missed", "an object for which there is no detection at all"),
    "fp": ("all wrong detections", "the AP gained if there were none"),
    "fn": ("all objects not found", "the AP gained if none were missed"),
}


# TIDE


def tide(runs: Sequence[RunFiles], shown: Shown) -> Html | None:
    """A table per part of the task, and for masks another, of dAP and counts."""
    tables = []
    for part in dict.fromkeys(part for each in shown if each for part in by_part(each.summary)):
        own = {index: by_part(each.summary).get(part, {}) for index, each in enumerate(shown) if each}
        for key, of, front in (("mask_tide", "masks", "mask_"), ("tide", "boxes", "")):
            measured = {index: each for index, each in own.items() if key in each}
            if measured:
                caption = f"{part}, {of}" if part else of
                tables.append(_tide_table(heads(runs, measured), list(measured.values()), key, front, caption))
    return joined(tables) if tables else None


def _tide_table(head: Sequence[Html], found: Sequence[Mapping[str, Any]], key: str, front: str, of: str) -> Html:
    largest = max(value for each in found for value in each[key]["dap"].values())

    def row(kind: str) -> Html:
        name, meaning = TIDE[kind]
        cells = []
        for each in found:
            value, count = each[key]["dap"][kind], each[key]["errors"].get(kind)
            amount = tag("small", "" if count is None else f"{count:,}", class_="count")
            cells.append(
                tag("td", _bar(value, largest), tag("span", number(value), class_="dap"), amount, class_="value")
            )
        return tag("tr", tag("th", name, tag("br"), tag("small", meaning), scope="row"), cells)

    aps = [
        tag("tr", tag("th", name, scope="row"), [tag("td", number(ap_of(each)), class_="value") for each in found])
        for name, ap_of in (
            ("AP (COCO)", lambda each: each[f"{front}ap"]),
            ("AP50 (COCO)", lambda each: each[f"{front}ap50"]),
            ("AP50 (TIDE)", lambda each: each[key]["ap50"]),
        )
    ]
    caption = f"Errors, {of}: the AP50 that each kind costs (dAP), and how many there are"
    return table(caption, ["kind", *head], [*aps, *map(row, TIDE)], "tide")


def _bar(value: float, largest: float) -> Html:
    width = 0 if largest <= 0 else max(0, round(100 * value / largest))
    rect = tag("rect", width=width, height=10, rx=2)
    return tag("svg", rect, class_="bar", viewBox="0 0 100 10", width=100, height=10, aria_hidden="true")


# Confusion


def confusions(run: RunFiles, shown: Evaluation, index: int) -> tuple[Html | None, list[dict[str, Any]]]:
    """A matrix per part of the task, and what its cells lead to: {"id", "cells": {"true,predicted": [ids]}}."""
    blocks, data = [], []
    for part in by_part(shown.summary):
        names = run.classes.get(part, []) if isinstance(run.classes, dict) else run.classes
        of_images = [(image["id"], _of_part(image, part)) for image in shown.images]
        cells = cells_of(by_part(shown.summary)[part].get("confusion")) or _summed(of_images)
        if not cells or not names:
            continue
        matrix = f"matrix-{index}-{len(data)}"
        names = [*names, BACKGROUND]
        kept = _kept(cells, len(names))
        pairs = [cell for cell, _ in Counter(_wrong(cells)).most_common(PAIRS)]
        drawn = {cell for cell in cells if set(cell) <= set(kept)} | set(pairs)
        data.append({"id": matrix, "run": index, "cells": _images_of(of_images, drawn)})
        blocks.append(_matrix(matrix, part, names, kept, cells, pairs))
    return (joined(blocks) if blocks else None), data


def _of_part(image: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    own = image.get("parts", {}).get(part) if part else image
    return own or {"cells": []}


def _summed(of_images: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[tuple[int, int], int]:
    total: Counter[tuple[int, int]] = Counter()
    for _, each in of_images:
        for true, found, count in each.get("cells", ()):
            total[true, found] += count
    return dict(total)


def _wrong(cells: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    return {cell: count for cell, count in cells.items() if cell[0] != cell[1]}


def _kept(cells: Mapping[tuple[int, int], int], classes: int) -> list[int]:
    """The classes of the matrix: those that occur, of more than MATRIX those that are confused most."""
    occurring = sorted({each for cell in cells for each in cell if each < classes})
    if len(occurring) <= MATRIX:
        return occurring
    confused: Counter[int] = Counter()
    for (true, found), count in _wrong(cells).items():
        confused[true] += count
        confused[found] += count
    return sorted(each for each, _ in confused.most_common(MATRIX))


def _images_of(of_images: Sequence[tuple[int, Mapping[str, Any]]], drawn: set[tuple[int, int]]) -> dict[str, list[int]]:
    """Cell -> the images in it, those with the most of it first, then those of the lowest score."""
    found: dict[tuple[int, int], list[tuple[int, float, int]]] = {}
    for image, each in of_images:
        for true, predicted, count in each.get("cells", ()):
            if (true, predicted) in drawn:
                found.setdefault((true, predicted), []).append((-count, each.get("score") or 0, image))
    return {f"{a},{b}": [image for *_, image in sorted(each)[:PER_CELL]] for (a, b), each in found.items()}


def _matrix(
    matrix: str,
    part: str,
    names: Sequence[str],
    kept: Sequence[int],
    cells: Mapping[tuple[int, int], int],
    pairs: Sequence[tuple[int, int]],
) -> Html:
    totals: Counter[int] = Counter()
    for (true, _), count in cells.items():
        totals[true] += count

    def cell(true: int, found: int) -> Html:
        count = cells.get((true, found), 0)
        if not count:
            return tag("td")
        share = 10 * count / max(totals[true], 1)
        heat = f"heat{min(10, max(1, round(share)))}{'' if true == found else ' wrong'}"
        return tag("td", _button(matrix, names, true, found, _short(count), count), class_=heat)

    corner = tag("th", "true ↓ predicted →", scope="col", class_="corner")
    head = [corner, *(tag("th", tag("span", names[each]), scope="col", class_="turned") for each in kept)]
    rows = [tag("tr", tag("th", names[true], scope="row"), [cell(true, found) for found in kept]) for true in kept]
    of = f"Confusion of {part}" if part else "Confusion"
    left = (
        "" if len(kept) == len({each for one in cells for each in one}) else f": the {len(kept)} classes confused most"
    )
    listed = tag(
        "ol",
        [
            tag(
                "li",
                _button(matrix, names, *pair, f"{names[pair[0]]} → {names[pair[1]]}", cells[pair]),
                f" {cells[pair]:,}",
            )
            for pair in pairs
        ],
        class_="pairs",
    )
    return tag(
        "div",
        table(f"{of}{left}; select a cell to see its images", head, rows, "matrix"),
        joined(tag("h4", "Confused most, true → predicted"), listed) if pairs else None,
        tag("div", class_="drill", id=matrix, aria_live="polite"),
    )


def _button(matrix: str, names: Sequence[str], true: int, found: int, text: str, count: int) -> Html:
    label = f"true {names[true]}, predicted {names[found]}: {count:,}"
    return tag(
        "button", text, type="button", data_matrix=matrix, data_cell=f"{true},{found}", aria_label=label, title=label
    )


def _short(count: int) -> str:
    """A count in at most four letters."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (count >= size and size > 1000):
            return f"{count / size:.0f}{unit}" if count >= 10 * size else f"{count / size:.1f}{unit}"
    return str(count)


# Images


def wanted(shown: Evaluation, data: Sequence[Mapping[str, Any]]) -> list[int]:
    """The images to show, most wanted first: the worst, the best, then in turn the first of each cell."""
    extremes = [*shown.index.get("worst", ()), *shown.index.get("best", ())]
    lists = [ids for each in data for ids in each["cells"].values()]
    turns = [ids[place] for place in range(PER_CELL) for ids in lists if place < len(ids)]
    return list(dict.fromkeys([*extremes, *turns]))


def embedded(shown: Evaluation, order: Sequence[int], budget: int) -> dict[int, dict[str, str]]:
    """The small images, as addresses that hold them, in `order` as long as `budget` lasts: bytes of JPEG."""
    found: dict[int, dict[str, str]] = {}
    for image in order:
        own = {
            kind: shown.small[f"{image}_{kind}.jpg"]
            for kind in ("found", "true")
            if f"{image}_{kind}.jpg" in shown.small
        }
        budget -= sum(map(len, own.values()))
        if budget < 0:
            break
        if own:
            found[image] = {
                kind: f"data:image/jpeg;base64,{base64.b64encode(each).decode()}" for kind, each in own.items()
            }
    return found


def facts(shown: Evaluation, image: Mapping[str, Any]) -> dict[str, Any]:
    """What is written below an image."""
    confidence = f" ({image['confidence']:.2f})" if "confidence" in image else ""
    return {
        "name": image["name"],
        "score": number(image.get("score")),
        "true": of_image(image, "true"),
        "found": of_image(image, "predicted") + confidence,
    }


def examples(
    runs: Sequence[RunFiles], index: int, shown: Evaluation, small: Mapping[int, Mapping[str, str]]
) -> Html | None:
    """The images with the lowest and the highest scores."""
    images = {image["id"]: image for image in shown.images}
    paired = any("true" in each for each in small.values())
    groups = []
    for kind, words in (("worst", "Lowest scores"), ("best", "Highest scores")):
        own = [
            _figure(index, each, facts(shown, images[each]), small.get(each, {}))
            for each in shown.index.get(kind, ())
            if each in images
        ]
        if own:
            groups.append(joined(tag("h4", words), tag("div", own, class_="gallery" if paired else "gallery single")))
    if not groups:
        return None
    sides = " The prediction is on the left, the truth on the right." if paired else ""
    note = tag("p", f"The score is the {shown.index['score']}.{sides}", class_="note")
    return joined(tag("h3", run_name(runs, index)), note, groups)


def _figure(index: int, image: int, each: Mapping[str, str], small: Mapping[str, str]) -> Html:
    texts = {"found": f"{each['name']}, predicted: {each['found']}", "true": f"{each['name']}, true: {each['true']}"}
    pictures = [
        tag("img", src=small[kind], alt=texts[kind], id=f"image-{index}-{image}-{kind}")
        for kind in ("found", "true")
        if kind in small
    ]
    score = tag("div", tag("b", each["score"]), " ", tag("span", each["name"], class_="file"))
    words = tag("dl", tag("dt", "predicted"), tag("dd", each["found"]), tag("dt", "true"), tag("dd", each["true"]))
    caption = tag("figcaption", score, words)
    return tag("figure", tag("div", pictures, class_="pair"), caption)
