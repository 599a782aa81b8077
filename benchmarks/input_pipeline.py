"""The speed at which a host makes ImageNet's training examples: a random crop of a JPEG, resized to 224 x 224, uint8.

    python benchmarks/input_pipeline.py IMAGES [--rounds 5] [--output benchmarks/results/input_pipeline.json]

IMAGES is a folder with JPEGs at any depth; a few hundred of ImageNet's are representative. Nothing is downloaded.

First table: images per CPU-second on one thread, for this project and for other libraries if they are installed, in
alternating rounds; all read the same files from memory and take the same crops. "off" is the absolute difference from
torchvision's definition (decode the whole image, crop, resize by Pillow's antialiased bilinear filter), in levels of
255. This project's two rows include drawing the random crops, and TrainBatch shuffles and fills the batch.
Second table: the same work from files, once from the original JPEGs and once from what `morphism prepare --short_side
256 --quality 90` makes of them, in one process, in alternating rounds. This project draws records at random from its
files; the others read theirs in order: tf.data TFRecords, WebDataset a tar file, decoded by Pillow. All hold the same
bytes.
Third table: the real input pipeline, from files to batches, in this process and with worker processes: images per
second of wall time, and per CPU-second of all its processes, once it runs steadily.
"""

import argparse
import importlib.metadata
import importlib.util
import io
import itertools
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
import turns
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import image, pipeline, windows
from morphism.data.preparing.preparation import open_split, prepare
from morphism.data.preparing.scaling import Storage
from morphism.data.records import Record, Source
from morphism.experiments.imagenet_resnet import get_config

IMAGENET = 1_281_167  # records of its training split, which determine the cost of shuffling
PACKAGES = (
    "pillow",
    "simplejpeg",
    "cykooz-resizer",
    "grain",
    "array_record",
    "numpy",
    "tensorflow",
    "tensorflow-cpu",
    "webdataset",
)
SHORT_SIDE, QUALITY = 256, 90


@dataclass(frozen=True)
class Repeated:
    """A source as long as ImageNet that repeats the given files."""

    files: tuple[str, ...]
    encoded: tuple[bytes, ...] = ()  # contents of the files; if empty, they are read each time
    classes: tuple[str, ...] = ("any",)
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"label": ("any",)})

    def __len__(self) -> int:
        return IMAGENET // len(self.files) * len(self.files)

    def __getitem__(self, index: int) -> Record:
        index %= len(self.files)
        encoded = self.encoded[index] if self.encoded else Path(self.files[index]).read_bytes()
        return {"image": encoded, "label": 0, "name": self.files[index]}


def main() -> None:
    arguments = parse()
    files = tuple(sorted(str(path) for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")))
    files = files[: arguments.limit]
    if not files:
        print(f"input_pipeline: skipped, no JPEGs in {arguments.images}; give a folder that holds some")
        return
    config = get_config("50")
    config.unlock()
    config.batch_size = arguments.batch
    encoded = tuple(Path(file).read_bytes() for file in files)
    mean_bytes = statistics.mean(len(file) for file in encoded)
    print(f"{len(files)} JPEGs of {mean_bytes / 1000:.0f} kB, crops to {config.data.image_size}")
    paths = measure_paths(Repeated(files, encoded), config, arguments.rounds)
    print_table(("one thread, from memory", "images/CPU-s", "off mean", "off max"), paths)
    prepared = measure_prepared(files, config, arguments.rounds)
    print_table(("from files, images/CPU-s", "original", "prepared", "ratio"), prepared)
    pipelines = measure_pipelines(Repeated(files), config, arguments) if arguments.workers else []
    print_table(("pipeline, from files", "images/s", "images/CPU-s"), pipelines)
    result = {
        "images": {"count": len(files), "mean_bytes": mean_bytes},
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "packages": {name: version for name in PACKAGES if (version := installed_version(name))},
        "rounds": arguments.rounds,
        "paths": paths,
        "prepared": prepared,
        "pipelines": pipelines,
    }
    turns.save(arguments.output, result)
    print(f"written: {arguments.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="?", default=Path("images"), help="folder with JPEGs")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measurement; medians are reported")
    parser.add_argument("--limit", type=int, default=500, help="largest number of files")
    parser.add_argument("--batch", type=int, default=64, help="examples per batch")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="worker processes of the pipeline")
    parser.add_argument("--seconds", type=float, default=3, help="how long each pipeline is measured per round")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "input_pipeline.json")
    return parser.parse_args()


@dataclass(frozen=True)
class Round:
    """About one pass over the files, in whole batches, with crops drawn for this round."""

    steps: range
    records: list[int]  # indices in the source
    order: list[int]  # indices of the files
    boxes: list[image.Box]


Way = Callable[[Round], Iterable[np.ndarray]]


def measure_paths(source: Repeated, config: ConfigDict, rounds: int) -> list[dict]:
    size = config.data.image_size
    load = pipeline.TrainBatch.of(source, config, pipeline.Shard(config.batch_size, 0, 1))
    ways: dict[str, Way] = {
        "morphism TrainBatch": lambda pass_: (example for step in pass_.steps for example in load(step)["image"]),
        "morphism random_resized_crop": own(source, config),
        "Pillow, as torchvision": pillow(source.encoded, size),
        "simplejpeg whole, Pillow resize": simplejpeg_whole(source.encoded, size),
    }
    if importlib.util.find_spec("tensorflow"):
        ways["tf.data decode_and_crop_jpeg"] = tensorflow(source.encoded, size)
    else:
        print("TensorFlow is not installed: its row is omitted")
    rehearsal = plan(load, 0, config)
    truth = list(pillow(source.encoded, size)(rehearsal))
    off = {}
    for name, way in ways.items():
        examples = zip(way(rehearsal), truth, strict=True)
        differences = np.stack([np.abs(example.astype(np.int16) - true) for example, true in examples])
        off[name] = float(np.mean(differences)), int(np.max(differences))
    speeds = {name: [] for name in ways}
    for index in range(1, rounds + 1):
        pass_ = plan(load, index, config)
        for name, way in ways.items():
            start = time.process_time()
            for _ in way(pass_):
                pass
            speeds[name].append(len(pass_.order) / (time.process_time() - start))
    return [
        {"name": name, "images_per_cpu_s": statistics.median(speeds[name]), "off_mean": mean, "off_max": top}
        for name, (mean, top) in off.items()
    ]


def plan(load: pipeline.TrainBatch, index: int, config: ConfigDict) -> Round:
    """Part `index` of the first epoch, and the boxes that TrainBatch will draw for its records."""
    count = -(-len(load.source.files) // config.batch_size)
    steps = range(index * count, (index + 1) * count)
    records = [draw.index for step in steps for draw in load.plan(step, load.shard.rows)[1]]
    boxes = []
    for record in records:
        rng = np.random.default_rng((config.seed, 0, record))
        height, width = image.size(load.source[record]["image"], "")
        boxes.append(windows.random_resized_crop((height, width), config.data.crop_scale, config.data.crop_ratio, rng))
    return Round(steps, records, [record % len(load.source.files) for record in records], boxes)


def own(source: Repeated, config: ConfigDict) -> Way:
    size, scale, ratio = config.data.image_size, config.data.crop_scale, config.data.crop_ratio

    def way(pass_: Round) -> Iterator[np.ndarray]:
        for index in pass_.records:
            rng = np.random.default_rng((config.seed, 0, index))
            whole = image.croppable(source[index]["image"], "")
            yield image.crop(whole, windows.random_resized_crop(whole.size, scale, ratio, rng), size)[0]

    return way


def pillow(encoded: tuple[bytes, ...], size: int) -> Way:
    def way(pass_: Round) -> Iterator[np.ndarray]:
        for index, box in zip(pass_.order, pass_.boxes, strict=True):
            whole = Image.open(io.BytesIO(encoded[index])).convert("RGB")
            yield np.asarray(whole.crop(box).resize((size, size), Image.Resampling.BILINEAR))

    return way


def simplejpeg_whole(encoded: tuple[bytes, ...], size: int) -> Way:
    def way(pass_: Round) -> Iterator[np.ndarray]:
        for index, (x0, y0, x1, y1) in zip(pass_.order, pass_.boxes, strict=True):
            pixels = simplejpeg.decode_jpeg(encoded[index], "RGB", strict=False)[y0:y1, x0:x1]
            yield np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))

    return way


def tensorflow(encoded: tuple[bytes, ...], size: int) -> Way:
    """Cropped as in Flax's and TensorFlow's ImageNet examples, resized bilinearly without antialiasing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    files = tf.constant(encoded)

    def example(index, window):
        pixels = tf.image.decode_and_crop_jpeg(files[index], window, channels=3)
        return tf.cast(tf.round(tf.image.resize(pixels, (size, size))), tf.uint8)

    def way(pass_: Round) -> Iterator[np.ndarray]:
        windows = np.array([(y0, x0, y1 - y0, x1 - x0) for x0, y0, x1, y1 in pass_.boxes], np.int32)
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        examples = tf.data.Dataset.from_tensor_slices((pass_.order, windows)).map(example)
        return itertools.chain.from_iterable(examples.batch(50).with_options(options).as_numpy_iterator())

    return way


@dataclass(frozen=True)
class Looped:
    """A source as long as ImageNet that repeats the records of another."""

    source: Source
    targets: Mapping[str, tuple[str, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.targets["label"]

    def __len__(self) -> int:
        return IMAGENET // len(self.source) * len(self.source)

    def __getitem__(self, index: int) -> Record:
        return self.source[index % len(self.source)]


def measure_prepared(files: tuple[str, ...], config: ConfigDict, rounds: int) -> list[dict]:
    """Images per CPU-second from the original files and from prepared ones."""
    with tempfile.TemporaryDirectory() as folder:
        original, prepared = sources_of(files, Path(folder))
        ways = {
            "morphism TrainBatch": tuple(
                batches(Looped(source, dict(source.targets)), config) for source in (original, prepared)
            )
        }
        encoded = tuple([source[index]["image"] for index in range(len(files))] for source in (original, prepared))
        boxes = tuple([drawn(each, config, index) for index, each in enumerate(held)] for held in encoded)
        size = config.data.image_size
        for name, package, make in (("tf.data", "tensorflow", tf_records), ("WebDataset", "webdataset", tar_file)):
            if importlib.util.find_spec(package):
                ways[name] = tuple(
                    make(Path(folder) / f"{name}{number}", held, crops, size)
                    for number, (held, crops) in enumerate(zip(encoded, boxes, strict=True))
                )
            else:
                print(f"{package} is not installed: its row is omitted")
        speeds = {name: ([], []) for name in ways}
        for round_ in range(rounds + 1):  # the first warms up
            for name, two in ways.items():
                for kind, way in enumerate(two):
                    start = time.process_time()
                    count = sum(1 for _ in way(round_))
                    speeds[name][kind].append(count / (time.process_time() - start))
    medians = {name: [statistics.median(each[1:]) for each in two] for name, two in speeds.items()}
    return [
        {"name": name, "original": before, "prepared": after, "ratio": after / before}
        for name, (before, after) in medians.items()
    ]


def sources_of(files: tuple[str, ...], folder: Path) -> tuple[Source, Source]:
    """The files as a source of two classes, and the same prepared."""
    for number, file in enumerate(files):
        link = folder / "photos" / "ab"[number % 2] / f"{number}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(file).absolute())
    source = f"folder:{folder / 'photos'}"
    to = prepare(source, str(folder / "prepared"), Storage(SHORT_SIDE, QUALITY), workers=1, say=lambda line: None)
    return open_split(source, "train", ""), open_split(f"prepared:{to}", "train", "")


def drawn(encoded: bytes, config: ConfigDict, index: int) -> image.Box:
    rng = np.random.default_rng((config.seed, 0, index))
    return windows.random_resized_crop(image.size(encoded, ""), config.data.crop_scale, config.data.crop_ratio, rng)


def batches(source: Looped, config: ConfigDict) -> Callable[[int], Iterator[np.ndarray]]:
    """round -> about one pass over the records, in whole batches."""
    load = pipeline.TrainBatch.of(source, config, pipeline.Shard(config.batch_size, 0, 1))
    count = -(-len(source.source) // config.batch_size)
    return lambda round_: (row for step in range(round_ * count, (round_ + 1) * count) for row in load(step)["image"])


def tf_records(path: Path, encoded: list[bytes], boxes: list[image.Box], size: int) -> Callable[[int], Iterator]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in encoded:
            writer.write(each)
    crops = np.array([(y0, x0, y1 - y0, x1 - x0) for x0, y0, x1, y1 in boxes], np.int32)

    def example(each, crop):
        pixels = tf.image.decode_and_crop_jpeg(each, crop, channels=3)
        return tf.cast(tf.round(tf.image.resize(pixels, (size, size))), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    pairs = tf.data.Dataset.zip((tf.data.TFRecordDataset(str(path)), tf.data.Dataset.from_tensor_slices(crops)))
    examples = pairs.map(example).batch(50).with_options(options)
    return lambda round_: itertools.chain.from_iterable(examples.as_numpy_iterator())


def tar_file(path: Path, encoded: list[bytes], boxes: list[image.Box], size: int) -> Callable[[int], Iterator]:
    import webdataset

    with webdataset.TarWriter(f"{path}.tar") as writer:
        for index, each in enumerate(encoded):
            writer.write({"__key__": f"{index:06d}", "jpg": each})

    def way(round_: int) -> Iterator[np.ndarray]:
        records = webdataset.WebDataset(f"{path}.tar", shardshuffle=False).decode("pil").to_tuple("jpg")
        for (whole,), box in zip(records, boxes, strict=True):
            yield np.asarray(whole.crop(box).resize((size, size), Image.Resampling.BILINEAR))

    return way


def measure_pipelines(source: Repeated, config: ConfigDict, arguments: argparse.Namespace) -> list[dict]:
    speeds = {workers: [] for workers in arguments.workers}
    for round_, workers in itertools.product(range(arguments.rounds), speeds):
        config.data.workers, config.seed = workers, round_
        speeds[workers].append(steady_speed(source, config, arguments.seconds))
    return [
        {
            "name": f"morphism, {workers} worker{'s' * (workers != 1)}" if workers else "morphism, this process",
            "images_per_s": statistics.median(clock for clock, _ in found),
            "images_per_cpu_s": statistics.median(cpu for _, cpu in found),
        }
        for workers, found in speeds.items()
    ]


def steady_speed(source: Repeated, config: ConfigDict, seconds: float) -> tuple[float, float]:
    """Images per second and per CPU-second, measured once all batches that were loaded ahead are used up."""
    batches = pipeline.train_batches(source, config, start_step=0, stop_step=10_000)
    for _ in range(max(1, config.data.workers) * (config.data.prefetch + 4)):
        next(batches)
    start, cpu, images = time.perf_counter(), cpu_time(), 0
    while time.perf_counter() - start < seconds:
        images += len(next(batches)["image"])
    speeds = images / (time.perf_counter() - start), images / (cpu_time() - cpu)
    batches.close()
    while multiprocessing.active_children():  # otherwise the next measurement would count their CPU time
        time.sleep(0.1)
    return speeds


def cpu_time() -> float:
    """CPU-seconds of this process and its living worker processes."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def print_table(titles: tuple[str, ...], rows: list[dict]) -> None:
    print(f"\n{titles[0]:34s}" + "".join(f"{title:>14s}" for title in titles[1:]))
    for row in rows:
        name, *values = row.values()
        print(f"{name:34s}" + "".join(f"{value:14.0f}" if value >= 50 else f"{value:14.2f}" for value in values))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
