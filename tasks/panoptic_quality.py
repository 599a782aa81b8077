"""Panoptic quality: how well segments are found and outlined, things and stuff alike.

A found and a true segment of one class match if their IoU is above 0.5, for which there is at most one pair. Then

    RQ = TP / (TP + FP / 2 + FN / 2)    recognition, the F1 of the matches
    SQ = sum of the matches' IoU / TP   segmentation
    PQ = SQ x RQ

Pixels that are void in the truth do not count in a union. A crowd is matched with nothing, and is not missed. A found
segment without a match is no mistake if more than half of it lies on void and on crowds of its class.

Source: Kirillov et al. 2019, "Panoptic segmentation", section 4; panopticapi, evaluation.py.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

MIN_IOU = 0.5
Sums = Float[np.ndarray, "k 4"]  # per class: the sum of the matches' IoU, then TP, FP and FN


class Segments(NamedTuple):
    """The segments of an image.

    map: the segment of each pixel; 0 is void.
    classes: of segments 1, 2, ... A segment without a pixel is none.
    crowd: which are crowds; only in the truth.
    """

    map: Integer[np.ndarray, "h w"]
    classes: Int[np.ndarray, "n"]
    crowd: Bool[np.ndarray, "n"]


def sums_of(found: Segments, true: Segments, count: int) -> Sums:
    """The sums of one image over its segments, for `count` classes."""
    rows, columns = len(true.classes) + 1, len(found.classes) + 1
    pairs = true.map.ravel().astype(np.int64) * columns + found.map.ravel()
    shared = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)  # pixels
    areas_true, areas_found = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    on_void, shared = shared[0, 1:], shared[1:, 1:]

    same = true.classes[:, None] == found.classes
    union = areas_true[:, None] + areas_found - shared - on_void
    iou = shared / np.maximum(union, 1)
    match = same & ~true.crowd[:, None] & (iou > MIN_IOU)

    ignored = on_void + (shared * (same & true.crowd[:, None])).sum(axis=0)
    missed = (areas_true > 0) & ~true.crowd & ~match.any(axis=1)
    wrong = (areas_found > 0) & ~match.any(axis=0) & (ignored <= areas_found / 2)
    at, _ = np.nonzero(match)
    counts = [
        np.bincount(true.classes[at], iou[match], count),
        np.bincount(true.classes[at], minlength=count),
        np.bincount(found.classes[wrong], minlength=count),
        np.bincount(true.classes[missed], minlength=count),
    ]
    return np.stack(counts, axis=1).astype(np.float64)


def qualities(sums: Sums) -> Float[np.ndarray, "k 3"]:
    """PQ, SQ and RQ per class, in 0..1; -1 for a class that is neither true nor found."""
    iou, right, wrong, missed = sums.T
    of = right + (wrong + missed) / 2
    each = np.stack([iou / np.maximum(of, 0.5), iou / np.maximum(right, 1), right / np.maximum(of, 0.5)], axis=1)
    return np.where(of[:, None] > 0, each, -1)


def means(sums: Sums, of: Bool[np.ndarray, "k"] | slice = slice(None)) -> tuple[float, float, float]:
    """The means of PQ, SQ and RQ over the classes `of` that occur; -1 if none does."""
    each = qualities(sums)[of]
    known = each[each[:, 0] >= 0]
    return tuple(map(float, known.mean(axis=0))) if len(known) else (-1.0, -1.0, -1.0)
