"""Non-maximum suppression: exact, of static shape, on any device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.ops.boxes import iou

BLOCK = 256  # boxes that are resolved together; benchmarks/nms.py


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    iou_threshold: float | Float[Array, ""],
    max_outputs: int,
    classes: Int[Array, "n"] | None = None,
    valid: Bool[Array, "n"] | None = None,
) -> tuple[Int[Array, "{max_outputs}"], Bool[Array, "{max_outputs}"]]:
    """Keeps the best boxes, by descending score, that no kept box of the same class overlaps too much.

    Args:
      boxes: x0, y0, x1, y1 in any unit.
      scores: of the boxes, none of them NaN; of equal scores the lower index comes first.
      iou_threshold: a box is suppressed if its IoU with a kept one is greater; an equal IoU does not suppress.
      max_outputs: how many boxes are kept at most.
      classes: of the boxes; boxes of different classes do not suppress each other. None: all are of one class.
      valid: boxes that take part; the others are neither kept nor suppress. None: all.

    Returns:
      Indices of the kept boxes, and which of these slots are used; unused ones hold 0.

    The greedy algorithm runs in blocks. Within a block, "kept if no kept box before it suppresses it" is iterated to
    its fixed point, in as many rounds as the longest chain of boxes that suppress one another. The kept boxes then
    suppress those of later blocks, until there are `max_outputs` or no box is left.

    Source: Girshick et al. 2014, "Rich feature hierarchies"; torchvision.ops.nms. torchvision.ops.batched_nms shifts
    the boxes of each class apart instead of comparing classes, which rounds coordinates: near the threshold it may
    decide differently.
    """
    classes = jnp.zeros(len(boxes), jnp.int32) if classes is None else classes
    valid = jnp.ones(len(boxes), bool) if valid is None else valid
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf))
    block = min(BLOCK, len(boxes))
    order = jnp.pad(order, (0, -len(boxes) % block))
    position = jnp.arange(len(order))
    alive = valid[order] & (position < len(boxes))
    boxes, classes = boxes[order], classes[order]

    def suppress(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, alive = state
        inside = jax.lax.dynamic_slice_in_dim(alive, start, block)
        their_classes = jax.lax.dynamic_slice_in_dim(classes, start, block)
        overlap = iou(jax.lax.dynamic_slice_in_dim(boxes, start, block), boxes) > iou_threshold
        overlap &= their_classes[:, None] == classes
        kept = _resolve(inside, jnp.triu(jax.lax.dynamic_slice_in_dim(overlap, start, block, axis=1), 1))
        later = position >= start + block
        alive &= ~(later & jnp.any(overlap & kept[:, None], axis=0))
        return start + block, jax.lax.dynamic_update_slice_in_dim(alive, kept, start, axis=0)

    def unfinished(state: tuple[Array, Array]) -> Array:
        start, alive = state
        before = position < start
        return jnp.any(alive & ~before) & (jnp.sum(alive & before) < max_outputs)

    start, alive = jax.lax.while_loop(unfinished, suppress, (0, alive))
    kept = alive & (position < start)
    slot = jnp.where(kept, jnp.cumsum(kept) - 1, max_outputs)
    indices = jnp.zeros(max_outputs, order.dtype).at[slot].set(order, mode="drop")
    return indices, jnp.arange(max_outputs) < jnp.sum(kept)


def _resolve(alive: Bool[Array, "n"], suppresses: Bool[Array, "n n"]) -> Bool[Array, "n"]:
    """Which of the `alive` boxes are kept, where `suppresses`[i, j] holds for i < j only."""

    def rest(state: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = state
        now = alive & ~jnp.any(suppresses & kept[:, None], axis=0)
        return now, jnp.any(now != kept)

    return jax.lax.while_loop(lambda state: state[1], rest, (alive, jnp.any(alive)))[0]
