"""TIDE: what a detector's AP loses to each kind of error, of the detections that tasks/detections.py gathers.

The AP is that at IoU 0.5. Each wrong detection, and each object that is found by none, has one kind of error, the first
of these that fits; overlaps are IoUs with objects:

    loc     of its class, 0.1 to 0.5: the box, or mask, is wrong
    cls     of another class, at least 0.5: the class is wrong
    dupe    of its class, at least 0.5: a detection of a higher score has that object
    bkg     at most 0.1 with any object: there is nothing
    both    the others: class and box are wrong
    miss    an object that is neither found nor meant by a detection of the kinds `loc` and `cls`

dAP of a kind is by how much the AP would grow without it: a detection of the kind `loc` or `cls` becomes right, if its
object is free and it has the highest score of all that mean this object; the others vanish; missed objects are not
asked for. The two special ones: `fp` without any wrong detection, `fn` without any object that is not found.

The rules, ties among scores included, are those of the authors' tidecv 1.0.1 (tests/tasks/test_tide.py). They differ
from COCO's: 100 detections per image count, not per image and class; a class that is only predicted, not true, counts
as one of AP 0, so that the AP may lie below COCO's `ap50`; in the changed AP a wrong detection comes before a right
one of the same score. A wrong detection more than half of which lies in a crowd of its class does not count. A
difficult object, which tidecv does not know, spares wrong detections of its class that overlap it by more than 0.5.

Source: Bolya et al. 2020, "TIDE: A general toolbox for identifying object detection errors", sections 2 and 3.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core import mask as rle
from jaxtyping import Bool, Float, Int

from morphism.tasks.detections import Columns, Metrics, columns

KINDS = ("cls", "loc", "both", "dupe", "bkg", "miss")
SPECIAL = ("fp", "fn")
CLS, LOC, BOTH, DUPE, BKG, MISS = range(6)
RIGHT = -1
FOREGROUND, BACKGROUND = 0.5, 0.1  # IoUs
MOST = 100  # detections per image
TITLES = {
    "cls": "classification",
    "loc": "localisation",
    "both": "class and place",
    "dupe": "duplicate",
    "bkg": "background",
    "miss": "missed",
    "fp": "all wrong detections",
    "fn": "all objects not found",
}
RECALLS = np.array([each / 100 for each in range(101)])


class Judged(NamedTuple):
    """Detections, D, and objects, T, of one image or of all.

    kind: of a detection, RIGHT or CLS ... BKG. counts: False for a wrong one that is spared.
    mended: whether it becomes right without its kind of error; then it is of the class `becomes`.
    objects: the class of each object. found: whether a detection has it. missed: whether its kind is MISS.
    """

    classes: Int[np.ndarray, "d"]
    scores: Float[np.ndarray, "d"]
    kind: Int[np.ndarray, "d"]
    counts: Bool[np.ndarray, "d"]
    mended: Bool[np.ndarray, "d"]
    becomes: Int[np.ndarray, "d"]
    objects: Int[np.ndarray, "t"]
    found: Bool[np.ndarray, "t"]
    missed: Bool[np.ndarray, "t"]


def summarise(metrics: Metrics, classes: Sequence[str], of_outlines: bool = False) -> dict[str, Any]:
    """The AP at IoU 0.5, `ap50`; the dAP of each kind of error and of the special ones; `errors`, how many of each.

    In 0..1; -1 if there are no objects. Overlaps are those of boxes, or `of_outlines`.
    """
    judged = judge(metrics, of_outlines)
    errors = {name: int(np.sum(judged.kind == kind)) for kind, name in enumerate(KINDS)}
    errors["miss"] = int(np.sum(judged.missed))
    if not len(judged.objects):
        return {"ap50": -1.0, "dap": dict.fromkeys((*KINDS, *SPECIAL), -1.0), "errors": errors}
    count = len(classes)
    asked, right = np.bincount(judged.objects, minlength=count), judged.kind == RIGHT
    before = _mean_ap(judged.classes, judged.scores, right, judged.counts, asked)
    order = np.concatenate([np.flatnonzero(~right), np.flatnonzero(right)])  # as tidecv ranks them if scores are equal
    changed = Judged(*(value[order] for value in judged[:6]), *judged[6:])
    right = right[order]
    without = {name: max(_without(changed, kind, asked) - before, 0.0) for kind, name in enumerate(KINDS)}
    without["fp"] = _mean_ap(changed.classes, right.astype(float), right, changed.counts, asked) - before
    found = np.bincount(judged.objects[judged.found], minlength=count)
    without["fn"] = _mean_ap(changed.classes, changed.scores, right, changed.counts, found) - before
    return {"ap50": before, "dap": without, "errors": errors}


def table(summary: dict[str, Any] | None, front: str = "") -> dict[str, float]:
    """The dAP of each kind by the name to print, which starts with `front`; nothing if it was not measured (None)."""
    if summary is None:
        return {}
    return {f"{front}dap, {TITLES[name]}": value for name, value in summary["dap"].items()}


def judge(metrics: Metrics, of_outlines: bool = False) -> Judged:
    """The kinds of error of all detections and objects."""
    images, found, true = columns(metrics)
    ignored = true["crowd"] | true["difficult"] | (~true["known"] if of_outlines else False)
    # Images in the order of evaluation, and the detections of each from the highest score on.
    position = np.argsort(np.argsort(images, kind="stable"), kind="stable")
    at = {kind: position[np.searchsorted(np.sort(images), rows["image"])] for kind, rows in (("f", found), ("t", true))}
    ranked = np.lexsort((-found["score"], at["f"]))
    rows = (
        _split(ranked, at["f"][ranked], len(images)),
        _split(np.argsort(at["t"], kind="stable"), np.sort(at["t"]), len(images)),
    )
    each = [
        _judge_image(
            {name: column[of_found[:MOST]] for name, column in found.items()},
            {name: column[of_true] for name, column in true.items()},
            ignored[of_true],
            of_outlines,
        )
        for of_found, of_true in zip(*rows, strict=True)
    ]
    return Judged(*(np.concatenate(column) for column in zip(*each, strict=True)))


def _judge_image(found: Columns, true: Columns, ignored: Bool[np.ndarray, "t"], of_outlines: bool) -> Judged:
    overlap = _overlaps(found, true, true["crowd"], of_outlines)
    classes = found["class"].astype(np.int64)
    objects = true["class"][~ignored].astype(np.int64)
    in_ignored = (overlap[:, ignored] > FOREGROUND) & (classes[:, None] == true["class"][ignored])
    overlap = overlap[:, ~ignored]
    same = classes[:, None] == objects
    owner, holder = _matched(overlap * same)
    kind, meant = _kinds(overlap, same, owner, holder)
    # Of those that mean a free object the first, which has the highest score, becomes right.
    mended = np.zeros(len(classes), bool)
    free = (meant >= 0) & (np.append(holder, 0)[meant] < 0)
    mended[np.flatnonzero(free)[np.unique(meant[free], return_index=True)[1]]] = True
    taken = holder >= 0
    hinted = np.zeros(len(objects), bool)
    hinted[meant[free]] = True
    becomes = np.where(mended, np.append(objects, 0)[meant], classes)
    spared = (owner < 0) & in_ignored.any(axis=1)
    return Judged(classes, found["score"], kind, ~spared, mended, becomes, objects, taken, ~taken & ~hinted)


def _matched(overlap: Float[np.ndarray, "d t"]) -> tuple[Int[np.ndarray, "d"], Int[np.ndarray, "t"]]:
    """Each detection's object, and each object's detection, -1 for none: the first detection chooses first."""
    owner, holder = np.full(overlap.shape[0], -1), np.full(overlap.shape[1], -1)
    left = overlap.copy()
    for row in np.flatnonzero((overlap >= FOREGROUND).any(axis=1)).tolist():
        best = int(np.argmax(left[row]))
        if left[row, best] >= FOREGROUND:
            owner[row], holder[best] = best, row
            left[:, best] = 0
    return owner, holder


def _kinds(
    overlap: Float[np.ndarray, "d t"],
    same: Bool[np.ndarray, "d t"],
    owner: Int[np.ndarray, "d"],
    holder: Int[np.ndarray, "t"],
) -> tuple[Int[np.ndarray, "d"], Int[np.ndarray, "d"]]:
    """The kind of each detection, and the object that one of the kinds LOC and CLS means; -1 for the others."""
    count = len(owner)
    if not overlap.size:
        return np.full(count, BKG), np.full(count, -1)
    own, other = overlap * same, overlap * ~same
    best_own = own.max(axis=1)
    tests = {  # the first that holds
        RIGHT: owner >= 0,
        LOC: (best_own >= BACKGROUND) & (best_own <= FOREGROUND),
        CLS: other.max(axis=1) >= FOREGROUND,
        DUPE: (own * (holder >= 0)).max(axis=1) >= FOREGROUND,
        BKG: overlap.max(axis=1) <= BACKGROUND,
    }
    kind = np.select(list(tests.values()), list(tests), BOTH)
    meant = np.select([kind == LOC, kind == CLS], [own.argmax(axis=1), other.argmax(axis=1)], -1)
    return kind, meant


def _overlaps(
    found: Columns, true: Columns, crowd: Bool[np.ndarray, "t"], of_outlines: bool
) -> Float[np.ndarray, "d t"]:
    """IoU of each detection with each object; with a crowd the share of the detection that lies in it."""
    name = "segmentation" if of_outlines else "box"
    if not len(found[name]) or not len(true[name]):
        return np.zeros((len(found[name]), len(true[name])))
    if of_outlines:
        return np.asarray(rle.iou(list(found[name]), list(true[name]), crowd.tolist()))
    a, b = (np.concatenate([each[:, :2], each[:, 2:] - each[:, :2]], axis=1) for each in (found[name], true[name]))
    return np.asarray(rle.iou(a, b, crowd.tolist()))


def _without(judged: Judged, kind: int, asked: Int[np.ndarray, "k"]) -> float:
    """The AP without errors of a kind."""
    right = judged.kind == RIGHT
    if kind == MISS:
        asked = asked - np.bincount(judged.objects[judged.missed], minlength=len(asked))
        return _mean_ap(judged.classes, judged.scores, right, judged.counts, asked)
    of_kind = judged.kind == kind
    mended = of_kind & judged.mended
    classes = np.where(mended, judged.becomes, judged.classes)
    return _mean_ap(classes, judged.scores, right | mended, np.where(of_kind, mended, judged.counts), asked)


def _mean_ap(
    classes: Int[np.ndarray, "d"],
    scores: Float[np.ndarray, "d"],
    right: Bool[np.ndarray, "d"],
    counts: Bool[np.ndarray, "d"],
    asked: Int[np.ndarray, "k"],
) -> float:
    """The mean AP over the classes of which something is asked for or detected."""
    order = np.argsort(-scores, kind="stable")
    order = order[counts[order]]
    classes, right = classes[order], right[order]
    by_class = _split(np.argsort(classes, kind="stable"), np.sort(classes), len(asked))
    values = [
        _ap(right[rows], objects)
        for rows, objects in zip(by_class, asked.tolist(), strict=True)
        if len(rows) or objects
    ]
    return float(np.mean(values)) if values else 0.0


def _ap(right: Bool[np.ndarray, "d"], objects: int) -> float:
    """The mean precision at 101 recalls of detections, best first."""
    if not objects or not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    positions = np.searchsorted(hits / objects, RECALLS, side="left")
    return float(np.append(precision, 0.0)[positions].mean())


def _split(rows: Int[np.ndarray, "n"], group: Int[np.ndarray, "n"], groups: int) -> list[Int[np.ndarray, "m"]]:
    """The rows of each group; `group`, of each row, ascends."""
    return np.split(rows, np.searchsorted(group, np.arange(1, groups)))
