"""Non-maximum suppression of a batch of images: ops/nms.py, and torchvision's algorithm, one image after another.

    python benchmarks/nms.py [--boxes 1000] [--classes 80] [--batch 8] [--outputs 100] [--threshold 0.5] [--rounds 20]

The peer is the greedy loop over boxes, with the boxes of different classes shifted apart as torchvision.ops.batched_nms
does, in torch if that is installed (it is not a dependency), else in NumPy; also torchvision's compiled operator if it
loads. All take turns within every round; the table gives medians over rounds. `kept` is the number of boxes that each
keeps: shifted coordinates are rounded, so the peers may differ by a box. On a shared machine only the ratios count.
"""

import argparse
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import turns

from morphism.ops.nms import nms

FROM_ONE_OBJECT = 8  # boxes that a detector predicts around an object


def draw(args) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [B,N,4] in clusters of one class on an image of 640x640, scores [B,N], classes [B,N]."""
    rng = np.random.default_rng(0)
    objects = -(-args.boxes // FROM_ONE_OBJECT)
    center = rng.uniform(0, 640, (args.batch, objects, 1, 2))
    side = np.exp(rng.uniform(3, 5, (args.batch, objects, 1, 2)))
    around = (args.batch, objects, FROM_ONE_OBJECT, 2)
    center, side = center + side * 0.1 * rng.normal(size=around), side * np.exp(0.15 * rng.normal(size=around))
    boxes = np.concatenate([center - side / 2, center + side / 2], axis=-1).reshape(args.batch, -1, 4)
    classes = np.repeat(rng.integers(args.classes, size=(args.batch, objects)), FROM_ONE_OBJECT, axis=1)
    scores = rng.random(classes.shape)
    return tuple(
        x[:, : args.boxes].astype(kind) for x, kind in ((boxes, np.float32), (scores, np.float32), (classes, np.int32))
    )


def morphism(args, boxes, scores, classes) -> Callable[[], int]:
    batch = jax.device_put((boxes, scores, classes))
    run = jax.jit(jax.vmap(lambda b, s, c: nms(b, s, args.threshold, args.outputs, c)))
    return lambda: int(np.sum(run(*batch)[1]))


def greedy(xp) -> Callable:
    """The greedy algorithm in `xp`, numpy or torch, whose functions used here have the same names."""

    def keep(boxes, scores, threshold: float) -> list[int]:
        order = xp.argsort(-scores, stable=True)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        kept = []
        while len(order):
            first, rest = order[0], order[1:]
            kept.append(int(first))
            side = xp.minimum(boxes[first, 2:], boxes[rest, 2:]) - xp.maximum(boxes[first, :2], boxes[rest, :2])
            side = side.clip(0)
            overlap = side[:, 0] * side[:, 1]
            order = rest[overlap / (area[first] + area[rest] - overlap) <= threshold]
        return kept

    def make(args, *batch) -> Callable[[], int]:
        images = [tuple(map(xp.asarray, image)) for image in zip(*batch, strict=True)]

        def run() -> int:
            kept = 0
            for boxes, scores, classes in images:
                shifted = boxes + (classes * (boxes.max() + 1))[:, None]
                kept += len(keep(shifted, scores, args.threshold)[: args.outputs])
            return kept

        return run

    return make


def compiled(args, *batch, device: str = "cpu") -> Callable[[], int]:
    import torch
    from torchvision.ops import batched_nms

    images = [tuple(torch.asarray(x).to(device) for x in image) for image in zip(*batch, strict=True)]
    return lambda: sum(len(batched_nms(*image, args.threshold)[: args.outputs]) for image in images)


def contenders() -> dict[str, Callable]:
    found = {"morphism": morphism}
    if not importlib.util.find_spec("torch"):
        return found | {"greedy in NumPy": greedy(np)}
    import torch

    found["greedy in torch"] = greedy(torch)
    try:
        import torchvision

        torchvision.extension._assert_has_ops()
        found["torchvision, compiled"] = compiled
    except (ImportError, RuntimeError):
        pass
    return found


def measure(args) -> dict[str, dict[str, float]]:
    batch = draw(args)
    runs = {name: make(args, *batch) for name, make in contenders().items()}
    kept = {name: run() for name, run in runs.items()}  # compiles
    return {name: {**row, "kept": kept[name]} for name, row in turns.medians(runs, args.rounds).items()}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--outputs", type=int, default=100)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "nms.json")
    return parser


def main() -> None:
    args = make_parser().parse_args()
    results = measure(args)
    device = jax.devices()[0].device_kind
    print(
        f"{args.boxes} boxes, {args.classes} classes, batch {args.batch}, {args.outputs} outputs, {device}, "
        f"medians of {args.rounds}"
    )
    print(f"{'':24}{'wall ms':>10}{'CPU ms':>10}{'x morphism':>12}{'kept':>8}")
    for name, row in results.items():
        row["times_morphism"] = row["wall"] / results["morphism"]["wall"]
        print(f"{name:24}{1e3 * row['wall']:10.2f}{1e3 * row['cpu']:10.2f}{row['times_morphism']:12.1f}{row['kept']:8}")

    settings = {name: value for name, value in vars(args).items() if name != "output"}
    record = {"device": device, "cores": os.cpu_count(), "jax": jax.__version__, **settings, "results": results}
    turns.save(args.output, record)


if __name__ == "__main__":
    main()
