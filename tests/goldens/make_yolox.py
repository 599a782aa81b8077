"""Writes yolox.npz: what the authors' YOLOX computes with weights and outputs drawn by name.

    pip install --no-deps yolox==0.3.0
    python tests/goldens/make_yolox.py            needs torch 2.13, on CPU, 1 minute

Of three networks the head's outputs and the decoded boxes at odd multiples of 32; of drawn outputs what SimOTA assigns,
every term of the loss, and their gradients; and those of one training step, with batch norms in training. That release
has a center_radius of 2.5. What it imports and its models do not use is stood in for.
"""

import contextlib
import importlib
import sys
from pathlib import Path
from unittest.mock import MagicMock

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from drawn import BOXES, drawn_yolox, random_image, sample, yolox_outputs
from torch import nn

for name in ("cv2", "loguru", "psutil", "tabulate", "thop", "tqdm", "pycocotools.coco"):
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = MagicMock()
from yolox.models import YOLOFPN, YOLOPAFPN, YOLOX, YOLOXHead  # noqa: E402

HEADS = {"yolox_nano": (96, 160), "yolox_tiny": (160, 96), "yolox_darknet53": (96, 32)}
CLASSES, CANVAS = 5, (96, 128)
STEPPED = (0.33, 0.125)  # depth and width
LEVELS = 3


def build(name: str, classes: int) -> YOLOX:
    if name == "yolox_darknet53":
        model = YOLOX(YOLOFPN(), YOLOXHead(classes, 1.0, in_channels=[128, 256, 512], act="lrelu"))
    else:
        depth, width = {"yolox_nano": (0.33, 0.25), "yolox_tiny": (0.33, 0.375), "stepped": STEPPED}[name]
        depthwise = name == "yolox_nano"
        body = YOLOPAFPN(depth, width, depthwise=depthwise)
        model = YOLOX(body, YOLOXHead(classes, width, depthwise=depthwise))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.ndim:
                value.copy_(torch.from_numpy(drawn_yolox(key, tuple(value.shape))))
    return model.eval()


def images(height: int, width: int, batch: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Blue first, as OpenCV reads them; not up to 255, since no batch norm of drawn statistics would take that down."""
    return torch.from_numpy(random_image(height, width, batch)[..., ::-1].transpose(0, 3, 1, 2).copy()).to(dtype)


def labels(boxes_and_classes: tuple, slots: int = 12) -> torch.Tensor:
    """Class, centre and sides a row, zeros in unused ones."""
    rows = np.zeros((len(boxes_and_classes), slots, 5), np.float32)
    for row, (boxes, classes) in zip(rows, boxes_and_classes, strict=True):
        for slot, (box, number) in enumerate(zip(boxes, classes, strict=True)):
            x0, y0, x1, y1 = box
            row[slot] = number, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    return torch.from_numpy(rows)


def heads(found: dict) -> None:
    for name, (height, width) in HEADS.items():
        model = build(name, 20)
        model.head.decode_in_inference = False
        with torch.no_grad():
            raw = model(images(height, width))
            boxes = model.head.decode_outputs(raw.clone(), "torch.FloatTensor")[..., :4]
        key = f"heads/{name}/{height}x{width}"
        print(name, tuple(raw.shape), boxes[..., 2:].min().item(), boxes[..., 2:].max().item(), flush=True)
        found[f"{key}/outputs"] = sample(raw, 2000)
        found[f"{key}/shape"] = np.array(raw.shape)
        found[f"{key}/boxes"] = sample(boxes, 1000)
        found[f"parameters/{name}"] = np.array(sum(x.numel() for x in build(name, 80).parameters()))


def split_levels(outputs: torch.Tensor) -> list[torch.Tensor]:
    """[B,A,C] -> a map [B,C,h,w] a level."""
    grids = [(CANVAS[0] // stride, CANVAS[1] // stride) for stride in (8, 16, 32)]
    parts = outputs.split([h * w for h, w in grids], dim=1)
    return [part.transpose(1, 2).reshape(len(part), -1, *grid) for part, grid in zip(parts, grids, strict=True)]


class Given(nn.Module):
    """In place of a layer, what it would have made."""

    def __init__(self, output: torch.Tensor):
        super().__init__()
        self.output = output

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.output


def drawn_outputs(found: dict) -> None:
    """The loss of outputs as if the head had made them: its three predictions stand in for themselves."""
    made = yolox_outputs(len(BOXES), 252, CLASSES)
    tensors = {key: torch.from_numpy(value).requires_grad_() for key, value in made.items()}
    head = YOLOXHead(CLASSES)
    head.use_l1 = True
    levels = [split_levels(tensors[key].reshape(len(BOXES), 252, -1)) for key in tensors]
    names = ("reg_preds", "obj_preds", "cls_preds")
    head.stems = head.cls_convs = head.reg_convs = nn.ModuleList([nn.Identity()] * LEVELS)
    for name, maps in zip(names, levels, strict=True):
        setattr(head, name, nn.ModuleList([Given(x) for x in maps]))
    assigned = []
    original = head.get_assignments

    def remembered(*args):
        result = original(*args)
        assigned.append((args[0], result))
        return result

    head.get_assignments = remembered
    features = [torch.zeros(len(BOXES), 1, *x.shape[2:]) for x in levels[0]]
    head.train()
    total, box, objectness, classification, l1, _ = head(features, labels(BOXES), None)
    total.backward()
    terms = {"box": box, "objectness": objectness, "classification": classification, "l1": l1}
    for key, value in terms.items():
        found[f"loss/{key}"] = value.detach().numpy()
    for key, value in tensors.items():
        found[f"loss/gradient/{key}"] = value.grad.numpy()
    for index, (_, mask, iou, slots, _) in assigned:
        matches = np.full(252, -1)
        matches[mask.numpy()] = slots.numpy()
        found[f"assigned/{index}/matches"] = matches
        found[f"assigned/{index}/iou"] = iou.detach().numpy()
        print("image", index, mask.sum().item(), "places", np.bincount(slots.numpy()), flush=True)
    print({key: value.item() for key, value in terms.items()}, flush=True)


def step(found: dict) -> None:
    model = build("stepped", CLASSES).train()
    model.head.use_l1 = True
    losses = model(images(*CANVAS, 2), labels(BOXES[1:]))
    losses["total_loss"].backward()
    names = {"box": "iou_loss", "objectness": "conf_loss", "classification": "cls_loss", "l1": "l1_loss"}
    for ours, theirs in names.items():
        found[f"step/{ours}"] = losses[theirs].detach().numpy()
    for key, parameter in model.named_parameters():
        found[f"step/gradient/{key}"] = sample(parameter.grad, 16).astype(np.float32)
    for key in ("backbone.backbone.dark2.0.bn", "head.reg_convs.2.1.bn"):
        for name in ("running_mean", "running_var"):
            found[f"step/{key}.{name}"] = model.state_dict()[f"{key}.{name}"].numpy()
    print({key: float(value) for key, value in losses.items()}, flush=True)


if __name__ == "__main__":
    found: dict[str, np.ndarray] = {}
    heads(found)
    drawn_outputs(found)
    step(found)
    np.savez_compressed(Path(__file__).parent / "yolox.npz", **found)
