"""Detectors and their references: the network, its detections, and one training step.

    python benchmarks/detectors.py ssd300_vgg16 300x300 [--work network detect train] [--batch 1 8] [--rounds 3]
    python benchmarks/detectors.py fasterrcnn_resnet50_fpn 800x1344 --work network detect --batch 1
    python benchmarks/detectors.py yolox_s 640x640

network: from normalised images to the heads' outputs; for Faster R-CNN with the proposals and their pooled features.
detect: the same, and the detections.
train: from images to new parameters. Ours is the step of training/step.py, from uint8 images, with the augmentation of
the experiment: for YOLOX mosaics, mixup and colours on the device. "plain" is ours without these, which is what the
reference does.

The reference takes turns with this project if it is installed: torchvision, or for YOLOX its authors' yolox 0.3.0
(neither is a dependency). Both get images of the network's size, without a resizing of their own, and train with SGD.

COCO's classes, random images, boxes and parameters. Where few boxes reach the least score, the reference has less to do
than with a trained network; this project always does as much.

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
RATE, MOMENTUM = 1e-4, 0.9


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


def train_step(
    name: str, batch: dict[str, np.ndarray], dtype: str = "float32", calls: int = 1, plain: bool = False
) -> turns.TrainStep:
    config, model, task = built(name, dtype)
    if plain:
        config.augment.update(mosaic=0.0, mixup=0.0, hsv=(0.0, 0.0, 0.0), flip_probability=0.0)
    group = task.mixed(config.augment)
    if len(batch["image"]) % group:
        raise ValueError(f"{name} is trained on mosaics of {group} images; --batch must be a multiple of {group}")
    resolved = task.resolve(config, range(100_000))  # only the length of the data matters
    return turns.TrainStep(resolved, task, model, CLASSES, batch, calls)


def built(name: str, dtype: str):
    from morphism import models, tasks
    from morphism.runtime.mesh import AXIS

    experiment, *variant = EXPERIMENTS[name]
    config = importlib.import_module(f"morphism.experiments.{experiment}").get_config(*variant)
    config.model.dtype = dtype
    return config, models.create(config.model, CLASSES, AXIS), tasks.of(config)


def morphism(name: str, work: str, batch: dict[str, np.ndarray], plain: bool = False) -> turns.Run:
    import jax

    from morphism import models
    from morphism.runtime.mesh import compiler_options

    if work == "train":
        return train_step(name, batch, plain=plain)
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
    """The detector of our experiment: its frozen layers, RetinaNet's extra levels, images of the network's size."""
    with contextlib.suppress(ImportError):
        import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators if they do not load
    import torch
    from torchvision.models import detection, resnet50
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.image_list import ImageList
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from torchvision.ops.misc import FrozenBatchNorm2d

    class Unchanged(torch.nn.Module):
        """In place of torchvision's resizing and normalisation."""

        def forward(self, images, targets):
            return ImageList(images, [tuple(images.shape[2:])] * len(images)), targets

        def postprocess(self, detections, *_):
            return detections

    if name == "ssd300_vgg16":
        model = detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    else:
        body = resnet50(norm_layer=FrozenBatchNorm2d)
        levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
        retinanet = name == "retinanet_resnet50_fpn"
        make = detection.RetinaNet if retinanet else detection.FasterRCNN
        model = make(_resnet_fpn_extractor(body, 5, **(levels if retinanet else {})), CLASSES + 1)
    for path, parameter in model.named_parameters():
        frozen = ("backbone.body.conv1", "backbone.body.layer1", "backbone.features.0.", "backbone.features.2.")
        parameter.requires_grad_(not path.startswith(frozen))
    model.transform = Unchanged()
    return model


def torchvision(name: str, work: str, batch: dict[str, np.ndarray]) -> turns.Run:
    """Channels last, as torch recommends, on all available cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = torchvision_model(name).to(memory_format=torch.channels_last).train(work == "train")
    x = torch.from_numpy(batch["image"].astype(np.float32) / 255).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    targets = [
        {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(classes).long() + 1}
        for boxes, classes in zip(batch["boxes"], batch["classes"], strict=True)
    ]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], RATE, MOMENTUM)

    def network() -> None:
        images, _ = model.transform(x, None)
        maps = model.backbone(images.tensors)
        if not name.startswith("fasterrcnn"):
            model.head(list(maps.values()))
            model.anchor_generator(images, list(maps.values()))
            return
        heads, (proposals, _) = model.roi_heads, model.rpn(images, maps)
        heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, proposals, images.image_sizes)))

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        sum(model(x, targets).values()).backward()
        optimizer.step()

    works = {"network": network, "detect": lambda: model(x), "train": train}
    return works[work] if work == "train" else torch.inference_mode()(works[work])


def yolox(name: str, work: str, batch: dict[str, np.ndarray]) -> turns.Run:
    import torch
    from yolox.models import YOLOPAFPN, YOLOX, YOLOXHead
    from yolox.utils import postprocess

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = YOLOX(YOLOPAFPN(0.33, 0.5), YOLOXHead(CLASSES, 0.5))
    model.head.initialize_biases(1e-2)
    model = model.to(memory_format=torch.channels_last).train(work == "train")
    x = torch.from_numpy(batch["image"].astype(np.float32)).permute(0, 3, 1, 2)
    start, end = batch["boxes"][..., :2], batch["boxes"][..., 2:]
    targets = np.concatenate([batch["classes"][..., None], (start + end) / 2, end - start], axis=-1)
    targets = torch.from_numpy(targets.astype(np.float32))
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, nesterov=True)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x, targets)["total_loss"].backward()
        optimizer.step()

    works = {"network": lambda: model(x), "detect": lambda: postprocess(model(x), CLASSES, 0.01, 0.65), "train": train}
    return works[work] if work == "train" else torch.inference_mode()(works[work])


CONTENDERS = {
    "morphism": morphism,
    "plain": partial(morphism, plain=True),
    "torchvision": torchvision,
    "yolox": yolox,
}


def contenders(model: str, work: str) -> list[str]:
    """This project, and the reference if it is installed."""
    name = "yolox" if model.startswith("yolox") else "torchvision"
    plain = ["plain"] if name == "yolox" and work == "train" else []
    return ["morphism", *plain, *([name] if importlib.util.find_spec(name) else [])]


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
