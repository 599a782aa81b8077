"""The effect of a canvas: predictions on a canvas larger than the image, compared with those on one of its own size.

    python benchmarks/canvas.py [unet pspnet_resnet50 yolox_s ...] [--size 96x128] [--canvas 128x192] [--images 8]
    python benchmarks/canvas.py --workdir runs/quickstart_segmentation

Segmenters: the share of pixels whose class differs, among all, and among those farther than --border pixels from the
image's right and lower borders, where the canvas continues. Detectors: COCO's AP on the canvas, with the detections at
the image's own size as the ground truth; it is 1 if both are the same.

Without a workdir, weights are random and every detection counts, however low its score. Scores then hardly differ, so
a small change reorders many of them: a trained network changes less. Images are drawn scenes. Detectors with a single
input size, such as SSD300, have no canvas.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from turns import sides

SEGMENTERS = (
    *("unet", "segnet", "fcn32s_vgg16", "fcn8s_vgg16", "fcn_resnet50"),
    *("deeplabv3_resnet50", "deeplabv3plus_resnet50", "pspnet_resnet50"),
)
DETECTORS = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn", "yolox_nano", "yolov3_darknet53")
CLASSES = 10
TRUE = 20  # detections per image that serve as ground truth


def scenes(count: int, height: int, width: int) -> np.ndarray:
    """Drawn scenes, uint8 [count,height,width,3]."""
    from ml_collections import ConfigDict

    from morphism.data import sources

    side = max(height, width)
    data = {"source": f"scene_masks:{2 * count}x{side}", "data_dir": "", "val_fraction": 0.0, "split_seed": 0}
    source = sources.load(ConfigDict(data), "train")
    return np.stack([np.asarray(source[index]["image"])[:height, :width] for index in range(count)])


def random_network(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """config, model and random variables; so are those that start as zeros, or all outputs would be the same."""
    import jax

    from morphism import models
    from morphism.experiments.base import get_base
    from morphism.runtime.mesh import AXIS, compiler_options

    config = get_base("segmentation" if name in SEGMENTERS else "detection")
    with config.unlocked():
        config.model.name = name
        config.model.options = {} if name in SEGMENTERS else {"score_threshold": 0.0}
    model = models.create(config.model, CLASSES, AXIS)
    variables = jax.jit(lambda: models.init(model, jax.random.key(0), 64), compiler_options=compiler_options(once=True))
    rng = np.random.default_rng(0)

    def drawn(x: np.ndarray) -> np.ndarray:
        if x.ndim < 2 or x.any():
            return x
        return rng.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape).astype(x.dtype)

    return config, model, jax.tree.map(drawn, jax.device_get(variables()))


def found(step: Any, variables: Any, config: Any, images: np.ndarray, canvas: tuple[int, int]) -> dict[str, np.ndarray]:
    """The evaluation step's predictions of `images`, each at the top left of a canvas."""
    import jax

    from morphism import tasks
    from morphism.data import examples

    count, height, width = images.shape[:3]
    shape = (*canvas, height, width) if tasks.of(config).masks else canvas
    batch = examples.empty(count, shape, config, training=False)
    spare = [(0, 0), *((0, side - own) for side, own in zip(canvas, (height, width), strict=True)), (0, 0)]
    batch |= {"image": np.pad(images, spare), "id": np.arange(count, dtype=np.int32), "valid": np.ones(count, bool)}
    batch["size"][:] = batch["original_size"][:] = (height, width)
    return jax.device_get(step(variables, batch))


def agreement(alone: dict[str, np.ndarray], on_canvas: dict[str, np.ndarray]) -> float:
    """COCO's AP of the detections `on_canvas`, with the best of `alone` as ground truth."""
    from morphism.data.annotations import Annotations
    from morphism.tasks import coco, detections

    best = np.argsort(-np.where(alone["classes"] >= 0, alone["scores"], -1), axis=1, kind="stable")[:, :TRUE]
    boxes, classes = (
        np.take_along_axis(alone["boxes"], best[..., None], 1),
        np.take_along_axis(alone["classes"], best, 1),
    )
    nothing = np.zeros(classes.shape, bool)
    truth = (boxes, classes, nothing, nothing, detections.areas(boxes))
    truths = [Annotations(*(each[row][used] for each in truth)) for row, used in enumerate(classes >= 0)]
    metrics = detections.update_metrics(detections.init_metrics(), on_canvas, truths)
    return coco.summarise(metrics, [str(number) for number in range(1 + classes.max())])["ap"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=(*SEGMENTERS, *DETECTORS))
    parser.add_argument("--workdir", type=Path, help="a trained run, instead of random weights")
    parser.add_argument("--size", type=sides, default="96x128", help="height x width of the images")
    parser.add_argument("--canvas", type=sides, default="128x192")
    parser.add_argument("--border", type=int, default=32)
    parser.add_argument("--images", type=int, default=8)
    args = parser.parse_args()

    from morphism import tasks
    from morphism.evaluation.run import open_run
    from morphism.evaluation.step import make_eval_step
    from morphism.runtime.mesh import make_mesh

    (height, width), mesh = args.size, make_mesh()
    images = scenes(args.images, height, width)
    print(f"{args.images} images of {height}x{width} on canvases of {args.canvas[0]}x{args.canvas[1]}")
    for name in [str(args.workdir)] if args.workdir else args.models:
        if args.workdir:
            run = open_run(args.workdir, "latest")
            config, model, variables = run.config, run.model, run.variables
        else:
            config, model, variables = random_network(name)
        step = make_eval_step(model, tasks.of(config), config, mesh)
        alone, on_canvas = (found(step, variables, config, images, canvas) for canvas in (args.size, args.canvas))
        if "boxes" in alone:
            print(f"{name:26} AP {agreement(alone, on_canvas):.3f}", flush=True)
            continue
        differs = alone["classes"] != on_canvas["classes"]
        inner = differs[:, : height - args.border, : width - args.border]
        shares = f"{100 * differs.mean():6.2f} % of pixels, {100 * inner.mean():6.2f} % of the inner"
        alike = len(np.unique(alone["classes"])) == 1
        print(f"{name:26} {shares}{', all of one class' if alike else ''}", flush=True)


if __name__ == "__main__":
    main()
