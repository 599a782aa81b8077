"""How well an image's objects are found and outlined one by one, as papers on nuclei report it.

Objects are compared by their pixels, whatever their classes; an object without a pixel is none. Masks may overlap.

jaccard    TP / (TP + FP + FN), called AP or accuracy there. A found and a true object match if their IoU is above a
           threshold, each with one other at most, and as many as possible do. Pooled over the split, as in StarDist.
dsb        the mean of an image's jaccard over the thresholds 0.50, 0.55, ..., 0.95, then over images
aji        aggregated Jaccard index: each true object is paired with the found one of the highest IoU, which others may
           also be paired with; the sum of the pairs' intersections over the sum of their unions, of the true objects
           without overlap and of the found ones in no pair. Per image, then the mean; pooled: the sums of all images

An ignored object (a crowd, a difficult one, one without an outline) counts neither as true nor as missed, and a found
object in no pair with more than half of its pixels on ignored ones does not count either.

What is empty counts by one rule: an image with objects in the truth or in the prediction only is missed or invented,
and has 0. An image without both is absent, and not in the means over images.

Sources: Kumar et al. 2017, "A dataset and a technique for generalized nuclear segmentation", algorithm 1; Schmidt et
al. 2018, "Cell detection with star-convex polygons", section 3; Caicedo et al. 2019, "Nucleus segmentation across
imaging experiments: the 2018 Data Science Bowl".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from faster_coco_eval.core import mask as rle
from jaxtyping import Bool, Float, Int

from morphism.tasks import detections
from morphism.tasks.task import ratios

THRESHOLDS = tuple(range(50, 100, 5))  # of the IoU, in percent
SHOWN = (50, 60, 70, 80, 90)
COUNTS = ("images", "missed", "invented", "absent")  # images: those that count, missed and invented among them

Outline = dict[str, Any]  # COCO's: "size" is height and width, "counts" compressed run lengths
Outlined = Sequence[Outline] | np.ndarray
Shared = Int[np.ndarray, "found true"]  # pixels


class Sums(NamedTuple):
    """Sums over images. T thresholds.

    objects: TP, FP and FN.
    jaccard: of each image.
    aji: of each image; then the pixels of the intersections and of the unions.
    images: COUNTS.
    """

    objects: Int[np.ndarray, "3 t"]
    jaccard: Float[np.ndarray, "t"]
    aji: Float[np.ndarray, "3"]
    images: Int[np.ndarray, "4"]

    def plus(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


def summarise(metrics: detections.Metrics, score: float) -> dict[str, Any]:
    """The measures over all images that tasks/detections.py has gathered with outlines; of detections from `score` on.

    In 0..1; None where nothing counts. jaccard: by threshold, in percent. found, true: objects that count at 0.5.
    """
    return {"score": score, **numbers(sums_of(metrics, score))}


def empty() -> Sums:
    """The sums over no images."""
    count = len(THRESHOLDS)
    return Sums(np.zeros((3, count), np.int64), np.zeros(count), np.zeros(3), np.zeros(4, np.int64))


def sums_of(metrics: detections.Metrics, score: float) -> Sums:
    """The sums over the images that `summarise` is called with."""
    sums = empty()
    for images, found, true in zip(*(metrics[name] for name in ("images", "found", "true")), strict=True):
        counts = found["score"] >= score
        ignored = true["crowd"] | true["difficult"] | ~true["known"]
        for image in images:
            of_image = true["image"] == image
            sums = sums.plus(
                measure(
                    found["segmentation"][counts & (found["image"] == image)],
                    true["segmentation"][of_image & ~ignored],
                    true["segmentation"][of_image & ignored],
                )
            )
    return sums


def measure(found: Outlined, true: Outlined, ignored: Outlined = ()) -> Sums:
    """The sums of one image."""
    found, true, ignored = (_with_pixels(each) for each in (found, true, ignored))
    shared, (areas_found, areas_true) = _shared(found, true), (_areas(each) for each in (found, true))
    spared = _spared(found, ignored)
    union = areas_found[:, None] + areas_true - shared
    objects = np.array([_matches(100 * shared > each * union, spared) for each in THRESHOLDS]).T
    paired, intersection, union = _aggregated(shared, union, areas_true)
    union += int(areas_found[~paired & ~spared].sum())
    seen = bool((paired | ~spared).any())  # something is found that counts
    counts = seen or bool(true), bool(true) and not seen, seen and not true, not (seen or true)
    return Sums(
        objects,
        objects[0] / np.maximum(objects.sum(axis=0), 1),
        np.array([intersection / max(union, 1), intersection, union]),
        np.array(counts, np.int64),
    )


def numbers(sums: Sums) -> dict[str, Any]:
    """What `summarise` returns, but for the score."""
    matched, wrong, missed = sums.objects
    every, images = sums.objects.sum(axis=0), int(sums.images[0])
    jaccard = dict(zip(map(str, THRESHOLDS), ratios(matched, every), strict=True))
    return {
        "aji": sums.aji[0].item() / images if images else None,
        "aji_pooled": sums.aji[1].item() / sums.aji[2].item() if sums.aji[2] else None,
        "dsb": sums.jaccard.mean().item() / images if images else None,
        "jaccard": jaccard,
        "jaccard_per_image": dict(zip(jaccard, ratios(sums.jaccard, np.full(len(every), images)), strict=True)),
        "found": int(matched[0] + wrong[0]),
        "true": int(matched[0] + missed[0]),
        **dict(zip(COUNTS, sums.images.tolist(), strict=True)),
    }


def table(summary: dict[str, Any]) -> dict[str, float | int]:
    """The numbers of `summarise` by the names to print: no mean without the counts of what it is over."""
    jaccard = {f"TP / (TP + FP + FN) at IoU {each / 100}": summary["jaccard"][str(each)] for each in SHOWN}
    titles = {
        "aji": "aji, mean over images",
        "aji_pooled": "aji, pooled",
        "dsb": "dsb, mean over images",
        "found": f"objects found, of score {summary['score']:g}",
        "true": "objects true",
        "images": "images counted",
        "missed": "of these nothing found",
        "invented": "of these nothing true",
        "absent": "images without objects",
    }
    rows = jaccard | {title: summary[name] for name, title in titles.items()}
    return {title: value for title, value in rows.items() if value is not None}


def _with_pixels(outlines: Outlined) -> list[Outline]:
    every = list(outlines)
    return [each for each, area in zip(every, _areas(every), strict=True) if area > 0]


def _areas(objects: list[Outline]) -> Int[np.ndarray, "n"]:
    return np.asarray(rle.area(objects) if objects else (), np.int64)


def _shared(found: list[Outline], true: list[Outline]) -> Shared:
    """The pixels that each pair of objects shares."""
    if not found or not true:
        return np.zeros((len(found), len(true)), np.int64)
    shares = rle.iou(found, true, [1] * len(true))  # with a "crowd": the intersection over the found object's area
    return np.rint(np.asarray(shares) * _areas(found)[:, None]).astype(np.int64)


def _spared(found: list[Outline], ignored: list[Outline]) -> Bool[np.ndarray, "found"]:
    """Which objects have more than half of their pixels on ignored ones."""
    region = [rle.merge(ignored)] if ignored else []
    return 2 * _shared(found, region).sum(axis=1) > _areas(found)


def _matches(pairs: Bool[np.ndarray, "found true"], spared: Bool[np.ndarray, "found"]) -> tuple[int, int, int]:
    """TP, FP and FN if as many of `pairs` as possible are matched one to one."""
    partner = np.full(len(spared), -1)
    if pairs.any():
        partner = scipy.sparse.csgraph.maximum_bipartite_matching(scipy.sparse.csr_array(pairs), perm_type="column")
    matched = int(np.count_nonzero(partner >= 0))
    return matched, int(np.count_nonzero((partner < 0) & ~spared)), pairs.shape[1] - matched


def _aggregated(
    shared: Shared, union: Shared, areas_true: Int[np.ndarray, "true"]
) -> tuple[Bool[np.ndarray, "found"], int, int]:
    """Which found objects are in a pair; the pixels of intersections and of unions over the true objects."""
    paired = np.zeros(len(shared), bool)
    if not shared.any():
        return paired, 0, int(areas_true.sum())
    best = np.argmax(shared / union, axis=0)
    columns = np.arange(len(areas_true))
    overlap = shared[best, columns]
    paired[best[overlap > 0]] = True
    unions = np.where(overlap > 0, union[best, columns], areas_true)
    return paired, int(overlap.sum()), int(unions.sum())
