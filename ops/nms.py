"""Non-maximum suppression, exact, of static shape, for any device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morphism.ops.boxes import iou

BLOCK = 256  # boxes resolved together; benchmarks/nms.py


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    iou_threshold: float,
    max_outputs: int,
    classes: Int[Array, "n"] | None = None,
    valid: Bool[Array, "n"] | None = None,
) -> tuple[Int[Array, "{max_outputs}"], Bool[Array, "{max_outputs}"]]:
    """The first `max_outputs` boxes, by falling score, that no kept box of their class overlaps above the threshold.

    Returns their indices, and which of the slots are used (unused ones hold 0). Of equal scores the lower index comes
    first; boxes with `valid` False neither are kept nor suppress; scores are not NaN. Without `classes` all boxes are
    of one. An IoU equal to the threshold does not suppress.

    The greedy algorithm of Girshick et al. 2014, "Rich feature hierarchies", as torchvision.ops.nms has it, but in
    blocks: within one, "kept if no kept box before it suppresses it" is iterated to its fixed point, which is reached
    after as many rounds as the longest chain of boxes of which each suppresses the next; then its kept boxes suppress
    later ones, and blocks end as soon as there are `max_outputs`, or no box is left. torchvision.ops.batched_nms shifts
    the classes' boxes apart instead of comparing classes, which rounds coordinates: near the threshold it may decide
    otherwise.
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
    """The kept of `alive` boxes, where `suppresses`[i, j] only for i < j."""

    def rest(state: tuple[Array, Array]) -> tuple[Array, Array]:
        kept, _ = state
        now = alive & ~jnp.any(suppresses & kept[:, None], axis=0)
        return now, jnp.any(now != kept)

    return jax.lax.while_loop(lambda state: state[1], rest, (alive, jnp.any(alive)))[0]
