from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.ops.sampling import sample_balanced


def masks(positives, negatives, between=3):
    kinds = np.array([1] * positives + [0] * negatives + [-1] * between)
    kinds = np.random.default_rng(0).permutation(kinds)
    return jnp.asarray(kinds == 1), jnp.asarray(kinds == 0)


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn_positives", "drawn_negatives"),
    [(20, 60, 4, 12), (2, 60, 2, 14), (0, 60, 0, 16), (20, 5, 4, 5), (3, 4, 3, 4), (0, 0, 0, 0), (20, 0, 4, 0)],
)
def test_quotas_are_torchvisions_and_nothing_is_drawn_twice(positives, negatives, drawn_positives, drawn_negatives):
    positive, negative = masks(positives, negatives)
    number, is_positive, used = map(
        np.asarray, sample_balanced(jax.random.key(1), positive, negative, size=16, fraction=0.25)
    )
    assert len(number) == min(16, len(positive))
    assert used.tolist() == [True] * (drawn_positives + drawn_negatives) + [False] * (
        len(number) - drawn_positives - drawn_negatives
    )
    assert is_positive.sum() == drawn_positives
    assert positive[number[is_positive]].all() and negative[number[used & ~is_positive]].all()
    assert len(set(number[used])) == used.sum()
    if used.any():
        assert set(number) == set(number[used])  # unused slots repeat used ones
    else:
        assert not number.any()


def test_every_positive_and_every_negative_is_as_likely():
    """Of 4,000 draws, 4 of 10 positives and 12 of 30 negatives: 1,600 times each, give or take five deviations."""
    positive, negative = masks(10, 30)
    keys = jax.random.split(jax.random.key(0), 4000)
    number, is_positive, used = jax.jit(
        jax.vmap(partial(sample_balanced, positive=positive, negative=negative, size=16, fraction=0.25))
    )(keys)
    assert np.all(used) and np.all(np.sum(is_positive, axis=1) == 4)
    counts = np.bincount(np.ravel(number), minlength=len(positive))
    assert not counts[~(positive | negative)].any()
    deviation = (4000 * 0.4 * 0.6) ** 0.5
    assert np.abs(counts[positive | negative] - 1600).max() < 5 * deviation
    pairs = np.zeros((len(positive),) * 2)
    for row in np.asarray(number):
        pairs[np.ix_(row, row)] += 1
    inside = pairs[np.ix_(positive, positive)][np.triu_indices(10, 1)]
    expected = 4000 * 4 * 3 / (10 * 9)  # two given positives together
    assert np.abs(inside - expected).max() < 5 * expected**0.5


def test_the_same_key_draws_the_same():
    positive, negative = masks(20, 60)
    draw = partial(sample_balanced, positive=positive, negative=negative, size=16, fraction=0.5)
    first, again, other = (np.asarray(draw(jax.random.key(seed))[0]) for seed in (3, 3, 4))
    assert first.tolist() == again.tolist() != other.tolist()
