"""Weights, images, targets and outputs drawn by name: the same in torch and here, so that none need be stored."""

import zlib

import numpy as np


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of torch's name and layout, float32: of a size that keeps activations near 1 through any depth.

    Kernels are He's (gain 1 into a residual sum); norms scale and shift a little, the last of a block by less.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rsplit(".", 1)[-1]
    if kind == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if kind == "running_mean" or kind == "bias":
        return rng.uniform(-0.1, 0.1, shape).astype(np.float32)
    if kind == "weight" and len(shape) == 1:
        last_of_block = name.endswith(("bn3.weight", "bn2.weight"))
        return (rng.uniform(0.5, 1.5, shape) * (0.3 if last_of_block else 1)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)


def random_image(height: int, width: int, batch: int = 1) -> np.ndarray:
    """Normalised images [B,H,W,3], smooth as photographs are, with a little noise."""
    rng = np.random.default_rng(height * 10_000 + width)
    y, x = np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 4, width), indexing="ij")
    phase = rng.uniform(0, 6, (batch, 1, 1, 3))
    smooth = np.sin(y[None, :, :, None] * 2 + phase) + np.cos(x[None, :, :, None] * 3 - phase)
    return (smooth + 0.1 * rng.standard_normal((batch, height, width, 3))).astype(np.float32)


def sample(x: np.ndarray, count: int) -> np.ndarray:
    """`count` of an array's values (all, of a small one), evenly spread in its order."""
    x = np.atleast_1d(x)
    places = np.linspace(0, x.size - 1, min(count, x.size)).astype(int)
    return x[np.unravel_index(places, x.shape)]  # reshape would copy all of a transposed array


# Of three images: boxes, and classes from 0. None; one; and small, large, thin, nested, equal ones of many places.
BOXES = (
    ([], []),
    ([[20.0, 30.0, 75.5, 90.25]], [2]),
    (
        [
            *([3, 4, 8, 11], [40, 40, 72, 70], [42, 38, 70, 71], [42, 38, 70, 71], [0, 0, 128, 96]),
            *([100, 10, 104, 90], [10, 88, 120, 94], [60.5, 20.25, 90.75, 61.5], [90, 60, 126, 95]),
        ],
        [0, 1, 2, 4, 3, 0, 1, 2, 3],
    ),
)
SIZES = [(96, 128), (80, 101), (64, 128)]  # of the images in their canvas, height and width
SUPPRESSION = {  # torchvision's names
    "published": {},
    "strict": {"score_thresh": 0.2, "nms_thresh": 0.3, "detections_per_img": 20, "topk_candidates": 30},
}


def detector_outputs(name: str, batch: int, anchors: int, outputs: int) -> dict[str, np.ndarray]:
    """Of a head that is seldom sure: cls_logits [B,A,outputs] and bbox_regression [B,A,4].

    SSD is mostly sure of the background, its first output. In the second image little is likely. Some boxes are asked
    to grow without bound.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    logits = rng.standard_normal((batch, anchors, outputs), np.float32) * 2
    if name.startswith("ssd"):
        logits[..., 0] += 6
        logits[1, :, 0] += 7
    else:
        logits -= 6
        logits[1] -= 3
    deltas = rng.standard_normal((batch, anchors, 4), np.float32) * 0.5
    deltas[:, ::101] *= 20
    return {"cls_logits": logits.astype(np.float32), "bbox_regression": deltas.astype(np.float32)}


# Faster R-CNN and ROI Align: make_faster_rcnn.py. Three images of SIZES on a canvas.
CANVAS = (128, 160)
SMALL = {  # torchvision's names
    "rpn": {
        **{"pre_nms_top_n_train": 150, "pre_nms_top_n_test": 100},
        **{"post_nms_top_n_train": 120, "post_nms_top_n_test": 60},
    },
    "head_width": 64,
}
CALM = {"rpn.head.cls_logits": 0.3, "rpn.head.bbox_pred": 0.1, "roi_heads.box_predictor": 0.2}  # for boxes of all kinds


def drawn_calm(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`drawn`, but the layers of CALM by so much smaller."""
    factor = next((factor for layer, factor in CALM.items() if name.startswith(layer)), 1)
    return drawn(name, shape) * np.float32(factor)


# In pixels: inside; over each edge by less than a pixel of the finest map; thin; tiny; of no area; the whole canvas.
ROIS = (
    *([10.0, 12.0, 40.0, 30.0], [33.3, 41.7, 95.2, 120.9], [-1.0, -1.5, 20.5, 17.0], [120.0, 90.0, 160.5, 128.5]),
    *([5.0, 60.0, 155.0, 66.0], [70.0, 3.0, 74.5, 125.0], [50.0, 50.0, 50.3, 50.2], [77.0, 20.0, 77.0, 90.0]),
    *([99.5, 101.25, 99.5, 101.25], [0.0, 0.0, 160.0, 128.0]),
)
POOLING = {"torchvision": (7, 2, False), "aligned": (7, 2, True), "detectron2": (5, 0, True)}  # size, ratio, aligned


def pyramid() -> list[np.ndarray]:
    """Maps of two images of CANVAS at strides 4 to 32, of six channels."""
    rng = np.random.default_rng(4)
    return [rng.standard_normal((2, CANVAS[0] // s, CANVAS[1] // s, 6), np.float32) for s in (4, 8, 16, 32)]


def yolox_outputs(batch: int, places: int, classes: int) -> dict[str, np.ndarray]:
    """Of YOLOX's head, where boxes are of some size and objects found here and there."""
    rng = np.random.default_rng(places)
    box = rng.standard_normal((batch, places, 4), np.float32) * 0.5
    box += np.array([0.5, 0.5, 1, 1], np.float32)
    objectness = rng.standard_normal((batch, places), np.float32) * 2 - 2
    logits = rng.standard_normal((batch, places, classes), np.float32) * 2 - 1
    return {"bbox_regression": box, "objectness": objectness, "cls_logits": logits}


def drawn_yolox(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`drawn`, but weak at the end of residual blocks, and in the last layers, whose outputs are exponents."""
    factor = 0.3 if name.endswith("layer2.bn.weight") else 0.005 if "_preds." in name else 1
    return drawn(name, shape) * np.float32(factor)


# Mask R-CNN: make_mask_rcnn.py. The heads alone, on drawn maps of three images of odd sizes.
INSTANCE_CANVAS = (97, 131)
INSTANCE_SIZES = [(97, 120), (80, 101), (64, 131)]
INSTANCES = (  # boxes, and classes from 0
    ([[20.0, 30.0, 75.5, 90.25], [70, 50, 120, 97]], [2, 0]),
    ([], []),
    (
        [
            *([3, 4, 8, 11], [40, 20, 72, 50], [42, 18, 70, 51], [42, 18, 70, 51], [0, 0, 131, 64]),
            *([100, 10, 104, 60], [10, 58, 120, 63], [60.5, 20.25, 90.75, 51.5]),
        ],
        [0, 1, 2, 4, 3, 0, 1, 2],
    ),
)
INSTANCE_WIDTHS = {"maps": 16, "boxes": 32, "masks": 24}
LEARNING_RATE, MOMENTUM = 1e-3, 0.9


def masks_of(boxes: list, size: tuple[int, int]) -> np.ndarray:
    """A mask [n, h, w] per box, uint8, of pixels whose middle lies in the box: an ellipse with a wavy border."""
    y, x = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5, indexing="ij")
    found = []
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        u, v = (2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)
        wavy = u**2 + v**2 < 1.3 + 0.4 * np.sin(5 * np.arctan2(v, u) + number)
        found.append(wavy & (abs(u) < 1) & (abs(v) < 1))
    return np.array(found, np.uint8).reshape(-1, *size)


def instance_maps() -> list[np.ndarray]:
    """Five maps at strides 4 to 64 of the three images."""
    rng = np.random.default_rng(6)
    sides = [tuple(-(-side // stride) for side in INSTANCE_CANVAS) for stride in (4, 8, 16, 32, 64)]
    return [rng.standard_normal((3, *side, INSTANCE_WIDTHS["maps"]), np.float32) for side in sides]


SEMANTIC = {  # sizes of maps at strides 4 to 32: each twice the next, and not
    "doubles": ((16, 24), (8, 12), (4, 6), (2, 3)),
    "odd": ((13, 21), (7, 11), (4, 6), (2, 3)),
}


def semantic_maps(case: str) -> list[np.ndarray]:
    """Maps of two images, of eight channels."""
    rng = np.random.default_rng(len(case))
    return [rng.standard_normal((2, *size, 8), np.float32) for size in SEMANTIC[case]]
