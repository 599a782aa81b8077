"""What the detectors share: the targets of their losses, and the last step of detection.

A detector's outputs are its own affair. It reads them itself, without parameters, in

    model.loss(outputs, targets) -> {name: scalar}, whose sum is trained on
    model.detect(outputs, sizes) -> Detections

targets: boxes [B,N,4], x0, y0, x1, y1 in pixels of the network's input; classes int32 [B,N], 0..K-1, -1 for an unused
slot; crowd bool [B,N], boxes around many objects, which are not learnt; valid bool [B], False for rows of padding.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.ops.nms import nms

# boxes [B,D,4] within each picture, scores [B,D] in 0..1, classes int32 [B,D] in 0..K-1, and valid bool [B,D], False
# for slots that no detection fills, whose boxes and scores are 0 and whose class is -1; best first.
Detections = dict[str, Array]


def learnt(targets: dict[str, Array]) -> Bool[Array, "b n"]:
    """Which slots hold an object to learn: no crowd, no box without area, nothing of a row of padding."""
    has_area = jnp.all(targets["boxes"][..., 2:] > targets["boxes"][..., :2], axis=-1)
    return (targets["classes"] >= 0) & ~targets["crowd"] & has_area & targets["valid"][:, None]


def suppressed(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    classes: Int[Array, "n"],
    score_threshold: float,
    nms_threshold: float,
    detections: int,
) -> Detections:
    """One picture's Detections, of those candidates that score above the threshold."""
    kept, valid = nms(boxes, scores, nms_threshold, detections, classes, scores > score_threshold)
    return {
        "boxes": jnp.where(valid[:, None], boxes[kept], 0),
        "scores": jnp.where(valid, scores[kept], 0),
        "classes": jnp.where(valid, classes[kept], -1).astype(jnp.int32),
        "valid": valid,
    }
