"""What is predicted for one image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Shaped
from ml_collections import ConfigDict

from morphism.data.image import for_display
from morphism.data.loose import LooseImages
from morphism.tasks import Task
from morphism.tasks.task import Names, Predictions

SHOWN = 3  # lines of `repr`


@dataclass(frozen=True)
class Result:
    """The predictions for one image.

    index: its position among the images given. name: its path, or "image 3".
    predictions: the task's arrays [1,...] of this image.
    """

    index: int
    name: str
    predictions: Predictions = field(repr=False)
    _task: Task = field(repr=False)
    _classes: Names = field(repr=False)
    _source: LooseImages = field(repr=False)
    _data: ConfigDict = field(repr=False)

    @classmethod
    def of(
        cls, task: Task, classes: Names, source: LooseImages, data: ConfigDict, predictions: Predictions, row: int
    ) -> "Result":
        """That of a row of a batch; `data` is config.data."""
        index = int(predictions["id"][row])
        own = {name: value[row : row + 1] for name, value in predictions.items()}
        return cls(index, source.name(index), own, task, classes, source, data)

    def __repr__(self) -> str:
        lines = self.lines(0.25, SHOWN)
        shown = "; ".join(" ".join(map(str, line)) for line in lines[:SHOWN])
        return f"<Result {self.name}: {shown}{'; ...' if len(lines) > SHOWN else ''}>"

    @cached_property
    def found(self) -> dict[str, Any]:
        """The predictions as JSON values."""
        return self._task.describe(self.predictions, 0, self._classes)

    def described(self) -> "Result":
        """Itself, once `found` is known, so that a thread can prepare it."""
        self.found  # noqa: B018
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image as decoded."""
        height, width = self._source.sizes[self.index].tolist()
        return height, width

    def coco(self) -> Mapping[str, tuple[Sequence[str], list[dict[str, Any]]]]:
        """The results in COCO's format without an image's id, with the classes, by name: "detections"."""
        return self._task.coco_results(self.found, self._classes)

    def counts(self, threshold: float, most: int) -> tuple[int, int]:
        """How many detections `lines` has, and how many there are."""
        return self._task.counts(self.found, threshold, most)

    def lines(self, threshold: float, most: int) -> list[tuple[Any, ...]]:
        """The values of each line to print; of detections `most` that score at least `threshold`."""
        return self._task.lines(self.found, threshold, most)

    def mask(self, name: str = "") -> Shaped[np.ndarray, "h w"]:
        """The class of every pixel, uint8; of fused segments their ids, uint16; `name` is one of the task's masks."""
        return self._task.mask(self.predictions, 0, name)

    def annotated(self, threshold: float = 0.25, most: int = 50) -> PIL.Image.Image:
        """A copy of the image with its predictions drawn."""
        pixels = np.ascontiguousarray(for_display(self._source[self.index], self._data))
        drawn = self._task.annotate(pixels, self.predictions, 0, self._classes, threshold, most)
        return PIL.Image.fromarray(drawn)
