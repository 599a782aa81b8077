"""Writes mask_rcnn.npz: what torchvision's Mask R-CNN and detectron2's semantic head compute with drawn weights.

    python tests/goldens/make_mask_rcnn.py        needs torch 2.13 and torchvision 0.28, on CPU, 1 minute

In float64. Of Mask R-CNN, both versions, on drawn maps in place of a backbone's: detections with their masks, and two
steps of SGD; the masks that it is trained on; and the outputs and gradients of the semantic head, which is written here
as detectron2 has it.
"""

import contextlib
import os
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the definition of ROI Align as it is written, not compiled

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from drawn import (
    INSTANCE_CANVAS,
    INSTANCE_SIZES,
    INSTANCE_WIDTHS,
    INSTANCES,
    LEARNING_RATE,
    MOMENTUM,
    SEMANTIC,
    SMALL,
    drawn_calm,
    instance_maps,
    masks_of,
    sample,
    semantic_maps,
)
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN, roi_heads
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

CLASSES = 5
project_masks_on_boxes = roi_heads.project_masks_on_boxes
SAMPLES = {1: (100_000, 64), 2: (64, 32)}  # anchors and proposals: all of them, or the first of each kind
NAMES = ("0", "1", "2", "3", "pool")


def fill(model):
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim:
                value.copy_(torch.from_numpy(drawn_calm(key, tuple(value.shape))))
    return model.double()


def one_by_one(masks, boxes, numbers, size):
    """torchvision's project_masks_on_boxes, whose definition in Python needs a gigabyte for ten boxes."""
    found = [project_masks_on_boxes(masks, boxes[i : i + 1], numbers[i : i + 1], size) for i in range(len(boxes))]
    return torch.cat([boxes.new_zeros((0, size, size)), *found])


class NoBackbone(nn.Module):
    out_channels = INSTANCE_WIDTHS["maps"]


def mask_rcnn(version):
    maps, boxes, masks = (INSTANCE_WIDTHS[name] for name in ("maps", "boxes", "masks"))
    options = {f"rpn_{key}": value for key, value in SMALL["rpn"].items()}
    options["rpn_head"] = RPNHead(maps, 3, conv_depth=version)
    norm = nn.BatchNorm2d if version == 2 else None
    if version == 1:
        head = TwoMLPHead(maps * 7**2, boxes)
    else:
        head = FastRCNNConvFCHead((maps, 7, 7), [maps] * 4, [boxes], norm_layer=norm)
    model = MaskRCNN(
        NoBackbone(),
        box_head=head,
        box_predictor=FastRCNNPredictor(boxes, CLASSES + 1),
        mask_head=MaskRCNNHeads(maps, [masks] * 4, 1, norm_layer=norm),
        mask_predictor=MaskRCNNPredictor(masks, masks, CLASSES + 1),
        **options,
        **dict(zip(("rpn_batch_size_per_image", "box_batch_size_per_image"), SAMPLES[version], strict=True)),
    )
    fill(model)
    anchors = model.rpn.anchor_generator.forward
    # Anchors and true boxes are float32 also where the rest is float64, so that equal overlaps stay equal.
    model.rpn.anchor_generator.forward = lambda *args: [boxes.float() for boxes in anchors(*args)]
    return model


def tensors():
    return [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double().requires_grad_() for x in instance_maps()]


def run(model, maps, targets=None):
    features = dict(zip(NAMES, maps, strict=True))
    images = ImageList(torch.zeros(len(INSTANCES), 3, *INSTANCE_CANVAS), INSTANCE_SIZES)
    proposals, rpn_losses = model.rpn(images, features, targets)
    results, losses = model.roi_heads(features, proposals, INSTANCE_SIZES, targets)
    return results, rpn_losses | losses


def detections(found):
    for version in (1, 2):
        with torch.no_grad():
            results, _ = run(mask_rcnn(version).eval(), tensors())
        for index, result in enumerate(results):
            for key, value in result.items():
                value = sample(value[:, 0].numpy(), 2000) if key == "masks" else value.numpy()
                found[f"detect/{version}/{index}/{key}"] = value
            print(version, index, len(result["scores"]), flush=True)


def targets():
    return [
        {
            "boxes": torch.tensor(boxes).float().reshape(-1, 4),
            "labels": torch.tensor(classes).long() + 1,
            "masks": torch.from_numpy(masks_of(boxes, size)),
        }
        for (boxes, classes), size in zip(INSTANCES, INSTANCE_SIZES, strict=True)
    ]


def steps(found):
    for version in (1, 2):
        model, maps = mask_rcnn(version).train(), tensors()
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
        for step in range(2):
            optimizer.zero_grad()
            for x in maps:
                x.grad = None
            losses = run(model, maps, targets())[1]
            sum(losses.values()).backward()
            for key, value in losses.items():
                found[f"step/{version}/{step}/{key}"] = value.detach().numpy()
            for level, x in enumerate(maps):
                found[f"step/{version}/{step}/maps/{level}"] = sample(x.grad.permute(0, 2, 3, 1), 100)
            print(version, {key: value.item() for key, value in losses.items()}, flush=True)
            optimizer.step()
        for key, value in model.named_parameters():
            moved = (value.detach() - before[key]) / LEARNING_RATE
            found[f"step/{version}/moved/{key}"] = sample(moved, 32)
        for key, value in model.named_buffers():
            if value.ndim:
                found[f"step/{version}/statistic/{key}"] = value.numpy()


def mask_targets(found):
    """Of every object in boxes around it, and in one that it lies next to."""
    rng = np.random.default_rng(0)
    for index, ((boxes, _), (height, width)) in enumerate(zip(INSTANCES, INSTANCE_SIZES, strict=True)):
        if not boxes:
            continue
        rois = np.repeat(np.array(boxes, np.float64), 3, axis=0)
        rois[1::3] += rng.uniform(-9, 9, (len(boxes), 4))
        rois[2::3] += rng.uniform(-1, 1, (len(boxes), 4))
        rois = np.sort(rois.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        rois[:, 0::2], rois[:, 1::2] = rois[:, 0::2].clip(0, width), rois[:, 1::2].clip(0, height)
        rois[-1] = [0, 0, 30, 64]
        numbers = torch.arange(len(boxes)).repeat_interleave(3)
        masks = torch.from_numpy(masks_of(boxes, (height, width)))
        found[f"targets/{index}/rois"] = rois
        found[f"targets/{index}/masks"] = one_by_one(masks, torch.from_numpy(rois), numbers, 28).numpy()


class SemSegFPNHead(nn.Module):
    """detectron2's; where a map is not half as large as the finer one, it is resized to that one's size."""

    def __init__(self, inputs, channels, classes):
        super().__init__()
        for level in range(4):
            for index in range(max(level, 1)):
                conv = nn.Conv2d(inputs if index == 0 else channels, channels, 3, padding=1, bias=False)
                conv.norm = nn.GroupNorm(32, channels)
                self.add_module(f"p{level + 2}_{2 * index}", conv)
        self.predictor = nn.Conv2d(channels, classes, 1)

    def forward(self, maps, doubles):
        total = 0
        for level, x in enumerate(maps):
            for index in range(max(level, 1)):
                layer = getattr(self, f"p{level + 2}_{2 * index}")
                x = F.relu(layer.norm(F.conv2d(x, layer.weight, padding=1)))
                if level:
                    size = {"scale_factor": 2} if doubles else {"size": maps[level - 1 - index].shape[2:]}
                    x = F.interpolate(x, **size, mode="bilinear", align_corners=False)
            total = total + x
        return self.predictor(total)


def semantic(found):
    for case in SEMANTIC:
        head = SemSegFPNHead(8, 32, 5)
        with torch.no_grad():
            for key, value in head.state_dict().items():
                value.copy_(torch.from_numpy(drawn_calm(key.replace("_", "."), tuple(value.shape))))
        head = head.double()
        maps = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double() for x in semantic_maps(case)]
        logits = head(maps, case == "doubles")
        (logits**2).sum().backward()
        found[f"semantic/{case}/logits"] = sample(logits.detach().permute(0, 2, 3, 1), 500)
        for key, value in head.named_parameters():
            found[f"semantic/{case}/gradient/{key.replace('_', '.')}"] = sample(value.grad, 32)


if __name__ == "__main__":
    torch.randperm = lambda n, **_: torch.arange(n)  # of positives and negatives the first are drawn
    roi_heads.project_masks_on_boxes = one_by_one
    found: dict[str, np.ndarray] = {}
    semantic(found)
    mask_targets(found)
    detections(found)
    steps(found)
    np.savez_compressed(Path(__file__).parent / "mask_rcnn.npz", **found)
