from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.ops.matching import BELOW, match, match_ssd

GOLDENS = np.load(Path(__file__).parent.parent / "goldens" / "boxes.npz")
IOU = GOLDENS["match/iou"]
UNUSED = np.random.default_rng(1).random((3, IOU.shape[1]))


def in_slots():
    """The golden's six boxes in slots 0..5 of nine; what the unused ones hold must not matter."""
    return jnp.float32(np.concatenate([IOU, UNUSED])), jnp.arange(9) < 6


@pytest.mark.parametrize("low, high", [(0.4, 0.5), (0.3, 0.7)])
@pytest.mark.parametrize("force_best", [False, True])
def test_match_is_torchvisions_with_all_its_ties(low, high, force_best):
    iou, valid = in_slots()
    found = jax.jit(match, static_argnums=(2, 3, 4))(iou, valid, low, high, force_best)
    np.testing.assert_array_equal(found, GOLDENS[f"match/{low}-{high}-{force_best}"])


def test_match_ssd_is_torchvisions_with_all_its_ties():
    np.testing.assert_array_equal(jax.jit(match_ssd)(*in_slots(), 0.5), GOLDENS["match/ssd"])


def test_slots_between_used_ones_are_passed_over():
    iou, valid = in_slots()
    order = np.array([6, 0, 1, 7, 2, 3, 8, 4, 5])
    for matcher in (lambda *a: match(*a, 0.4, 0.5, True), lambda *a: match_ssd(*a, 0.5)):
        expected, found = np.array(matcher(iou, valid)), np.array(matcher(iou[order], valid[order]))
        np.testing.assert_array_equal(np.where(found >= 0, order[found], found), expected)


def test_without_boxes_every_anchor_is_background():
    iou, _ = in_slots()
    none = jnp.zeros(9, bool)
    assert (match(iou, none, 0.4, 0.5, True) == BELOW).all() and (match_ssd(iou, none, 0.5) == BELOW).all()


def test_a_box_that_overlaps_no_anchor_forces_none():
    iou = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.2, 0.1]])
    used = jnp.ones(2, bool)
    np.testing.assert_array_equal(match(iou, used, 0.4, 0.5, True), [BELOW, 1, BELOW])
    np.testing.assert_array_equal(match_ssd(iou, used, 0.5), [BELOW, 1, BELOW])


def test_a_forced_anchor_goes_to_the_box_of_its_own_highest_iou():
    iou = jnp.array([[0.3, 0.0], [0.35, 0.6]])
    np.testing.assert_array_equal(match(iou, jnp.ones(2, bool), 0.4, 0.5, True), [1, 1])


def test_matching_maps_over_a_batch():
    iou, valid = in_slots()
    found = jax.vmap(lambda iou, valid: match(iou, valid, 0.4, 0.5, True))(
        jnp.stack([iou, iou]), jnp.stack([valid, ~valid])
    )
    np.testing.assert_array_equal(found[0], GOLDENS["match/0.4-0.5-True"])
    np.testing.assert_array_equal(found[1], match(iou, ~valid, 0.4, 0.5, True))
