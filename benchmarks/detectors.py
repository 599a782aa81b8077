"""Detectors and their references: the network, its detections, and one training step.

    python benchmarks/detectors.py ssd300_vgg16 300x300 [--work network detect train] [--batch 1 8] [--rounds 3]
    python benchmarks/detectors.py fasterrcnn_resnet50_fpn 800x1344 --work network detect --batch 1
    python benchmarks/detectors.py yolox_s 640x640

network: from normalised images to the heads' outputs. The reference takes turns with this project if it is installed:
torchvision, or for YOLOX its authors' yolox (neither is a dependency).
detect: the same, and the detections.
train: the step of training/step.py, from uint8 images to new parameters; for SSD and RetinaNet also torchvision's
losses, backward pass and SGD.

COCO's classes, random images and boxes. The reference for Faster R-CNN runs the backbone, the RPN's head, and the box
head on random features of 1,000 proposals; ours also selects the proposals and pools their features.

Each contender has its own process, and so its own peak memory; within a round all take turns. Medians over rounds.
`compile`: seconds until the first call has ended. On a shared machine only ratios count.
"""

import contextlib
import importlib
import importlib.util
import os
from functools import partial

import numpy as np
import turns

CLASSES, OBJECTS = 90, 8
EXPERIMENTS = {  # model -> the experiment that is measured
    "ssd300_vgg16": ("coco_ssd300",),
    "retinanet_resnet50_fpn": ("coco_retinanet",),
    "fasterrcnn_resnet50_fpn": ("coco_faster_rcnn", "v1"),
    "yolox_s": ("coco_yolox", "s"),
}
RATE, MOMENTUM, PROPOSALS = 1e-4, 0.9, 1000


def drawn(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.6, (batch, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, corner.shape)], axis=-1)
    return turns.images(batch, height, width) | {
        "boxes": (boxes * [width, height, width, height]).astype(np.float32),
        "classes": rng.integers(0, CLASSES, (batch, OBJECTS)).astype(np.int32),
        "crowd": np.zeros((batch, OBJECTS), bool),
        "image_box": np.tile(np.float32([0, 0, width, height]), (batch, 1)),
    }


def train_step(name: str, batch: dict[str, np.ndarray], dtype: str = "float32", calls: int = 1) -> turns.TrainStep:
    config, model, task = built(name, dtype)
    resolved = task.resolve(config, range(100_000))  # only the length of the data matters
    return turns.TrainStep(resolved, task, model, CLASSES, batch, calls)


def built(name: str, dtype: str):
    from morphism import models, tasks
    from morphism.runtime.mesh import AXIS

    experiment, *variant = EXPERIMENTS[name]
    config = importlib.import_module(f"morphism.experiments.{experiment}").get_config(*variant)
    config.model.dtype = dtype
    return config, models.create(config.model, CLASSES, AXIS), tasks.of(config)


def morphism(name: str, work: str, batch: dict[str, np.ndarray]) -> turns.Run:
    import jax

    from morphism import models
    from morphism.runtime.mesh import compiler_options

    if work == "train":
        return train_step(name, batch)
    config, model, task = built(name, "float32")

    images = jax.device_put(task.normalise(batch, config.augment))
    variables = jax.jit(
        lambda: models.init(model, jax.random.key(0), batch["image"].shape[1:3]),
        compiler_options=compiler_options(once=True),
    )()

    @partial(jax.jit, compiler_options=compiler_options())
    def forward(variables, images):
        outputs = model.apply(variables, images, train=False)
        return model.detect(outputs, batch["size"]) if work == "detect" else outputs

    return lambda: jax.block_until_ready(forward(variables, images))


def torchvision_model(name: str):
    """The detector, its first stages frozen as by default; RetinaNet's extra levels are those of our experiment."""
    from torchvision.models import detection, resnet50
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    if name != "retinanet_resnet50_fpn":
        model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    else:
        levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
        body = resnet50(norm_layer=FrozenBatchNorm2d)
        model = detection.RetinaNet(_resnet_fpn_extractor(body, 5, **levels), CLASSES + 1)
    for path, parameter in model.named_parameters():
        frozen = ("backbone.body.conv1", "backbone.body.layer1", "backbone.features.0.", "backbone.features.2.")
        parameter.requires_grad_(not path.startswith(frozen))
    return model


def torchvision(name: str, work: str, batch: dict[str, np.ndarray]) -> turns.Run:
    """The network without torchvision's resizing; channels last, as torch recommends, on all available cores."""
    with contextlib.suppress(ImportError):
        import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators if they do not load
    import torch
    from torchvision.models.detection.image_list import ImageList

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = torchvision_model(name).to(memory_format=torch.channels_last).train(work == "train")
    x = torch.from_numpy(batch["image"].astype(np.float32) / 255).permute(0, 3, 1, 2)
    canvases = ImageList(x.contiguous(memory_format=torch.channels_last), [tuple(x.shape[2:])] * len(x))
    targets = [
        {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(classes).long() + 1}
        for boxes, classes in zip(batch["boxes"], batch["classes"], strict=True)
    ]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE, MOMENTUM)

    def network():
        features = list(model.backbone(canvases.tensors).values())
        if name.startswith("fasterrcnn"):
            heads = model.roi_heads
            return model.rpn.head(features), heads.box_predictor(heads.box_head(pooled))
        return model.head(features), model.anchor_generator(canvases, features)

    pooled = torch.rand(len(x) * PROPOSALS, 256, 7, 7) if name.startswith("fasterrcnn") else None

    def run() -> None:
        if work == "network":
            with torch.inference_mode():
                network()
            return
        optimizer.zero_grad(set_to_none=True)
        torchvision_loss(model, name, targets, *network()).backward()
        optimizer.step()

    return run


def torchvision_loss(model, name: str, targets: list[dict], outputs: dict, anchors: list):
    from torchvision.ops import box_iou

    matched = []
    if name == "ssd300_vgg16":
        pairs = zip(targets, anchors, strict=True)
        matched = [[model.proposal_matcher(box_iou(target["boxes"], boxes)) for target, boxes in pairs]]
    return sum(model.compute_loss(targets, outputs, anchors, *matched).values())


def yolox(name: str, work: str, batch: dict[str, np.ndarray]) -> turns.Run:
    import torch
    from yolox.models import YOLOPAFPN, YOLOX, YOLOXHead

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = YOLOX(YOLOPAFPN(0.33, 0.5), YOLOXHead(CLASSES, 0.5)).eval().to(memory_format=torch.channels_last)
    x = torch.from_numpy(batch["image"].astype(np.float32)).permute(0, 3, 1, 2)

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


CONTENDERS = {"morphism": morphism, "torchvision": torchvision, "yolox": yolox}


def contenders(model: str, work: str) -> list[str]:
    """This project, and the reference if it does the same work and is installed."""
    name = "yolox" if model.startswith("yolox") else "torchvision"
    works = ("network", "train") if model in ("ssd300_vgg16", "retinanet_resnet50_fpn") else ("network",)
    return ["morphism", *([name] if work in works and importlib.util.find_spec(name) else [])]


def main() -> None:
    parser = turns.make_parser(__doc__, EXPERIMENTS, "300x300", ("network", "detect", "train"), (1, 8), CONTENDERS)
    args = parser.parse_args()
    if args.serve:
        make = CONTENDERS[args.serve]
        return turns.serve(lambda: make(args.model, args.work[0], drawn(args.batch[0], *args.size)))

    print(f"{args.model}, {args.size[0]}x{args.size[1]}, {CLASSES} classes, medians of {args.rounds}")
    turns.write(args, turns.table(args, args.work, lambda work: contenders(args.model, work)))


if __name__ == "__main__":
    main()
