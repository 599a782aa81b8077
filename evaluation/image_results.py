"""Per-image results of an evaluation: a line of JSON per image, and small annotated images of some, for reports.

The images are chosen while the evaluation runs, since afterwards the predictions are gone: those with the lowest and
the highest scores, and a few of each kind of confusion.
"""

import bisect
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
from morphism.runtime.processes import exchanged
from morphism.tasks import Task
from morphism.tasks.task import Metrics, Names, Predictions
from morphism.threads import in_threads

WORST, BEST = 12, 6
PER_CELL = 4  # images of each wrong cell of the confusion matrix
CELLS = 3  # wrong cells for which an image may be kept, the largest first
SIDE, QUALITY = 320, 78  # of the small images: pixels of the longer side, JPEG's quality
TINY, CLEAR = 100, 92  # the quality of images that have fewer pixels, and are shown enlarged


class Choice:
    """Which images are kept: the same whatever the order in which they are added, so that processes can share the work.

    The images with the lowest and the highest scores, and per wrong cell of the confusion matrix those with the most
    in it. Counts are compared by their number of bits, and the first image has precedence: so an image takes the place
    of another only if it has about twice as much, and few are drawn in vain.

    confused: the most images that are kept because of what is confused in them.
    """

    def __init__(self, confused: int):
        self._confused = confused
        self._worst: list[tuple[float, int]] = []  # heaps of (minus score, minus id) and (score, minus id)
        self._best: list[tuple[float, int]] = []
        self._cells: dict[tuple[Any, ...], list[tuple[int, int]]] = {}  # of (bits of the count, minus id), ascending

    def add(self, index: int, result: dict[str, Any]) -> bool:
        """Whether an image, of which Task.per_image says `result`, is among those that are kept so far."""
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
        by_part = result.get("parts", {"": result})
        wrong = [
            (count, part, true, found)
            for part, each in by_part.items()
            for true, found, count in each["cells"]
            if true != found
        ]
        largest = sorted(wrong, key=lambda each: -each[0])[:CELLS]
        return any([self._enters(tuple(cell), (count.bit_length(), -index)) for count, *cell in largest])

    def _enters(self, cell: tuple[Any, ...], each: tuple[int, int]) -> bool:
        """Adds an image to those of a cell. If the cell, or all, have enough, one with less of it leaves, or none."""
        own = self._cells.setdefault(cell, [])
        bisect.insort(own, each)
        if len(own) > PER_CELL:
            return own.pop(0) != each
        if sum(map(len, self._cells.values())) <= self._confused:
            return True
        least = min(self._cells, key=lambda of: (self._cells[of][0], of))
        left = self._cells[least].pop(0)
        if not self._cells[least]:
            del self._cells[least]
        return (left, least) != (each, cell)

    @property
    def worst(self) -> list[int]:
        """The ids of the images with the lowest scores, the lowest first."""
        return [-index for _, index in sorted(self._worst, reverse=True)]

    @property
    def best(self) -> list[int]:
        """The ids of those with the highest, the highest first."""
        return [-index for _, index in sorted(self._best, reverse=True)]

    @property
    def kept(self) -> list[int]:
        """The ids of all that are kept, ascending."""
        return sorted({*self.worst, *self.best, *(-index for own in self._cells.values() for _, index in own)})


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
        self._choice = Choice(confused)
        self._small: dict[int, dict[str, bytes]] = {}

    def add(self, metrics: Metrics, predictions: Predictions) -> None:
        """Adds a batch; `metrics` are those to which it was added last."""
        results = self._task.per_image(metrics, predictions)
        chosen = {}  # id -> row
        for row, (index, result) in enumerate(zip(predictions["id"].tolist(), results, strict=True)):
            name = self._names[index].decode(errors="backslashreplace")
            self._lines.append({"id": index, "name": name, **result})
            if self._confused and self._choice.add(index, result):
                chosen[index] = row
        drawn = in_threads(lambda each: self._images(each[0], predictions, each[1]), chosen.items())
        self._small |= dict(zip(chosen, drawn, strict=True))

    def add_other_processes(self) -> None:
        """Adds what the other processes have collected, of which each has its own images."""
        own = {index: self._small[index] for index in self._choice.kept}
        collected = exchanged((self._lines, own))
        self._lines = [line for lines, _ in collected for line in lines]
        self._small = {index: images for _, small in collected for index, images in small.items()}

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
            choice = Choice(self._confused)
            for line in lines:
                choice.add(line["id"], line)
            index = {
                "score": self._task.image_score,
                "threshold": self._threshold,
                "worst": choice.worst,
                "best": [each for each in choice.best if each not in choice.worst],
            }
            kept = {each: self._small[each] for each in choice.kept}
            write_bytes(path.with_suffix(".zip"), _zipped(index, kept), remedy)
        return path


def _jpeg(pixels: Any) -> bytes:
    image, content = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(content, "JPEG", quality=CLEAR if max(image.size) < TINY else QUALITY, optimize=True)
    return content.getvalue()


def _zipped(index: dict[str, Any], images: dict[int, dict[str, bytes]]) -> bytes:
    """The archive, without the time at which it was made: equal results are equal files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(INDEX), json.dumps(index, ensure_ascii=False, allow_nan=False))
        for number, each in images.items():
            for kind, jpeg in each.items():
                archive.writestr(zipfile.ZipInfo(f"{number}_{kind}.jpg"), jpeg)
    return content.getvalue()
