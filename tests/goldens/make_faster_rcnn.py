"""Writes faster_rcnn.npz: what torchvision's ROI Align and Faster R-CNN compute with weights drawn by name.

    python tests/goldens/make_faster_rcnn.py        needs torch 2.13 and torchvision 0.28, on CPU, 1 minute

Of ROI Align values and gradients, by torchvision's definition in Python, for boxes that lie where it agrees with the
compiled kernels; of the published network the RPN's outputs; and of both versions on ResNet-18, in float64, proposals,
heads and detections, and the losses and gradients of one training step.
"""

import contextlib
import os
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the definition of ROI Align as it is written, not compiled

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from drawn import BOXES, CANVAS, POOLING, ROIS, SIZES, SMALL, drawn_calm, pyramid, random_image, sample
from torchvision.models import detection, resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.ops.roi_align import _roi_align

CLASSES = 5
STEP_SAMPLES = {1: (100_000, 100_000), 2: (64, 32)}  # all of them; the first of each kind


def roi_align(found):
    maps = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).double().requires_grad_() for x in pyramid()]
    rois = torch.tensor(ROIS, dtype=torch.float64)
    for case, (size, sampling_ratio, aligned) in POOLING.items():
        # Boxes without area have no points where their number follows the area, and the definition divides by it.
        used = rois if sampling_ratio else rois[torch.all(rois[:, 2:] > rois[:, :2], dim=1)]
        indexed = torch.cat([torch.ones(len(used), 1), used], dim=1).double()  # of the second image
        pooled = _roi_align(maps[0], indexed, 0.25, size, size, sampling_ratio, aligned)
        maps[0].grad = None
        (pooled**2).sum().backward()
        found[f"roi_align/{case}/values"] = sample(pooled.detach().permute(0, 2, 3, 1), 2000)
        found[f"roi_align/{case}/gradient"] = sample(maps[0].grad.permute(0, 2, 3, 1), 2000)
    for x in maps:
        x.grad = None
    pooler = MultiScaleRoIAlign([str(level) for level in range(len(maps))], 7, 2)
    features = {str(level): x for level, x in enumerate(maps)}
    pooled = pooler(features, [rois, rois - 1], [CANVAS, CANVAS])
    (pooled**2).sum().backward()
    found["roi_align/levels/values"] = sample(pooled.detach().permute(0, 2, 3, 1), 2000)
    for level, x in enumerate(maps):
        found[f"roi_align/levels/gradient/{level}"] = sample(x.grad.permute(0, 2, 3, 1), 500)


def fill(model):
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim:
                value.copy_(torch.from_numpy(drawn_calm(key, tuple(value.shape))))
    return model


def published(found):
    name = "fasterrcnn_resnet50_fpn"
    model = fill(getattr(detection, name)(weights=None, weights_backbone=None, num_classes=CLASSES + 1)).eval()
    with torch.no_grad():
        features = list(model.backbone(torch.from_numpy(random_image(96, 128).transpose(0, 3, 1, 2).copy())).values())
        outputs = model.rpn.head(features)
    for key, levels in zip(("objectness", "rpn_bbox_regression"), outputs, strict=True):
        width = 1 if key == "objectness" else 4
        flat = [x.permute(0, 2, 3, 1).reshape(-1, width) for x in levels]
        found[f"rpn/{name}/{key}"] = sample(torch.cat(flat), 1000)
    print(name, flush=True)


def small(version):
    options = {f"rpn_{key}": value for key, value in SMALL["rpn"].items()}
    if version == 1:
        backbone = _resnet_fpn_extractor(resnet18(norm_layer=FrozenBatchNorm2d), 5)
        head = TwoMLPHead(256 * 7**2, SMALL["head_width"])
    else:
        backbone = _resnet_fpn_extractor(resnet18(), 5, norm_layer=torch.nn.BatchNorm2d)
        options["rpn_head"] = RPNHead(256, 3, conv_depth=2)
        head = FastRCNNConvFCHead((256, 7, 7), [256] * 4, [SMALL["head_width"]], norm_layer=torch.nn.BatchNorm2d)
    predictor = FastRCNNPredictor(SMALL["head_width"], CLASSES + 1)
    samples = dict(zip(("rpn_batch_size_per_image", "box_batch_size_per_image"), STEP_SAMPLES[version], strict=True))
    model = FasterRCNN(backbone, box_head=head, box_predictor=predictor, **options, **samples)
    model = fill(model).double()
    anchors = model.rpn.anchor_generator.forward
    # Anchors and true boxes are float32 also beside float64, so that equal overlaps stay equal.
    model.rpn.anchor_generator.forward = lambda *args: [boxes.float() for boxes in anchors(*args)]
    return model


def run(model, targets=None):
    tensors = torch.from_numpy(random_image(*CANVAS, len(SIZES)).transpose(0, 3, 1, 2).copy()).double()
    features = model.backbone(tensors)
    proposals, rpn_losses = model.rpn(ImageList(tensors, SIZES), features, targets)
    results, losses = model.roi_heads(features, proposals, SIZES, targets)
    return features, proposals, results, rpn_losses | losses


def pipeline(found):
    for version in (1, 2):
        model = small(version).eval()
        scores = []
        chosen = model.rpn.filter_proposals

        def keeping(*args, chosen=chosen, scores=scores):
            boxes, values = chosen(*args)
            scores += values
            return boxes, values

        model.rpn.filter_proposals = keeping
        with torch.no_grad():
            features, proposals, results, _ = run(model)
            pooled = model.roi_heads.box_roi_pool(features, proposals, SIZES)
            logits, deltas = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
        counts = [len(boxes) for boxes in proposals]
        for index in range(len(SIZES)):
            here = f"detect/{version}/{index}"
            found[f"{here}/proposals"] = proposals[index].numpy()
            found[f"{here}/proposal_scores"] = scores[index].numpy()
            found[f"{here}/class_logits"] = logits.split(counts)[index].numpy()
            found[f"{here}/box_regression"] = deltas.split(counts)[index].numpy().astype(np.float32)
            for key, value in results[index].items():
                found[f"{here}/{key}"] = value.numpy()
            print(version, index, counts[index], len(results[index]["scores"]), flush=True)


def steps(found):
    targets = [
        {"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(classes).long() + 1}
        for boxes, classes in BOXES
    ]
    for version in (1, 2):
        model = small(version).train()
        losses = run(model, targets)[3]
        sum(losses.values()).backward()
        print(version, {key: value.item() for key, value in losses.items()}, flush=True)
        for key, value in losses.items():
            found[f"step/{version}/{key}"] = value.detach().numpy()
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"step/{version}/gradient/{key}"] = sample(parameter.grad, 32).astype(np.float32)


if __name__ == "__main__":
    torch.randperm = lambda n, **_: torch.arange(n)  # of positives and negatives the first are drawn
    found: dict[str, np.ndarray] = {}
    roi_align(found)
    published(found)
    pipeline(found)
    steps(found)
    np.savez_compressed(Path(__file__).parent / "faster_rcnn.npz", **found)
