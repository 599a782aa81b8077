"""Writes detectors.npz: what torchvision's detectors compute with weights and outputs drawn by name.

    python tests/goldens/make_detectors.py        needs torch 2.13 and torchvision 0.28, on CPU, 1 minute

Of each the heads' outputs and the anchors at two canvases; the losses and the detections of drawn outputs; and the
losses and gradients of one training step.
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from drawn import BOXES, SIZES, SUPPRESSION, detector_outputs, drawn, random_image, sample
from torchvision.models import detection, resnet18
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou
from torchvision.ops import boxes as box_ops
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

CLASSES = 20
CANVASES = {
    "ssd300_vgg16": ((300, 300), (268, 332)),
    "retinanet_resnet50_fpn": ((128, 160), (135, 181)),
    "retinanet_resnet50_fpn_v2": ((135, 181),),
}
DRAWN = {  # canvases of the losses and the detections
    "ssd300_vgg16": (268, 268),
    "retinanet_resnet50_fpn": (128, 160),
    "retinanet_resnet50_fpn_v2": (128, 160),
}
STEPPED = {"ssd300_vgg16": (268, 268, torch.float32), "retinanet_resnet18_fpn": (96, 128, torch.float64)}


def nms(boxes, scores, threshold):
    """The compiled operator's definition, by which two boxes without area, whose IoU is 0 / 0, do not suppress."""
    kept, left = [], torch.argsort(scores, descending=True, stable=True)
    while len(left):
        kept.append(left[0])
        left = left[1:][~(box_iou(boxes[left[:1]], boxes[left[1:]])[0] > threshold)]
    return torch.stack(kept) if kept else left


def build(name, classes):
    if name == "retinanet_resnet18_fpn":
        extra = LastLevelP6P7(256, 256)
        body = resnet18(norm_layer=FrozenBatchNorm2d)
        model = RetinaNet(_resnet_fpn_extractor(body, 5, returned_layers=[2, 3, 4], extra_blocks=extra), classes + 1)
    else:
        model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes + 1)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim:
                value.copy_(torch.from_numpy(drawn(key, tuple(value.shape))))
    return model.eval()


def forward(model, images):
    """The heads' outputs and the anchors, without torchvision's resizing; SSD's steps are those of 300x300."""
    tensors = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(next(model.parameters()).dtype)
    canvases = ImageList(tensors, [tuple(tensors.shape[2:])] * len(images))
    features = list(model.backbone(tensors).values())
    generator = model.anchor_generator
    if isinstance(generator, DefaultBoxGenerator) and tuple(tensors.shape[2:]) != (300, 300):
        generator = DefaultBoxGenerator(generator.aspect_ratios, scales=generator.scales)
    return model.head(features), generator(canvases, features), [x.shape[2] * x.shape[3] for x in features]


def losses(model, outputs, anchors, targets):
    if isinstance(model, RetinaNet):
        return model.compute_loss(targets, outputs, anchors)
    matched = []
    for target, boxes in zip(targets, anchors, strict=True):
        empty = torch.full((len(boxes),), -1)
        iou = box_iou(target["boxes"], boxes)
        matched.append(model.proposal_matcher(iou) if len(target["boxes"]) else empty)
    return model.compute_loss(targets, outputs, anchors, matched)


def to_targets(boxes_and_classes, dtype):
    return [
        {"boxes": torch.tensor(boxes, dtype=dtype).reshape(-1, 4), "labels": torch.tensor(classes).long() + 1}
        for boxes, classes in boxes_and_classes
    ]


def heads(found):
    for name, canvases in CANVASES.items():
        model = build(name, CLASSES)
        for height, width in canvases:
            with torch.no_grad():
                outputs, anchors, _ = forward(model, random_image(height, width))
            for key, value in (outputs | {"anchors": anchors[0]}).items():
                found[f"heads/{name}/{height}x{width}/{key}"] = sample(value, 1000)
                found[f"shape/{name}/{height}x{width}/{key}"] = np.array(value.shape)
        print(name, flush=True)


def drawn_outputs(found):
    for name, canvas in DRAWN.items():
        model = build(name, 5)
        with torch.no_grad():
            _, anchors, cells = forward(model, np.zeros((len(BOXES), *canvas, 3), np.float32))
        made = detector_outputs(name, len(BOXES), len(anchors[0]), 6)
        outputs = {key: torch.from_numpy(value).requires_grad_() for key, value in made.items()}
        loss = losses(model, outputs, anchors, to_targets(BOXES, torch.float32))
        sum(loss.values()).backward()
        for key, value in loss.items():
            found[f"loss/{name}/{key}"] = value.detach().numpy()
        for key, value in outputs.items():
            found[f"loss/{name}/gradient/{key}"] = value.grad.double().abs().sum().numpy()
            strongest = value.grad.abs().flatten().topk(200).indices
            found[f"loss/{name}/index/{key}"] = strongest.numpy().astype(np.int32)
            found[f"loss/{name}/strongest/{key}"] = value.grad.flatten()[strongest].numpy()
        outputs = {key: value.detach() for key, value in outputs.items()}
        for case, options in SUPPRESSION.items():
            for option, value in options.items():
                setattr(model, option, value)
            if isinstance(model, RetinaNet):
                outputs["cls_logits"][..., 0] = -30.0  # which training makes of the class 0, that nothing is of
                counts = [9 * count for count in cells]
                split = {key: list(value.split(counts, dim=1)) for key, value in outputs.items()}
                results = model.postprocess_detections(split, [list(a.split(counts)) for a in anchors], SIZES)
            else:
                results = model.postprocess_detections(outputs, anchors, SIZES)
            for index, result in enumerate(results):
                print(name, case, index, len(result["scores"]), flush=True)
                for key, value in result.items():
                    found[f"detect/{name}/{case}/{index}/{key}"] = value.numpy()


def steps(found):
    """The targets and anchors are float32 also beside float64, so that equal overlaps stay equal."""
    for name, (height, width, dtype) in STEPPED.items():
        model = build(name, 5).to(dtype).train()
        outputs, anchors, _ = forward(model, random_image(height, width))
        loss = losses(model, outputs, [boxes.float() for boxes in anchors], to_targets(BOXES[2:], torch.float32))
        sum(loss.values()).backward()
        for key, value in loss.items():
            found[f"step/{name}/{key}"] = value.detach().numpy()
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"step/{name}/gradient/{key}"] = sample(parameter.grad, 32).astype(np.float32)
        print(name, {key: value.item() for key, value in loss.items()}, flush=True)


if __name__ == "__main__":
    box_ops.nms = nms
    found: dict[str, np.ndarray] = {}
    heads(found)
    drawn_outputs(found)
    steps(found)
    np.savez_compressed(Path(__file__).parent / "detectors.npz", **found)
