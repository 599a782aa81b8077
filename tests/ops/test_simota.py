"""SimOTA against loops over NumPy; against the authors' own in tests/models/test_yolox.py."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.models.yolox import cells
from morphism.ops.simota import simota

CORNERS, STRIDES = cells(96, 96)
CENTERS = (CORNERS + 0.5) * STRIDES[:, None]
SLOTS, CLASSES = 7, 4


def drawn(seed):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 70, (SLOTS, 2))
    boxes = np.concatenate([start, start + rng.uniform(6, 50, (SLOTS, 2))], axis=1)
    predicted = np.tile(CENTERS, 2) + rng.uniform(2, 25, (len(CENTERS), 4)) * [-1, -1, 1, 1]
    return {
        "logits": rng.standard_normal((len(CENTERS), CLASSES)) * 2,
        "objectness": rng.standard_normal(len(CENTERS)) * 2,
        "predicted": predicted,
        "centers": CENTERS,
        "strides": STRIDES,
        "boxes": boxes,
        "classes": rng.integers(0, CLASSES, SLOTS),
        "valid": np.arange(SLOTS) != 2,
    }


def overlap(a, b):
    inner = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)


def by_loops(case, radius, centers_only):
    """In float64, as the paper has it: {place: slot}."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    slots, everywhere = np.flatnonzero(case["valid"]), range(len(CENTERS))

    def in_box(slot, place):
        x, y = CENTERS[place]
        x0, y0, x1, y1 = case["boxes"][slot]
        return x0 < x < x1 and y0 < y < y1

    def near(slot, place):
        middle = (case["boxes"][slot][:2] + case["boxes"][slot][2:]) / 2
        return max(abs(CENTERS[place] - middle)) < radius * STRIDES[place]

    either = near if centers_only else lambda slot, place: near(slot, place) or in_box(slot, place)
    both = near if centers_only else lambda slot, place: near(slot, place) and in_box(slot, place)
    candidates = [place for place in everywhere if any(either(slot, place) for slot in slots)]
    cost, iou = {}, {}
    for slot in slots:
        for place in candidates:
            probability = np.sqrt(sigmoid(case["logits"][place]) * sigmoid(case["objectness"][place]))
            wanted = np.arange(CLASSES) == case["classes"][slot]
            entropy = -np.sum(np.where(wanted, np.log(probability), np.log(1 - probability)))
            iou[slot, place] = overlap(case["boxes"][slot], case["predicted"][place])
            outside = 0 if both(slot, place) else 1e5
            cost[slot, place] = entropy - 3 * np.log(iou[slot, place] + 1e-8) + outside
    takers = {}
    for slot in slots:
        count = max(int(sum(sorted((iou[slot, place] for place in candidates), reverse=True)[:10])), 1)
        for place in sorted(candidates, key=lambda place: cost[slot, place])[:count]:
            takers.setdefault(place, []).append(slot)
    return {
        place: wants[0] if len(wants) == 1 else min(slots, key=lambda slot: cost[slot, place])
        for place, wants in takers.items()
    }


@pytest.mark.parametrize(("radius", "centers_only"), [(2.5, False), (1.5, True)])
def test_assignment_is_that_of_loops(radius, centers_only):
    assign = jax.jit(partial(simota, center_radius=radius, centers_only=centers_only))
    contested = 0
    for seed in range(6):
        case = drawn(seed)
        expected = np.full(len(CENTERS), -1)
        for place, slot in by_loops(case, radius, centers_only).items():
            expected[place] = slot
        matches, iou = assign(**case)
        np.testing.assert_array_equal(matches, expected)
        for place in np.flatnonzero(expected >= 0):
            true = overlap(case["boxes"][expected[place]], case["predicted"][place])
            assert float(iou[place]) == pytest.approx(true, rel=1e-4, abs=1e-6)
        contested += len(set(expected.tolist()) - {-1}) < case["valid"].sum()
    assert contested  # some object lost all its places to others


def test_slots_that_are_not_valid_change_nothing():
    case = drawn(0)
    odd = dict(case, boxes=case["boxes"].copy(), classes=case["classes"].copy())
    odd["boxes"][2], odd["classes"][2] = [0, 0, 96, 96], -1
    run = jax.jit(simota)
    for value, other in zip(*(run(**each) for each in (case, odd)), strict=True):
        np.testing.assert_array_equal(value, other)
    matches, iou = run(**dict(case, valid=np.zeros(SLOTS, bool)))
    assert (matches == -1).all() and not iou.any()


def test_nothing_of_it_has_a_gradient():
    case = jax.tree.map(jnp.asarray, drawn(1))

    def overlaps(predicted, logits):
        return jnp.sum(simota(**dict(case, predicted=predicted, logits=logits))[1])

    gradients = jax.jit(jax.grad(overlaps, (0, 1)))(case["predicted"], case["logits"])
    assert not any(each.any() for each in gradients)
