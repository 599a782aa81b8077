"""Exported programs beside the project's own: how far their results differ, and images per second.

    python benchmarks/exported.py EXPERIMENT [--weights FILE] [--size 224] [--batch 1 8] [--rounds 5] [--images FOLDER]

EXPERIMENT is a file such as experiments/coco_yolox.py:s; --weights a file for it, without which weights are drawn. Or
it is the workdir of a run.
`native` is the evaluation's network and last step, compiled here; `stablehlo` and `onnx` are files that were written
and read again, run by JAX and by ONNX Runtime (pip install onnx onnxruntime). They take turns within every round; the
table gives medians. Differences are the largest over the images of --images, stretched to the canvas, else of noise.
On a shared machine only ratios count.
"""

import argparse
import json
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import numpy as np
import onnxruntime
from ml_collections import ConfigDict
from PIL import Image

from morphism import models, tasks
from morphism.commands.experiment_file import ExperimentParser
from morphism.commands.export import size_of
from morphism.evaluation import stablehlo
from morphism.evaluation.exported import Exported, export
from morphism.evaluation.onnx import file as onnx
from morphism.evaluation.run import Run
from morphism.evaluation.run import open_run as open_workdir
from morphism.runtime.mesh import AXIS, compiler_options
from morphism.weights.opening import classes_of, read_weights, variables_from

Predict = Callable[..., dict[str, np.ndarray]]


def open_run(config: ConfigDict, weights: str | None, classes: int) -> Run:
    """The experiment's model with the weights of a file, or with drawn ones for `classes` classes."""
    if weights:
        found = read_weights(weights, print)
        classes = classes_of(found, config) or classes
        variables, _ = variables_from(found, config, classes)
    else:
        like = jax.eval_shape(lambda: models.init(models.create(config.model, classes, AXIS), jax.random.key(0), 224))
        variables = jax.tree_util.tree_map_with_path(drawn, like)
    names = tuple(str(number) for number in range(classes))
    model = models.create(config.model, classes, AXIS)
    return Run(config, tasks.of(config, names), names, weights or "drawn weights", {}, model, variables)


def drawn(path: tuple, x: jax.ShapeDtypeStruct) -> np.ndarray:
    """Values that keep activations near 1 through any depth, and boxes near their anchors."""
    name = jax.tree_util.keystr(path)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(x.shape, np.float32)
    if "'var'" in name:
        return np.abs(1 + 0.2 * noise)
    if "kernel" in name:
        last = ("bbox_pred", "bbox_reg", "_preds", "cls_logits", "cls_score", "mask_fcn_logits")
        gain = 0.05 if any(each in name for each in last) else 1
        return noise * np.float32(gain * (2 / np.prod(x.shape[:-1])) ** 0.5)
    if "scale" in name:
        return (1 + 0.1 * noise) * np.float32(0.3 if "bn3" in name else 1)
    return 0.1 * noise


def contenders(exported: Exported, folder: Path) -> dict[str, Predict]:
    native = jax.jit(exported.program, compiler_options=compiler_options())
    weights = jax.device_put(exported.weights)
    stablehlo.write(folder / "model.stablehlo", exported)
    file = np.load(folder / "model.stablehlo")
    about = json.loads(file["about.json"])
    program = jax.export.deserialize(bytearray(file[about["programs"][jax.default_backend()]]))
    loaded = jax.device_put({name: file[name] for name in about["weights"]})
    read = jax.jit(program.call)
    onnx.write(folder / "model.onnx", exported)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [each.name for each in session.get_outputs()]

    def by_onnx(*inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, dict(zip(exported.inputs(1), inputs, strict=True))), strict=True))

    return {
        "native": lambda *inputs: jax.device_get(native(weights, *inputs)),
        "stablehlo": lambda *inputs: jax.device_get(read(loaded, *inputs)),
        "onnx": by_onnx,
    }


def batches(exported: Exported, folder: Path | None, most: int, batch: int) -> list[tuple[np.ndarray, ...]]:
    height, width = exported.canvas
    if folder:
        files = sorted(each for each in folder.rglob("*") if each.suffix.lower() in (".jpg", ".jpeg", ".png"))
        pixels = [np.asarray(Image.open(each).convert("RGB").resize((width, height))) for each in files[:most]]
    else:
        pixels = list(np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype(np.uint8))
    whole = np.tile(np.int32([height, width]), (batch, 1))
    groups = [np.stack(pixels[at : at + batch]) for at in range(0, len(pixels) - batch + 1, batch)]
    return [(images, whole) if exported.sized else (images,) for images in groups]


def difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each output; of detections, that of each from the nearest of its class.

    Two detections whose scores differ by less than rounding may change places.
    """
    if "boxes" in expected:
        found = found | {name: found[name].copy() for name in expected}
        for row, used in enumerate(expected["valid"]):
            slots = np.flatnonzero(used)
            far = np.abs(expected["boxes"][row, slots, None] - found["boxes"][row, None]).max(axis=-1)
            far += np.abs(expected["scores"][row, slots, None] - found["scores"][row, None])
            far[expected["classes"][row, slots, None] != found["classes"][row, None]] = np.inf
            for name in expected.keys() - {"valid"}:
                found[name][row, slots] = found[name][row, far.argmin(axis=1)]
    return {
        name: float(np.abs(found[name].astype(np.float64) - value.astype(np.float64)).max())
        for name, value in expected.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--weights")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--size", default="", help="height x width of the canvas; the experiment's unless given")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--most", type=int, default=64, help="images of --images that are compared")
    args = parser.parse_args()
    if (Path(args.experiment) / "config.json").exists():
        run = open_workdir(args.experiment)
    else:
        run = open_run(ExperimentParser().parse(args.experiment), args.weights, args.classes)
    exported = export(run, size_of(args.size))
    with tempfile.TemporaryDirectory() as folder:
        by = contenders(exported, Path(folder))
        sizes = {kind: (Path(folder) / f"model.{kind}").stat().st_size / 1e6 for kind in ("stablehlo", "onnx")}
        print(f"{run.config.model.name}, {run.name}, canvas {exported.canvas}, MB: {sizes}", flush=True)
        for batch in args.batch:
            groups = batches(exported, args.images, args.most, batch)
            worst: dict[str, dict[str, float]] = {name: {} for name in by}
            for inputs in groups:
                expected = by["native"](*inputs)
                for name in worst:
                    for output, value in difference(by[name](*inputs), expected).items():
                        worst[name][output] = max(worst[name].get(output, 0.0), value)
            seconds: dict[str, list[float]] = {name: [] for name in by}
            for number in range(args.rounds):
                for name, predict in by.items():
                    start = time.perf_counter()
                    predict(*groups[number % len(groups)])
                    seconds[name].append(time.perf_counter() - start)
            images = f"{len(groups) * batch} images"
            images += f", {int(expected['valid'].sum())} found in the last batch" if "valid" in expected else ""
            for name, each in seconds.items():
                print(
                    f"  batch {batch}  {name:<10}{batch / statistics.median(each):8.2f} images/s  "
                    f"differs by {json.dumps(worst[name], allow_nan=False)}  {images}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
