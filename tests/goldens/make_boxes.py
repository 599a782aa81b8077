"""Writes boxes.npz: what torchvision computes of boxes: measures, losses and gradients, the coder, anchors, matchers.

python tests/goldens/make_boxes.py        needs torch 2.13 and torchvision 0.28, on CPU, seconds
"""

import contextlib
from pathlib import Path

with contextlib.suppress(ImportError):
    import torchvision_oracle  # noqa: F401  stands in for torchvision's compiled operators where they cannot load

import numpy as np
import torch
from torch.nn import functional as F
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder, Matcher, SSDMatcher
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

rng = np.random.default_rng(0)


def draw(count, size=300.0):
    center, side = rng.uniform(0, size, (count, 2)), np.exp(rng.uniform(1, 5, (count, 2)))
    return np.concatenate([center - side / 2, center + side / 2], axis=-1)


def put_measures(found):
    a, b = draw(20), draw(15)
    b[:5] = a[:5]
    b[5:10] = a[5:10] + rng.normal(size=(5, 4))
    found["a"], found["b"] = a, b
    names = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
    for name in names:
        found[name] = getattr(ops, name)(torch.tensor(a), torch.tensor(b)).numpy()
    for name in names[1:]:
        boxes = torch.tensor(a[:15], requires_grad=True)
        loss = getattr(ops, f"{name}_loss")(boxes, torch.tensor(b), reduction="none")
        loss.sum().backward()
        found[f"{name}_loss"], found[f"{name}_loss/gradient"] = loss.detach().numpy(), boxes.grad.numpy()
    found["clip"] = ops.clip_boxes_to_image(torch.tensor(a), (200, 250)).numpy()
    x = torch.linspace(-3, 3, 25, dtype=torch.float64, requires_grad=True)
    for beta in (0.0, 1 / 9, 1.0):
        loss = F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none", beta=beta)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        found[f"smooth_l1/{beta:.2f}"] = torch.stack([x, loss, gradient]).detach().numpy()


def put_coder(found):
    boxes, anchors, deltas = draw(20), draw(20), rng.normal(size=(20, 12)) * 5
    found.update({"coder/boxes": boxes, "coder/anchors": anchors, "coder/deltas": deltas})
    for name, weights in (("1", (1.0, 1.0, 1.0, 1.0)), ("10", (10.0, 10.0, 5.0, 5.0))):
        coder = BoxCoder(weights)
        found[f"coder/{name}/encoded"] = coder.encode_single(torch.tensor(boxes), torch.tensor(anchors)).numpy()
        found[f"coder/{name}/decoded"] = coder.decode_single(torch.tensor(deltas), torch.tensor(anchors)).numpy()


def put_anchors(found):
    generators = {
        "retinanet": _default_anchorgen(),
        "rpn": AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5),
        "ssd300": DefaultBoxGenerator(
            [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
            scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
            steps=[8, 16, 32, 64, 100, 300],
        ),
        "ssdlite320": DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95),
    }
    pyramid = [(20, 27), (10, 14), (5, 7), (3, 4), (2, 2)]
    cases = {
        "retinanet": ((157, 211), pyramid),
        "rpn": ((157, 211), pyramid),
        "ssd300": ((300, 300), [(n, n) for n in (38, 19, 10, 5, 3, 1)]),
        "ssdlite320": ((320, 256), [(20, 16), (10, 8), (5, 4), (3, 2), (2, 1), (1, 1)]),
    }
    for name, (size, grids) in cases.items():
        images = ImageList(torch.zeros(1, 3, *size), [size])
        boxes = generators[name](images, [torch.zeros(1, 1, *grid) for grid in grids])[0].numpy()
        assert boxes.dtype == np.float32
        found[f"anchors/{name}"] = boxes if name != "ssd300" else boxes[::7]


def put_matches(found):
    """IoU in tenths, so that there are ties of every kind; every box overlaps some anchor."""
    iou = rng.integers(1, 10, (6, 150)) / 10 * (rng.random((6, 150)) < 0.5)
    iou[3] *= 0.4  # a box whose best anchors are under every threshold
    iou[4] = iou[5] * (iou[5] < 0.9)
    iou[1, :] *= np.arange(150) < 3
    iou[2, :] = iou[1, :]  # two boxes for the same best anchor
    found["match/iou"] = iou
    for low, high in ((0.4, 0.5), (0.3, 0.7)):
        for force in (False, True):
            matcher = Matcher(high, low, allow_low_quality_matches=force)
            found[f"match/{low}-{high}-{force}"] = matcher(torch.tensor(iou)).numpy()
    found["match/ssd"] = SSDMatcher(0.5)(torch.tensor(iou)).numpy()


def main():
    found = {}
    put_measures(found)
    put_coder(found)
    put_anchors(found)
    put_matches(found)
    path = Path(__file__).with_name("boxes.npz")
    np.savez_compressed(path, **found)
    print(f"{path.name}: {len(found)} arrays, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
