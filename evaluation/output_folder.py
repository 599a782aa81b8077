"""The folder that `morphism predict --output FOLDER` writes.

    <name>                 a copy of the image with its predictions; a video becomes an .mp4
    <name>.jsonl           of a video: a line per frame
    predictions.jsonl      a line per image and per video, in the order given
    detections.json        COCO's results, a list; detections_images.json has the images and categories that it means
    masks/<name>.png       the class of every pixel, with the palette of `classes.json`, which names the classes
    masks/<name>_panoptic.png  of fused parts: the id of each segment, R + 256 G + 65536 B as in COCO's panoptic
                           format; predictions.jsonl has the segments
    masks/<video>/000007.png   the same of each frame, numbered as in <video>.jsonl

Names are paths below the folder that was given, or of single files their names; where two would be the same, all are
paths below the lowest folder that holds all inputs. JPEG, PNG and WebP keep their format; others become PNG, with .png
after their name. Masks are called after the image without its suffix, unless two would then be the same.
"""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from morphism.data import marks
from morphism.errors import UserError
from morphism.evaluation.result import Result
from morphism.labels import IGNORE
from morphism.runtime.paths import write_json, write_json_lines
from morphism.tasks.panoptic_files import id_image
from morphism.tasks.task import Names, by_part

KEPT = (".jpg", ".jpeg", ".png", ".webp")
QUALITY = 92
REMEDY = "name another folder as --output, or make room"


class CocoRecords(NamedTuple):
    """An image's record in COCO's format, and per name of a file the classes and the image's results."""

    image: dict[str, Any]
    results: dict[str, tuple[Sequence[str], list[dict[str, Any]]]]

    @classmethod
    def of(cls, index: int, result: Result) -> "CocoRecords":
        """Those of the input `index`, from 0, whose id is one more."""
        height, width = result.size
        image = {"id": index + 1, "file_name": result.name, "width": width, "height": height}
        return cls(
            image,
            {
                name: (classes, [{"image_id": index + 1} | record for record in records])
                for name, (classes, records) in result.coco().items()
            },
        )


class OutputFolder:
    """Writes results below `folder`. Several threads, and several processes, may write those of different inputs.

    inputs: paths with the folders below which they were found.
    masks: the names of the task's masks. classes: those of the run.
    videos: which of the inputs are videos; a GIF may be one.

    Raises UserError if two results would have one name or one would replace an input, and for a folder not to be made.
    """

    def __init__(
        self,
        folder: Path,
        inputs: Sequence[tuple[Path, Path]],
        masks: Sequence[str],
        classes: Names,
        videos: Collection[int] = (),
    ):
        self.folder, self._masks, self._classes = folder, masks, classes
        self._names = names = relative_names(inputs)
        self._images = [folder / name for name in _drawn_names(names, videos)]
        stems = _apart(names, [name.with_suffix("") for name in names])
        self._of_masks = {mask: [folder / "masks" / _mask_name(stem, mask) for stem in stems] for mask in masks}
        self._check([path for path, _ in inputs])
        self._make(folder)

    def write(self, index: int, result: Result, drawn: Image.Image) -> None:
        """Writes the annotated copy and the masks of an image."""
        path = self._images[index]
        self._save(drawn, path, quality=QUALITY)
        for mask in self._masks:
            self._save(self._as_image(result.mask(mask), mask), self._of_masks[mask][index])

    def video(self, index: int) -> tuple[Path, Path]:
        """Where the annotated copy of a video and the predictions for its frames belong."""
        path = self._images[index]
        self._make(path.parent)
        return path, path.with_name(f"{path.name}.jsonl")

    def write_masks(self, index: int, frame: int, result: Result) -> None:
        """Writes the masks of a frame of a video."""
        folder = self.folder / "masks" / self._names[index]
        for mask in self._masks:
            self._save(self._as_image(result.mask(mask), mask), folder / _mask_name(Path(f"{frame:06}"), mask))

    def close(self, entries: Sequence[Mapping[str, Any]], records: Sequence[CocoRecords]) -> list[str]:
        """Writes what needs all results; returns what there is in the folder.

        entries: the lines of predictions.jsonl. records: those of the images, in the order given.
        """
        write_json_lines(self.folder / "predictions.jsonl", entries, REMEDY)
        names = ["predictions.jsonl"]
        images = [each.image for each in records]
        for name, (classes, _) in records[0].results.items() if records else ():
            categories = [{"id": number, "name": each} for number, each in enumerate(classes, start=1)]
            found = [record for each in records for record in each.results[name][1]]
            write_json(self.folder / f"{name}.json", found, REMEDY)
            write_json(self.folder / f"{name}_images.json", {"images": images, "categories": categories}, REMEDY)
            names += [f"{name}.json"]
        if self._masks:
            by_mask = {mask: list(self._classes_of(mask)) for mask in self._masks if self._classes_of(mask)}
            write_json(self.folder / "masks" / "classes.json", by_mask.get("", by_mask), REMEDY)
            names += ["masks/"]
        return names

    def _classes_of(self, mask: str) -> Sequence[str]:
        """The names that the pixels of a mask are numbers of; () of what is fused, whose pixels are ids of segments."""
        return by_part(self._classes).get(mask.partition("/")[0], ())

    def _as_image(self, pixels: Shaped[np.ndarray, "h w"], mask: str) -> Image.Image:
        names = self._classes_of(mask)
        if not names:
            return id_image(pixels)
        colours = marks.colours([names])
        table = np.full((IGNORE + 1, 3), IGNORE, np.uint8)
        for number, name in enumerate(names[:IGNORE]):
            table[number] = colours[name]
        image = Image.fromarray(np.ascontiguousarray(pixels))
        image.putpalette(table.tobytes())
        return image

    def _save(self, image: Image.Image, path: Path, **options: Any) -> None:
        self._make(path.parent)
        try:
            image.save(path, **options)
        except OSError as error:
            raise UserError(f"--output {path}: cannot be written ({error.strerror or error}); {REMEDY}") from error

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {folder}: cannot be made ({error.strerror}); name another folder") from error

    def _check(self, inputs: Sequence[Path]) -> None:
        paths = self._images + [path for each in self._of_masks.values() for path in each]
        twice = next((path for path, count in Counter(paths).items() if count > 1), None)
        if twice:
            raise UserError(f"--output: two results would be {twice}; predict the two inputs one after the other")
        taken = set(map(os.path.realpath, inputs))  # Path.resolve raises for a link to itself
        replaced = next((path for path in paths if os.path.realpath(path) in taken), None)
        if replaced:
            raise UserError(f"--output {self.folder}: a result would replace the input {replaced}; name another folder")


def relative_names(inputs: Sequence[tuple[Path, Path]]) -> list[Path]:
    """The names of inputs below their folders; if two are the same, below the lowest folder that holds all of them."""
    names = [path.relative_to(root) for path, root in inputs]
    if len(set(names)) == len(names):
        return names
    whole = [Path(os.path.abspath(path)) for path, _ in inputs]
    common = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(common) for path in whole]


def _drawn_names(names: Sequence[Path], videos: Collection[int]) -> list[Path]:
    """What the annotated copies are called: clip.avi becomes clip.mp4, or clip.avi.mp4 if there is another clip.mp4."""
    images = [_with_suffix(name, KEPT, ".png") for name in names]
    short = [name.with_suffix(".mp4") if k in videos else images[k] for k, name in enumerate(names)]
    long = [_with_suffix(name, (".mp4",), ".mp4") if k in videos else images[k] for k, name in enumerate(names)]
    return _apart(long, short)


def _with_suffix(name: Path, kept: Sequence[str], suffix: str) -> Path:
    """The name with `suffix` behind it, unless it has one that is `kept`."""
    return name if name.suffix.lower() in kept else name.with_name(name.name + suffix)


def _apart(names: Sequence[Path], short: Sequence[Path]) -> list[Path]:
    """The names in `short`; those that several inputs would share are replaced by those in `names`."""
    count = Counter(short)
    return [brief if count[brief] == 1 else name for name, brief in zip(names, short, strict=True)]


def _mask_name(stem: Path, mask: str) -> Path:
    return stem.with_name(f"{'_'.join([stem.name, *filter(None, mask.split('/'))])}.png")
