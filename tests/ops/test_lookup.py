"""NumPy's own indexing and counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morphism.ops.lookup import histograms, look_up, look_up_cells
from morphism.ops.platform import as_accelerator, as_cpu, as_tpu


@pytest.mark.parametrize("form", [as_cpu, as_accelerator, as_tpu])
def test_values_are_numpys_to_the_bit_in_every_form(form):
    rng = np.random.default_rng(0)
    tables = rng.uniform(0, 255, (3, 256)).astype(np.float32)
    indices = rng.integers(0, 256, (35, 3))
    indices[:3] = [[0], [255], [7]]
    with form():
        found, counts = jax.jit(lambda t, i: (look_up(t, i), histograms(i, 256)))(tables, jnp.asarray(indices))
        text = str(jax.make_jaxpr(lambda t, i: look_up(t, i))(tables, indices))  # a lambda: no earlier trace
    assert ("gather" in text) == (form is not as_tpu)
    np.testing.assert_array_equal(found, np.take_along_axis(tables, indices.T, axis=1).T)
    np.testing.assert_array_equal(counts, [np.bincount(column, minlength=256) for column in indices.T])


@pytest.mark.parametrize("form", [as_cpu, as_accelerator, as_tpu])
def test_cells_are_numpys_to_the_bit_in_every_form(form):
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 256, (6, 5, 9), np.uint8)
    rows, columns = (jnp.asarray(rng.integers(0, side, (6, 7, 4))) for side in masks.shape[1:])
    with form():
        traced = jax.jit(lambda *args: look_up_cells(*args)).trace(jnp.asarray(masks), rows, columns)
    assert ("gather" in str(traced.jaxpr)) == (form is not as_tpu)
    found = traced.lower().compile()(jnp.asarray(masks), rows, columns)
    np.testing.assert_array_equal(found, masks[np.arange(6)[:, None, None], rows, columns])
