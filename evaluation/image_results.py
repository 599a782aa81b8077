"""Per-image results of an evaluation: a line of JSON per image, and small annotated images of some, for reports.

The images are chosen while the evaluation runs, since afterwards the predictions are gone: those with the lowest and
the highest scores, and the first few of each kind of confusion.
"""

import heapq
import io
import json
import zipfile
from typing import Any

from PIL import Image

from morphism.data import targets
from morphism.data.image import for_display
from morphism.data.records import Source, names
from morphism.evaluation.report.reading import INDEX
from morphism.runtime.paths import AnyPath, write_bytes, write_json_lines
from morphism.tasks import Task
from morphism.tasks.task import Metrics, Names, Predictions

WORST, BEST = 12, 6
PER_CELL = 4  # images of each wrong cell of the confusion matrix
CELLS = 3  # wrong cells for which an image may be kept, the largest first
SIDE, QUALITY = 320, 78  # of the small images: pixels of the longer side, JPEG's quality
TINY, CLEAR = 100, 92  # the quality of images that have fewer pixels, and are shown enlarged


class ImageResults:
    """Collects what Task.per_image says of each image, and keeps small images.

    Args:
      task, source, classes: what is evaluated.
      data: config.data.
      threshold, most: the detections that are drawn, as for Task.lines.
      confused: the most images that are kept because of what is confused in them; 0 keeps no image at all.
    """

    def __init__(
        self, task: Task, source: Source, classes: Names, data: Any, threshold: float, most: int, confused: int
    ):
        self._task, self._source, self._classes, self._data = task, source, classes, data
        self._threshold, self._most, self._confused = threshold, most, confused
        self._names = names(source)
        self._placed = any(targets.get(target).IS_PLACED for target in task.targets)
        self._lines: list[dict[str, Any]] = []
        self._worst: list[tuple[float, int]] = []  # heaps of (minus score, minus id) and (score, minus id)
        self._best: list[tuple[float, int]] = []
        self._cells: dict[tuple[Any, ...], list[tuple[int, int]]] = {}  # heaps of (count, minus id)
        self._small: dict[int, dict[str, bytes]] = {}

    def add(self, metrics: Metrics, predictions: Predictions) -> None:
        """Adds a batch; `metrics` are those to which it was added last."""
        results = self._task.per_image(metrics, predictions)
        for row, (index, result) in enumerate(zip(predictions["id"].tolist(), results, strict=True)):
            name = self._names[index].decode(errors="backslashreplace")
            self._lines.append({"id": index, "name": name, **result})
            if self._confused and self._chosen(index, result):
                self._small[index] = self._images(index, predictions, row)

    def _chosen(self, index: int, result: dict[str, Any]) -> bool:
        score = result["score"]
        extreme = False
        for heap, value, most in ((self._worst, score, WORST), (self._best, score and -score, BEST)):
            if score is None:
                continue
            each = (-value, -index)
            if len(heap) < most:
                heapq.heappush(heap, each)
                extreme = True
            elif each > heap[0]:
                heapq.heapreplace(heap, each)
                extreme = True
        return self._confuses(index, result) or extreme

    def _confuses(self, index: int, result: dict[str, Any]) -> bool:
        """Whether to keep an image for what is confused in it: of each cell the first few.

        An image with more than twice as much of it takes the place of the one with the least, so that few are drawn.
        """
        by_part = result.get("parts", {"": result})
        wrong = [
            (count, part, true, found)
            for part, each in by_part.items()
            for true, found, count in each["cells"]
            if true != found
        ]
        kept = False
        for count, *cell in sorted(wrong, key=lambda each: -each[0])[:CELLS]:
            heap = self._cells.setdefault(tuple(cell), [])
            if len(heap) < PER_CELL and sum(map(len, self._cells.values())) < self._confused:
                heapq.heappush(heap, (count, -index))
                kept = True
            elif heap and count > 2 * heap[0][0]:
                heapq.heapreplace(heap, (count, -index))
                kept = True
        return kept

    def _images(self, index: int, predictions: Predictions, row: int) -> dict[str, bytes]:
        """JPEGs of the image: "found", and "true" if what is true has positions in it."""
        pixels = for_display(self._source[index], self._data)
        if not self._placed:
            return {"found": _jpeg(pixels)}
        found = self._task.annotate(pixels, predictions, row, self._classes, self._threshold, self._most)
        return {"found": _jpeg(found), "true": _jpeg(self._task.annotate_truth(pixels, self._source, index))}

    def write(self, stem: AnyPath, remedy: str) -> AnyPath:
        """Writes <stem>_images.jsonl, and <stem>_images.zip if images were kept; returns the path of the first."""
        lines = sorted(self._lines, key=lambda each: each["id"])
        path = stem.with_name(f"{stem.name}_images.jsonl")
        write_json_lines(path, lines, remedy)
        if self._confused:
            worst, best = ([-index for _, index in sorted(heap, reverse=True)] for heap in (self._worst, self._best))
            index = {
                "score": self._task.image_score,
                "threshold": self._threshold,
                "worst": worst,
                "best": [each for each in best if each not in worst],
            }
            confused = (-index for heap in self._cells.values() for _, index in heap)
            kept = {each: self._small[each] for each in sorted({*worst, *best, *confused})}
            write_bytes(path.with_suffix(".zip"), _zipped(index, kept), remedy)
        return path


def _jpeg(pixels: Any) -> bytes:
    image, content = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(content, "JPEG", quality=CLEAR if max(image.size) < TINY else QUALITY, optimize=True)
    return content.getvalue()


def _zipped(index: dict[str, Any], images: dict[int, dict[str, bytes]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(INDEX, json.dumps(index, ensure_ascii=False, allow_nan=False))
        for number, each in images.items():
            for kind, jpeg in each.items():
                archive.writestr(f"{number}_{kind}.jpg", jpeg)
    return content.getvalue()
