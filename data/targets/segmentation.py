"""The class of every pixel.

segmentation uint8 [B,H,W], 0..K-1 or IGNORE. In training H and W are those of the canvas, and config.data.border_weight
adds weight float32 [B,H,W]. In evaluation H and W are those of the largest image on the batch's canvas; each mask lies
at the top left, as it is stored.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from morphism.data import orientation
from morphism.data.records import Record, Source
from morphism.data.render import deformed, render_classes
from morphism.data.targets import Placement
from morphism.data.windows import Size, Window
from morphism.errors import UserError
from morphism.labels import IGNORE

Mask = UInt8[np.ndarray, "h w"]

KEY = "segmentation"
FIELDS = ("data.border_weight", "data.border_sigma")
IS_PLACED = OF_IMAGE_SIZE = True
IN_EVALUATION = True
OF_OBJECTS = False
COUNTED, ODD = "images with", "odd masks"
WEIGHT_STEPS = 16  # per unit of weight: weights are resampled as uint8


def empty(rows: int, shape: tuple[int, ...], data: ConfigDict) -> dict[str, np.ndarray]:
    found = {"segmentation": np.full((rows, *shape[-2:]), IGNORE, np.uint8)}
    if len(shape) == 2 and data.border_weight > 0:
        found["weight"] = np.ones((rows, *shape), np.float32)
    return found


def read(record: Record, size: Size, source: Source, index: int) -> Mask:
    if "segmentation" not in record:
        return np.full(size, IGNORE, np.uint8)
    check_mask(record["name"], size, record["segmentation"], len(source.targets["segmentation"]))
    return record["segmentation"]


def mapped(truth: Mask, table: Int[np.ndarray, "own"]) -> Mask:
    pixels = np.full(IGNORE + 1, IGNORE, np.uint8)
    pixels[: len(table)] = table
    return pixels[truth]


def fingerprint(source: Source) -> bytes | None:
    """Sizes, and of masks in files the sizes of the files and the legend."""
    if hasattr(source, "version") or not hasattr(source, "sizes"):
        return None
    columns = [source.sizes]
    if hasattr(source, "mask_stamps"):
        columns.append(source.mask_stamps)
    if hasattr(source, "legend"):
        colours = np.array([(*colour, index) for colour, index in source.legend.colours.items()], np.int64)
        columns += [source.legend.table, colours]
    return b"".join(np.ascontiguousarray(column).tobytes() for column in columns)


def kept(truth: Mask, window: Window, objects: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """All: it tells nothing of single objects."""
    return objects


def train(truth: Mask, placement: Placement, data: ConfigDict) -> dict[str, Any]:
    found = {"segmentation": render_classes(truth, placement.window)}
    if data.border_weight > 0:
        weights = border_weights(truth.tobytes(), truth.shape, data.border_weight, data.border_sigma)
        found["weight"] = _render_weights(weights, placement.window)
    return found


def evaluate(truth: Mask, shape: tuple[int, ...], data: ConfigDict) -> dict[str, Any]:
    padded = np.full(shape[2:], IGNORE, np.uint8)
    padded[: truth.shape[0], : truth.shape[1]] = truth
    return {"segmentation": padded}


def check(source: Source, data: ConfigDict, where: str, training: bool) -> None:
    """Nothing to check: only reading the masks shows what they hold."""


def classes(truth: Mask) -> list[int]:
    return [label for label in np.unique(truth).tolist() if label != IGNORE]


def text(truth: Mask, names: Sequence[str]) -> str:
    return ""


def check_mask(name: str, decoded: tuple[int, ...], mask: Mask, classes: int) -> None:
    """Raises UserError for a mask of another size than its image `name`, and for a class that does not exist."""
    if mask.shape != tuple(decoded[:2]):
        raise UserError(
            f"{name} is {decoded[1]} x {decoded[0]} but its mask is {mask.shape[1]} x {mask.shape[0]}: masks must have "
            f"their image's size{orientation.hint(decoded, mask.shape)}"
        )
    wrong = (mask >= classes) & (mask != IGNORE)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise UserError(
            f"{name}: its mask has class {mask[row, column]} at row {row}, column {column}, outside the {classes} "
            f"classes, 0 to {classes - 1}; mend it"
        )


def _render_weights(weights: Float[np.ndarray, "h w"], window: Window) -> Float[np.ndarray, "H W"]:
    """The pixel weights on the canvas, resampled to the nearest as the classes are; 1 where there is no image."""
    coarse = np.clip(weights * WEIGHT_STEPS, 0, 255).astype(np.uint8)
    coarse = render_classes(coarse, replace(window, origins=None), fill=WEIGHT_STEPS)
    return deformed(np.maximum(coarse.astype(np.float32) / WEIGHT_STEPS, 1), window, nearest=False)


@lru_cache(maxsize=64)
def border_weights(
    mask: bytes, size: Size, weight: float, sigma: float, reach: float = 5.0
) -> Float[np.ndarray, "h w"]:
    """U-Net's pixel weights: 1 + weight exp(-(d1 + d2)^2 / (2 sigma^2)) on class 0, 1 on all other classes.

    d1 and d2 are the distances to the two nearest objects, in pixels. Objects are the connected parts of all other
    classes together. Distances are computed up to `reach` sigmas: beyond, the exponential vanishes.

    Source: Ronneberger et al. 2015, equation 2, with weight 10 and sigma 5.
    """
    classes = np.frombuffer(mask, np.uint8).reshape(size)
    objects, _ = scipy.ndimage.label((classes != 0) & (classes != IGNORE))
    first = np.full(size, np.inf)
    second = first.copy()
    margin = int(np.ceil(reach * sigma))
    for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(objects), start=1):
        part = tuple(slice(max(0, span.start - margin), span.stop + margin) for span in (rows, columns))
        distance = scipy.ndimage.distance_transform_edt(objects[part] != number)
        farther = np.maximum(first[part], distance)
        second[part] = np.minimum(second[part], farther)
        first[part] = np.minimum(first[part], distance)
    near = weight * np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return np.where(classes == 0, 1 + near, 1).astype(np.float32)
