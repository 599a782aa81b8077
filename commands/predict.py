"""Predicts what images and videos show, with a trained run or with other trained weights.

    morphism predict --workdir runs/quickstart image.jpg folder/of/images "shots/*.png" clip.mp4
    morphism predict --workdir runs/cells --output found/ slides/
    morphism predict --config experiments/imagenet_resnet.py:50 --weights torchvision:resnet50/IMAGENET1K_V2 cat.jpg
    curl -s https://example.org/cat.jpg | morphism predict --workdir runs/pets -

Prints a line per image, object or class. With --output it writes instead:

    --output found/        annotated copies of the images and videos, predictions.jsonl, COCO's results or masks
                           (evaluation/output_folder.py lists the files)
    --output found.json    a list with an entry per image, or per frame of a video; .jsonl: a line for each

A dash reads one image from standard input. Patterns such as "*.jpg" may be quoted. Videos (mp4, mov, avi, mkv, gif,
...) are predicted frame by frame. A GIF of one frame is an image; of other animated images (WebP, PNG, TIFF) the
first frame is read, as in training.

Detections with a score below --threshold are neither printed nor drawn; files of predictions have all that evaluation
would count. --config.FIELD=value changes sizes, canvases, score and NMS thresholds and detections per image of a run.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from morphism.commands import cli
from morphism.errors import UserError, noting

if TYPE_CHECKING:
    from morphism.data.loose import Loose
    from morphism.evaluation.output_folder import OutputFolder
    from morphism.evaluation.result import Result
    from morphism.evaluation.run import Run

COMMAND = cli.Command(config="flag", distributed=True, trained=True)
_OUTPUT = COMMAND.string("output", None, "A folder for annotated copies and predictions; or a .json or .jsonl file.")
_THRESHOLD = COMMAND.number("threshold", 0.25, "Detections with a lower score are neither printed nor drawn.", 0.0, 1.0)
_MAX_SHOWN = COMMAND.integer("max_shown", 50, "Most detections to print and draw per image.", 1)
_TOPK = COMMAND.integer("topk", 1, "Classification: how many classes to name per image.", 1)

STDIN = "-"
Entry = dict[str, Any]


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("name images, folders of images, or videos; - reads an image from standard input")
    COMMAND.start_jax()
    import jax

    first = jax.process_index() == 0  # every process has all predictions; one of them prints and writes
    say = partial(print, file=sys.stderr, flush=True) if first else lambda line: None
    run = COMMAND.open_trained(say).naming(_TOPK.value)
    job = Job(run, argv[1:], say, first)
    job.images()
    job.videos()
    job.close(argv[0])
    if job.broken or job.lost:
        sys.exit(2)


class Job:
    """One command: its inputs, what was predicted for them, and what could not be read."""

    def __init__(self, run: "Run", arguments: list[str], say: Callable[[str], None], first: bool):
        from morphism.data.loose import readable
        from morphism.evaluation.video import is_still

        self.run, self.say, self._first = run, say, first
        self._begun, self._output = time.monotonic(), _OUTPUT.value or ""
        to_folder = bool(self._output) and not self._output.endswith((".json", ".jsonl"))
        self._inputs, loose, self.lost = _inputs(arguments, Path(self._output) if to_folder else None, say)
        self._videos = [k for k, file in enumerate(loose) if _is_video(file) and not is_still(file)]
        images = [k for k in range(len(loose)) if k not in set(self._videos)]
        broken = readable([loose[k] for k in images])
        self.broken = {images[k]: reason for k, reason in broken.items()}  # position among the inputs -> reason
        self._images = [k for k in images if k not in self.broken]
        self._loose = loose
        self.entries: dict[int, list[Entry]] = {}
        self._counts = np.zeros((0, 2), int)  # detections shown, and in all
        self._seen = 0  # images and frames
        self._folder = self._opened(Path(self._output)) if to_folder and first else None

    def _opened(self, folder: Path) -> "OutputFolder":
        from morphism.evaluation.output_folder import OutputFolder

        return OutputFolder(folder, self._inputs, self.run.task.masks, self.run.classes)

    def images(self) -> None:
        """Predicts the images, in batches per canvas."""
        from morphism.data.loose import LooseImages

        source = LooseImages([self._loose[k] for k in self._images], self.run.classes)
        for result in self._progress(self.run.results(source, self.say, skip_broken=True), len(source)):
            position = self._images[result.index]
            self.entries[position] = [{"file": result.name} | result.found]
            if not self._first:
                continue
            if self._folder:
                self._folder.write(position, result, result.annotated(_THRESHOLD.value, _MAX_SHOWN.value))
            self._show(result)
        for index, position in enumerate(self._images):
            if position not in self.entries:
                self.broken[position] = self.run.problem(source, index)

    def videos(self) -> None:
        """Predicts the videos one after the other, a few frames at a time."""
        from morphism.evaluation.video import count

        for position in self._videos:
            path, _ = self._inputs[position]
            try:
                results = self._progress(self._frames(position, path), count(path), " frames")
                number = sum(1 for _ in results)
            except UserError as error:
                self.broken[position] = str(error)
                continue
            if self._folder:
                lines = self._folder.video(position)[1].relative_to(self._folder.folder)
                self.entries[position] = [{"file": str(path), "frames": number, "predictions": str(lines)}]

    def _frames(self, position: int, path: Path) -> Iterator[None]:
        """Predicts, writes and prints frame after frame; of a folder's video no frame is kept."""
        from morphism.evaluation.video_output import VideoOutput

        with VideoOutput(*(self._folder.video(position) if self._folder else (None, None))) as output:
            for frame, result in self.run.frames(path, self.say):
                entry = {"file": str(path), "frame": frame.number, "time": round(frame.time, 4)} | result.found
                if self._folder:
                    output.write(entry, result.annotated(_THRESHOLD.value, _MAX_SHOWN.value), frame.time)
                    self._folder.write_masks(position, frame.number, result)
                elif self._output:
                    self.entries.setdefault(position, []).append(entry)
                if self._first:
                    self._show(result)
                yield

    def _show(self, result: "Result") -> None:
        """Counts what is shown, and without --output prints it."""
        self._seen += 1
        if self._output:
            return
        self._counts = np.append(self._counts, [result.counts(_THRESHOLD.value, _MAX_SHOWN.value)], axis=0)
        for line in result.lines(_THRESHOLD.value, _MAX_SHOWN.value):
            print(result.name, *map(_shown, line), sep="\t", flush=True)

    def _progress(self, results: Iterator, total: int | None, unit: str = " images") -> Iterator:
        from tqdm import tqdm

        visible = self._first and self._output and sys.stderr.isatty()
        return tqdm(results, total=total, unit=unit, disable=not visible, leave=False)

    def close(self, program: str) -> None:
        """Writes what needs all predictions, says what was done, and names what could not be read."""
        if not self._first:
            return
        entries = [
            entry
            for position, (path, _) in enumerate(self._inputs)
            for entry in self.entries.get(position, [])
            + ([{"file": str(path), "error": self.broken[position]}] if position in self.broken else [])
        ]
        seconds = time.monotonic() - self._begun
        if self._folder:
            names = ", ".join(["annotated copies", *self._folder.close(entries)])
            rate = f"{self._seen / seconds:,.1f} images/s with compilation"
            self.say(f"{self._seen:,} images in {seconds:.1f} s, {rate}: {names} in {self._folder.folder}")
        elif self._output:
            self._write_json(entries)
        else:
            self._say_hidden()
        for reason in (*self.lost, *self.broken.values()):
            self.say(f"{program}: error: {' '.join(reason.split())}")

    def _write_json(self, entries: list[Entry]) -> None:
        from morphism.runtime.paths import write_json, write_json_lines

        write = write_json_lines if self._output.endswith(".jsonl") else write_json
        write(Path(self._output), entries, "name a file that can be written as --output")
        self.say(f"predictions of {self._seen:,} images in {self._output}")

    def _say_hidden(self) -> None:
        shown, total = self._counts.sum(axis=0).tolist()
        if shown < total:
            self.say(
                f"{shown:,} shown of {total:,} detections (--threshold={_THRESHOLD.value:g}, "
                f"--max_shown={_MAX_SHOWN.value}); --output writes all"
            )


def _inputs(
    arguments: list[str], output: Path | None, say: Callable[[str], None]
) -> tuple[list[tuple[Path, Path]], list["Loose"], list[str]]:
    """The paths of the inputs with the folders below which they were found, the inputs themselves, and what was lost.

    Lost are links that lead nowhere and folders that cannot be listed.

    What lies in the folder `output` and was not named by itself is of a command before, and left out.
    """
    from morphism.data.loose import Encoded, find_images

    with noting() as notes:
        found = find_images([each for each in arguments if each != STDIN])
    named = {Path(each) for each in arguments}
    if output is not None:
        before = len(found)
        inside = Path(os.path.realpath(output))
        own = [path in named or not Path(os.path.realpath(path)).is_relative_to(inside) for path, _ in found]
        found = [each for each, kept in zip(found, own, strict=True) if kept]
        if len(found) < before:
            say(f"{before - len(found):,} files in {output}, results of before, are left out")
    loose: list[Loose] = [path for path, _ in found]
    if STDIN in arguments:
        if arguments.count(STDIN) > 1:
            raise UserError("-: standard input holds one image; give it once")
        found = [*found, (Path("stdin"), Path())]
        loose = [*loose, Encoded("stdin", sys.stdin.buffer.read())]
    return found, loose, notes


def _is_video(file: "Loose") -> bool:
    from morphism.data.loose import is_video

    return isinstance(file, Path) and is_video(file)


def _shown(value: Any) -> str:
    """A value as text: boxes with 1 decimal, other floats with 4."""
    if isinstance(value, list):
        return " ".join(f"{each:.1f}" for each in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
