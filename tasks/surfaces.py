"""Dice and surface distances per class and image, as medical papers report them.

The surface of a class consists of its pixels with a neighbour of another class, above, below, left or right; outside
the image, and where the truth is ignored, there is no class. Distances are Euclidean, from each surface pixel of one
map to the nearest surface pixel of the other, between the middles of pixels, in pixels or in millimetres.

dice            2 |found and true| / (|found| + |true|), in pixels of the class
hd95            the larger of the two directed 95th percentiles of the distances (interpolated linearly)
assd            average symmetric surface distance: the mean of all distances of both directions
surface_dice    share of the surface pixels of both maps within `tolerance` of the other surface

What is empty counts by one rule: in an image in which a class is in one map only, it is missed (true alone) or invented
(found alone); its Dice and surface Dice are 0, its distances the image's diagonal, which no real distance exceeds.
A class in neither map is absent from the image, which then does not count for it. Results hold the number of each.

Sources: Taha & Hanbury 2015, "Metrics for evaluating 3D medical image segmentation"; surface Dice: Nikolov et al. 2018,
"Deep learning to achieve clinically applicable segmentation of head and neck anatomy for radiotherapy". Surfaces,
percentile and means are those of MONAI 1.6: HausdorffDistanceMetric with percentile=95, SurfaceDistanceMetric with
symmetric=True, SurfaceDiceMetric.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int, UInt8

from morphism.labels import IGNORE

MEASURES = ("dice", "surface_dice", "hd95", "assd")
COUNTS = ("images", "missed", "invented", "absent")  # images: those that count, missed and invented among them
PERCENTILE = 95
ROUNDING = 1e-9  # relative: a distance of three pixels of 0.1 mm is within 0.3 mm

Classes = UInt8[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]
Sums = Float[np.ndarray, "8 k"]  # per class: the sum over images of each of MEASURES, then COUNTS


class Options(NamedTuple):
    """How surfaces are compared.

    spacing: height and width of a pixel in millimetres; (): distances are in pixels.
    tolerance: distance up to which surface pixels match, in the same unit.
    """

    spacing: tuple[float, ...] = ()
    tolerance: float = 2.0

    @property
    def unit(self) -> str:
        return "mm" if self.spacing else "px"

    @property
    def sides(self) -> Float[np.ndarray, "2"]:
        """Height and width of a pixel."""
        return np.array(self.spacing or (1.0, 1.0))


def empty(classes: int) -> Sums:
    """The sums over no images."""
    return np.zeros((len(MEASURES) + len(COUNTS), classes))


def measure(found: Classes, true: Classes, classes: int, options: Options) -> Sums:
    """The measures of one image, and 1 in the counts that apply; sums over images are sums of these."""
    sums = empty(classes)
    diagonal = float(np.hypot(*(options.sides * true.shape)))
    maps = np.where(true == IGNORE, IGNORE, found), true
    regions = [scipy.ndimage.find_objects(each.astype(np.int16) + 1, max_label=classes) for each in maps]
    for number, boxes in enumerate(zip(*regions, strict=True)):
        present = [box for box in boxes if box]
        if len(present) == 2:
            part = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(*present, strict=True))
            masks = [each[part] == number for each in maps]
            values = (_dice(*masks), *_surface_measures(*masks, options))
        else:
            values = (0.0, 0.0, diagonal, diagonal)
        missed, invented = ((boxes[side] is None and bool(present)) for side in (0, 1))
        sums[:, number] = (*(values if present else np.zeros(4)), bool(present), missed, invented, not present)
    return sums


def distances(found: Mask, true: Mask, sides: Float[np.ndarray, "2"]) -> tuple[Float[np.ndarray, "n"], ...]:
    """The distance of each surface pixel of `found` to the surface of `true`, and the other way round.

    Neither mask may be empty. sides: height and width of a pixel. A tree of the surface's pixels is exact, and faster
    than a distance transform of the whole image.
    """
    surfaces = _surface(found), _surface(true)
    points = [np.argwhere(each) * sides for each in surfaces]
    trees = [scipy.spatial.KDTree(each, leafsize=32, balanced_tree=False) for each in points]
    both = surfaces[0] & surfaces[1]
    directed = []
    for side, other in ((0, 1), (1, 0)):
        away = ~both[surfaces[side]]  # the distance of the others is 0
        directed.append(np.zeros(len(points[side])))
        directed[side][away] = trees[other].query(points[side][away])[0]
    return tuple(directed)


def summarise(sums: Sums, classes: Sequence[str], options: Options) -> dict[str, Any]:
    """Means over the images that count, per class; the means of those over classes; the counts of each.

    A class that is absent from all images has None. Counts of all classes together are pairs of an image and a class.
    """
    values, counts = sums[: len(MEASURES)], sums[len(MEASURES) :].astype(int)
    known = counts[0] > 0
    means = values / np.maximum(counts[0], 1)
    together = means[:, known].sum(axis=1) / max(1, known.sum())
    return {
        "unit": options.unit,
        "tolerance": options.tolerance,
        **_entry(together, counts.sum(axis=1)),
        "per_class": {name: _entry(means[:, index], counts[:, index]) for index, name in enumerate(classes)},
    }


def table(summary: dict[str, Any]) -> dict[str, float | int]:
    """The numbers of `summarise` by the names to print: no mean without the counts of what it is over."""
    unit, tolerance = summary["unit"], summary["tolerance"]
    named = {
        "dice": "dice per image",
        "surface_dice": f"surface dice at {tolerance:g} {unit}",
        "hd95": f"hd95 in {unit}",
        "assd": f"assd in {unit}",
        "images": "images counted",
        "missed": "of these missed",
        "invented": "of these invented",
        "absent": "images without",
    }
    everything = {"all classes": summary, **summary["per_class"]}
    return {
        f"{title}, {name}": entry[key]
        for name, entry in everything.items()
        for key, title in named.items()
        if entry[key] is not None
    }


def _entry(means: Float[np.ndarray, "4"], counts: Int[np.ndarray, "4"]) -> dict[str, float | int | None]:
    """The means by name, None if no image counts, and the counts."""
    shown = means.tolist() if counts[0] else (None,) * len(MEASURES)
    return dict(zip((*MEASURES, *COUNTS), (*shown, *counts.tolist()), strict=True))


def _dice(found: Mask, true: Mask) -> float:
    return 2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true))


def _surface_measures(found: Mask, true: Mask, options: Options) -> tuple[float, float, float]:
    """surface_dice, hd95 and assd of two masks that are not empty."""
    directed = distances(found, true, options.sides)
    every = np.concatenate(directed)
    within = every <= options.tolerance * (1 + ROUNDING)
    return (
        float(np.mean(within)),
        max(float(np.percentile(each, PERCENTILE)) for each in directed),
        float(every.mean()),
    )


def _surface(mask: Mask) -> Mask:
    """The pixels of a mask with a neighbour that is not in it, above, below, left or right."""
    around = np.pad(mask, 1)
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return mask & ~inner
