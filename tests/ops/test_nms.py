from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.sharding import PartitionSpec as P

import morphism.ops.nms
from morphism.ops.nms import nms
from morphism.runtime.mesh import AXIS

N = 12


def greedy(boxes, scores, threshold, classes, valid):
    """The definition, in float64: take the best box left, drop what it overlaps."""
    boxes, left, kept = boxes.astype(np.float64), [i for i in range(len(boxes)) if valid[i]], []
    while left:
        best = min(left, key=lambda i: (-scores[i], i))
        kept.append(best)
        left = [
            i
            for i in left
            if i != best and not suppresses(boxes[best], boxes[i], threshold, classes[best] == classes[i])
        ]
    return kept


def suppresses(a, b, threshold, same_class):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = max(width, 0) * max(height, 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap
    return same_class and union > 0 and overlap / union > threshold


@settings(max_examples=60, deadline=None)
@given(
    corners=arrays(np.int64, (N, 2, 2), elements=st.integers(0, 6)),
    scores=arrays(np.float32, N, elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])),
    classes=arrays(np.int32, N, elements=st.integers(0, 1)),
    valid=arrays(bool, N),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    scale=st.sampled_from([1.0, 2.0**20]),
)
@pytest.mark.parametrize("block, outputs", [(3, N), (3, 4), (1, 3), (5, N), (256, N)])
def test_nms_equals_greedy_in_float64(block, outputs, corners, scores, classes, valid, threshold, scale):
    """Corners are small whole numbers, so that float32 decides as float64 does, and ties of every kind are frequent."""
    boxes = np.sort(corners, axis=1).reshape(-1, 4) * scale
    expected = greedy(boxes, scores, threshold, classes, valid)[:outputs]
    indices, used = blocked(block, outputs)(jnp.float32(boxes), scores, threshold, classes, valid)
    assert indices[used].tolist() == expected
    assert used.tolist() == [True] * len(expected) + [False] * (outputs - len(expected))


_jitted = {}


def blocked(block, outputs):
    """nms with blocks of `block` boxes, compiled once."""
    if (block, outputs) not in _jitted:

        def run(*args):
            before, morphism.ops.nms.BLOCK = morphism.ops.nms.BLOCK, block
            found = nms(*args[:3], outputs, *args[3:])
            morphism.ops.nms.BLOCK = before
            return found

        _jitted[block, outputs] = jax.jit(run)
    return lambda *args: jax.tree.map(np.array, _jitted[block, outputs](*args))


def crowd(count, seed):
    """Boxes in clusters, as a detector finds them."""
    rng = np.random.default_rng(seed)
    center = np.repeat(rng.uniform(0, 300, (count // 10, 2)), 10, axis=0) + rng.normal(size=(count, 2)) * 6
    side = rng.uniform(20, 60, (count, 2))
    boxes = np.concatenate([center - side / 2, center + side / 2], axis=-1).astype(np.float32)
    return boxes, rng.random(count).astype(np.float32), np.repeat(rng.integers(3, size=count // 10), 10)


def test_many_boxes_of_a_batch_are_each_images_own():
    images = [crowd(400, seed) for seed in range(3)]
    batch = [jnp.array(np.stack(each)) for each in zip(*images, strict=True)]
    indices, used = jax.jit(jax.vmap(lambda b, s, c: nms(b, s, 0.5, 400, c)))(*batch)
    for row, (boxes, scores, classes) in enumerate(images):
        expected = greedy(boxes, scores, 0.5, classes, np.ones(400, bool))
        assert indices[row][used[row]].tolist() == expected


def test_fewer_outputs_are_the_first_of_all():
    boxes, scores, classes = crowd(400, 0)
    run = jax.jit(partial(nms, jnp.array(boxes), jnp.array(scores), 0.5, classes=jnp.array(classes)), static_argnums=0)
    (every, _), (few, used) = run(400), run(30)
    assert used.all()
    np.testing.assert_array_equal(few, every[:30])


def test_more_outputs_than_boxes_are_unused():
    indices, used = nms(jnp.array([[0, 0, 4, 4], [0, 0, 4, 4.0]]), jnp.array([0.5, 0.7]), 0.5, 5)
    assert indices.tolist() == [1, 0, 0, 0, 0] and used.tolist() == [True] + [False] * 4


def test_a_chain_of_boxes_keeps_every_second():
    """Each suppresses the next: as many rounds as boxes."""
    x = np.arange(40.0)
    boxes = jnp.array(np.stack([x * 4, 0 * x, x * 4 + 10, 0 * x + 10], axis=-1))
    indices, used = jax.jit(nms, static_argnums=3)(boxes, jnp.array(-x), 0.4, 40)
    assert indices[used].tolist() == list(range(0, 40, 2))


def test_an_iou_equal_to_the_threshold_does_not_suppress():
    boxes = jnp.array([[0, 0, 2, 1], [0, 0, 1, 1.0]])
    assert nms(boxes, jnp.array([0.9, 0.8]), 0.5, 2)[1].all()
    assert not nms(boxes, jnp.array([0.9, 0.8]), 0.49, 2)[1].all()


def test_classes_of_high_number_do_not_round_the_boxes():
    """Shifted by 100,000 times the image's size, as batched_nms would, all these boxes would be without area."""
    boxes = jnp.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [900, 900, 901, 901.0]])
    indices, used = nms(boxes, jnp.array([0.9, 0.8, 0.7]), 0.5, 3, classes=jnp.full(3, 100_000))
    assert indices[used].tolist() == [0, 2]


def test_nms_on_every_device_is_nms_of_its_part(mesh_of):
    parts = [crowd(600, seed) for seed in (1, 2)]
    boxes, scores, classes = (np.concatenate(part) for part in zip(*parts, strict=True))

    def run(boxes, scores, classes):
        return nms(boxes, scores, 0.5, 100, classes, scores > 0.9)

    found = jax.jit(jax.shard_map(run, mesh=mesh_of(2), in_specs=P(AXIS), out_specs=P(AXIS)))(boxes, scores, classes)
    alone = [jax.jit(run)(*part) for part in parts]
    for together, apart in zip(found, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(together, np.concatenate(apart))
