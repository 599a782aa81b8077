"""What derived settings depend on of a split: the sizes of its images and objects, and how many there are.

No image is decoded, and of a large split only a sample is looked at: a million images take as long as a thousand.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from morphism.data import image
from morphism.data.records import Boxed, Sized, Source
from morphism.errors import UserError

MOST = 1000  # records that are looked at, evenly spread over the split


@dataclass(frozen=True)
class Proportions:
    """The proportions of a split.

    records: how many there are.
    sizes: height and width of the images of a sample.
    objects: of the objects of the sample, without crowds and difficult ones: the root of the area of the box, as a
      share of the shorter side of its image. Empty where records have no boxes.
    most_boxes: of any image of the whole split; 0 where records have no boxes.
    """

    records: int
    sizes: Int[np.ndarray, "n 2"]
    objects: Float[np.ndarray, "m"]
    most_boxes: int

    @property
    def shorter(self) -> float:
        """The median of the images' shorter sides, in pixels."""
        return float(np.median(self.sizes.min(axis=1)))

    @property
    def aspect(self) -> float:
        """Height over width that suits all images: the median, or 1 where more than a tenth are turned against it."""
        ratios = self.sizes[:, 0] / self.sizes[:, 1]
        median = float(np.median(ratios))
        against = (ratios > 1) if median < 1 else (ratios < 1)
        return 1.0 if against.mean() > 0.1 else median

    def small(self, share: float = 0.05) -> float:
        """The size of small objects: that below which a `share` of them lies, as `objects` has it."""
        return float(np.quantile(self.objects, share))


def measure(source: Source, most: int = MOST) -> Proportions:
    """The proportions of `source`, from at most `most` of its records.

    Records that cannot be read are left out: training names them. Raises UserError if none can be read.
    """
    records = np.unique(np.linspace(0, len(source) - 1, min(len(source), most)).round().astype(int)).tolist()
    boxed = isinstance(source, Boxed) and "boxes" in source.targets
    sizes = np.asarray(source.sizes)[records] if isinstance(source, Sized) else _sizes(source, records)
    objects = [_objects(source, index) for index in records] if boxed else []
    return Proportions(
        records=len(source),
        sizes=np.asarray(sizes, np.int32),
        objects=np.concatenate([*objects, np.zeros(0)]),
        most_boxes=int(source.box_counts[:, 1].max()) if boxed else 0,
    )


def _sizes(source: Source, records: list[int]) -> list[tuple[int, int]]:
    found, error = [], None
    for index in records:
        try:
            record = source[index]
            found.append(image.size(record["image"], record["name"])[:2])
        except UserError as unreadable:
            error = error or unreadable
    if not found:
        raise error
    return found


def _objects(source: Boxed, index: int) -> Float[np.ndarray, "n"]:
    truth = source.annotations(index)
    boxes = truth.boxes[~truth.crowd & ~truth.difficult].astype(float)
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.sqrt(sides[:, 0] * sides[:, 1]) / min(source.sizes[index])
