"""Writes windows.npz: how torch and torchvision pad, crop and resize a picture with boxes for detection.

    python tests/goldens/make_windows.py        needs torch 2.13 and torchvision 0.28, on CPU, seconds

Each case is written with the parameters that a random transform would have drawn.
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from torch.nn.functional import interpolate
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import RandomIoUCrop, SanitizeBoundingBoxes
from torchvision.transforms.v2 import functional as F

FILL = (123, 117, 104)
HEIGHT, WIDTH = 43, 61
BOXES = np.array([[3, 4, 20, 30], [30.5, 10, 61, 43], [50, 1, 58, 6], [0, 0, 61, 43]], np.float32)
SHORTER = ((480, 640), (500, 375), (427, 640), (1333, 200), (612, 612), (43, 61), (375, 500))


def picture(height=HEIGHT, width=WIDTH):
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    waves = np.stack([np.sin(x / 5), np.cos(y / 4), np.sin((x + y) / 7)], -1)
    return np.clip(100 + 90 * waves + noise, 0, 255).astype(np.uint8)


def tensor():
    return torch.from_numpy(picture().transpose(2, 0, 1).copy())


def segmentation():
    return torch.from_numpy(np.arange(HEIGHT * WIDTH, dtype=np.int64).reshape(1, HEIGHT, WIDTH) % 251).byte()


def resize(image, size, **options):
    return interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False, **options)[0]


def pixels(image):
    return image.numpy().transpose(1, 2, 0).astype(np.float16)


def zoomed(found):
    """name: padding left, top, right, bottom; crop left, top, width, height; size."""
    cases = {
        "whole": ((0, 0, 0, 0), None, (30, 30)),
        "larger": ((0, 0, 0, 0), None, (70, 90)),
        "out": ((17, 30, 60, 25), None, (30, 30)),
        "out_enlarged": ((7, 3, 6, 9), None, (90, 80)),
        "far_out": ((90, 60, 85, 70), None, (24, 40)),
        "crop": ((0, 0, 0, 0), (20, 8, 33, 20), (30, 30)),
        "out_and_crop": ((17, 30, 60, 25), (10, 5, 60, 70), (30, 31)),
        "fill_alone": ((80, 60, 0, 0), (0, 0, 20, 30), (10, 10)),
    }
    for name, (padding, crop, size) in cases.items():
        image = F.pad(tensor(), list(padding), fill=list(FILL))
        boxes = tv_tensors.BoundingBoxes(
            BOXES + np.tile(padding[:2], 2), format="XYXY", canvas_size=tuple(image.shape[-2:]), dtype=torch.float32
        )
        labels = torch.arange(len(boxes))
        left, top, width, height = crop or (0, 0, image.shape[2], image.shape[1])
        if crop:
            centers = (boxes[:, :2] + boxes[:, 2:]).as_subclass(torch.Tensor) / 2
            inside = (
                (centers > torch.tensor([left, top])) & (centers < torch.tensor([left + width, top + height]))
            ).all(1)
            transform = RandomIoUCrop()
            params = dict(top=top, left=left, height=height, width=width, is_within_crop_area=inside)
            image, boxes = transform.transform(tv_tensors.Image(image), params), transform.transform(boxes, params)
            boxes, labels = SanitizeBoundingBoxes(labels_getter=lambda each: each[1])(boxes, labels)
        classes = F.crop(F.pad(segmentation(), list(padding), fill=255), top, left, height, width)
        found[f"{name}/segmentation"] = (
            interpolate(classes[None].float(), size=size, mode="nearest")[0, 0].byte().numpy()
        )
        scale = torch.tensor([size[1] / width, size[0] / height] * 2)
        found[f"{name}/rect"] = np.array([left, top, left + width, top + height]) - np.tile(padding[:2], 2)
        found[f"{name}/image"] = pixels(resize(image.as_subclass(torch.Tensor), size))
        found[f"{name}/boxes"] = (boxes.as_subclass(torch.Tensor) * scale).numpy()
        found[f"{name}/kept"] = labels.numpy()


def jittered(found):
    """name: size, then the corner of the cut, of a canvas of 48 x 56; with antialiasing."""
    for name, size, (top, left) in (
        ("small", (9, 13), (0, 0)),
        ("large", (70, 99), (15, 29)),
        ("wide", (40, 80), (0, 11)),
    ):
        image = resize(tensor(), size, antialias=True)[:, top : top + 48, left : left + 56]
        canvas = torch.tensor(FILL).float()[:, None, None].repeat(1, 48, 56)
        canvas[:, : image.shape[1], : image.shape[2]] = image
        found[f"jitter/{name}/image"] = pixels(canvas)


def shorter(found):
    for index, size in enumerate(SHORTER):
        for shortest, longest in ((800, 1333), (320, 640), (37, 50)):
            transform = GeneralizedRCNNTransform(shortest, longest, [0, 0, 0], [1, 1, 1]).eval()
            boxes = torch.tensor([[1.0, 2, 30, 40]])
            image, target = transform.resize(torch.zeros(3, *size), {"boxes": boxes})
            found[f"shorter/{index}/{shortest}/size"] = np.array(image.shape[-2:])
            found[f"shorter/{index}/{shortest}/boxes"] = target["boxes"].numpy()


if __name__ == "__main__":
    found: dict[str, np.ndarray] = {}
    zoomed(found)
    jittered(found)
    shorter(found)
    np.savez_compressed(Path(__file__).parent / "windows.npz", **found)
