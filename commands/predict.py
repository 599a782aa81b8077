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

With --distributed each process predicts its share of the images and videos on its own devices, and writes their files
into --output, which all have to share. Process 0 writes what is one file, and prints, once all are done.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphism.commands import cli
from morphism.errors import UserError, noting

if TYPE_CHECKING:
    from PIL.Image import Image

    from morphism.data.loose import Loose
    from morphism.evaluation.output_folder import CocoRecords
    from morphism.evaluation.result import Result
    from morphism.evaluation.run import Run

COMMAND = cli.Command(config="flag", distributed=True, trained=True)
_OUTPUT = COMMAND.string("output", None, "A folder for annotated copies and predictions; or a .json or .jsonl file.")
_THRESHOLD = COMMAND.number("threshold", 0.25, "Detections with a lower score are neither printed nor drawn.", 0.0, 1.0)
_MAX_SHOWN = COMMAND.integer("max_shown", 50, "Most detections to print and draw per image.", 1)
_TOPK = COMMAND.integer("topk", 1, "Classification: how many classes to name per image.", 1)

STDIN = "-"
LONGEST_S = 7 * 24 * 3600  # that a process waits for others, which may have more to do; JAX notices one that is lost
Entry = dict[str, Any]


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UserError("name images, folders of images, or videos; - reads an image from standard input")
    COMMAND.start_jax()
    import jax

    first = jax.process_index() == 0
    say = partial(print, file=sys.stderr, flush=True)
    of_all = say if first else lambda line: None
    run = COMMAND.open_trained(of_all).naming(_TOPK.value)
    job = Job(run, argv[1:], say, of_all, (jax.process_index(), jax.process_count()))
    job.images()
    job.videos()
    job.collect()
    if first:
        job.close(argv[0])
    if job.done.broken or job.lost:
        sys.exit(2)


@dataclass
class Done:
    """What was predicted, by position among the inputs.

    entries: of the JSON file. broken: why an input could not be read. coco: of images for a folder.
    lines: to print. shown, hidden: detections that are printed, and those that are not. seen: images and frames.
    """

    entries: dict[int, list[Entry]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    coco: dict[int, "CocoRecords"] = field(default_factory=dict)
    lines: dict[int, list[str]] = field(default_factory=dict)
    shown: int = 0
    hidden: int = 0
    seen: int = 0

    def add(self, other: "Done") -> None:
        """Adds what was predicted for other inputs."""
        for name in ("entries", "broken", "coco", "lines"):
            getattr(self, name).update(getattr(other, name))
        for name in ("shown", "hidden", "seen"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Job:
    """One command: its inputs, of which this process has a share, and what was done."""

    def __init__(
        self,
        run: "Run",
        arguments: list[str],
        say: Callable[[str], None],
        of_all: Callable[[str], None],
        share: tuple[int, int],
    ):
        """`say` gets what concerns this process's inputs, `of_all` what concerns all; `share`: k of n processes."""
        from morphism.data.loose import readable
        from morphism.evaluation.video import is_still
        from morphism.runtime.processes import check_same

        self.run, self.say, self._of_all = run, say, of_all
        self._started, self._output = time.monotonic(), _OUTPUT.value or ""
        to_folder = bool(self._output) and not self._output.endswith((".json", ".jsonl"))
        self._inputs, self._loose, self.lost = _inputs(arguments, Path(self._output) if to_folder else None, of_all)
        (index, self._processes), loose = share, self._loose
        if self._processes > 1:
            names = (str(path.relative_to(folder)) for path, folder in self._inputs)  # each takes every n-th of them
            check_same({f"input {k}": name for k, name in enumerate(names, 1)})
        videos = [k for k, file in enumerate(loose) if _is_video(file) and not is_still(file)]
        images = sorted({*range(len(loose))} - {*videos})
        self._videos, images = videos[index :: self._processes], images[index :: self._processes]
        broken = readable([loose[k] for k in images])
        self.done = Done(broken={images[k]: reason for k, reason in broken.items()})
        self._images = [k for k in images if k not in self.done.broken]
        self._folder = None
        if to_folder:
            from morphism.evaluation.output_folder import OutputFolder

            self._folder = OutputFolder(Path(self._output), self._inputs, self.run.task.masks, self.run.classes, videos)

    def images(self) -> None:
        """Predicts the images, in batches per canvas; threads draw and write while devices compute."""
        from morphism.data.loose import LooseImages
        from morphism.evaluation.output_folder import CocoRecords
        from morphism.threads import in_threads

        source = LooseImages([self._loose[k] for k in self._images], self.run.classes)

        def finished(result: "Result") -> "Result":
            if self._folder:
                drawn = result.annotated(_THRESHOLD.value, _MAX_SHOWN.value)
                self._folder.write(self._images[result.index], result, drawn)
            return result.described()

        results = self._progress(self.run.results(source, self.say, skip_broken=True), len(source))
        for result in in_threads(finished, results):
            position = self._images[result.index]
            self.done.entries[position] = [{"file": result.name} | result.found]
            if self._folder:
                self.done.coco[position] = CocoRecords.of(position, result)
            self._show(position, result)
        for index, position in enumerate(self._images):
            if position not in self.done.entries:
                self.done.broken[position] = self.run.problem(source, index)

    def videos(self) -> None:
        """Predicts the videos one after the other, a few frames at a time."""
        from morphism.evaluation.video import count

        for position in self._videos:
            path, _ = self._inputs[position]
            try:
                results = self._progress(self._frames(position, path), count(path), " frames")
                number = sum(1 for _ in results)
            except UserError as error:
                self.done.broken[position] = str(error)
                continue
            if self._folder:
                lines = self._folder.video(position)[1].relative_to(self._folder.folder)
                self.done.entries[position] = [{"file": str(path), "frames": number, "predictions": str(lines)}]

    def _frames(self, position: int, path: Path) -> Iterator[None]:
        """Predicts, writes and prints frame after frame; of a folder's video no frame is kept."""
        from morphism.evaluation.video import Frame
        from morphism.evaluation.video_output import VideoOutput
        from morphism.threads import in_threads

        def finished(each: "tuple[Frame, Result]") -> "tuple[Frame, Result, Image | None]":
            frame, result = each
            if not self._folder:
                return frame, result.described(), None
            self._folder.write_masks(position, frame.number, result)
            return frame, result.described(), result.annotated(_THRESHOLD.value, _MAX_SHOWN.value)

        with VideoOutput(*(self._folder.video(position) if self._folder else (None, None))) as output:
            for frame, result, drawn in in_threads(finished, self.run.frames(path, self.say)):
                entry = {"file": str(path), "frame": frame.number, "time": round(frame.time, 4)} | result.found
                if self._folder:
                    output.write(entry, drawn, frame.time)
                elif self._output:
                    self.done.entries.setdefault(position, []).append(entry)
                self._show(position, result)
                yield

    def _show(self, position: int, result: "Result") -> None:
        """Counts what is shown. Without --output prints it, or where several processes share the work, keeps it."""
        self.done.seen += 1
        if self._output:
            return
        shown, every = result.counts(_THRESHOLD.value, _MAX_SHOWN.value)
        self.done.shown, self.done.hidden = self.done.shown + shown, self.done.hidden + every - shown
        for line in result.lines(_THRESHOLD.value, _MAX_SHOWN.value):
            text = "\t".join([result.name, *map(_shown, line)])
            if self._processes > 1:
                self.done.lines.setdefault(position, []).append(text)
            else:
                print(text, flush=True)

    def _progress(self, results: Iterator, total: int | None, unit: str = " images") -> Iterator:
        from tqdm import tqdm

        visible = self._processes == 1 and self._output and sys.stderr.isatty()
        return tqdm(results, total=total, unit=unit, disable=not visible, leave=False)

    def collect(self) -> None:
        """Makes `done` that of all processes."""
        from morphism.runtime.processes import exchanged

        every, self.done = exchanged(self.done, LONGEST_S), Done()
        for each in every:
            self.done.add(each)

    def close(self, program: str) -> None:
        """Writes what needs all predictions, says what was done, and names what could not be read."""
        done = self.done
        entries = [
            entry
            for position, (path, _) in enumerate(self._inputs)
            for entry in done.entries.get(position, [])
            + ([{"file": str(path), "error": done.broken[position]}] if position in done.broken else [])
        ]
        for _, lines in sorted(done.lines.items()):
            print(*lines, sep="\n", flush=True)
        seconds = time.monotonic() - self._started
        if self._folder:
            names = ", ".join(
                ["annotated copies", *self._folder.close(entries, [each for _, each in sorted(done.coco.items())])]
            )
            rate = f"{done.seen / seconds:,.1f} images/s with compilation"
            if done.seen:
                self.say(f"{done.seen:,} images in {seconds:.1f} s, {rate}: {names} in {self._folder.folder}")
        elif self._output:
            self._write_json(entries)
        elif done.hidden:
            self.say(
                f"{done.shown:,} shown of {done.shown + done.hidden:,} detections (--threshold={_THRESHOLD.value:g}, "
                f"--max_shown={_MAX_SHOWN.value}); --output writes all"
            )
        for reason in (*self.lost, *(reason for _, reason in sorted(done.broken.items()))):
            self.say(f"{program}: error: {' '.join(reason.split())}")

    def _write_json(self, entries: list[Entry]) -> None:
        from morphism.runtime.paths import write_json, write_json_lines

        write = write_json_lines if self._output.endswith(".jsonl") else write_json
        write(Path(self._output), entries, "name a file that can be written as --output")
        self.say(f"predictions of {self.done.seen:,} images in {self._output}")


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
