"""Operations as ONNX, run by ONNX Runtime, against JAX's own; the batch may have any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

runtime = pytest.importorskip("onnxruntime")

from morphism.evaluation.onnx.convert import BATCH, convert  # noqa: E402

RNG = np.random.default_rng(0)
FLOATS = RNG.standard_normal((3, 7, 5)).astype(np.float32)
PLACES = np.int32([[0, 6, 3], [5, -1, 9], [2, 2, 8]])  # some outside of 7


def collatz(n):
    """Steps until 1: examples end after different numbers of steps."""
    step = lambda state: (jnp.where(state[0] % 2 == 0, state[0] // 2, 3 * state[0] + 1), state[1] + 1)  # noqa: E731
    return jax.lax.while_loop(lambda state: state[0] > 1, step, (n, 0))[1]


FUNCTIONS = {
    "gather, positions outside filled": lambda x, at: jax.vmap(lambda x, at: x.at[at].get(mode="fill"))(x, at),
    "gather, positions clipped": lambda x, at: jax.vmap(lambda x, at: x.at[at, 2].get(mode="clip"))(x, at),
    "gather along an axis": lambda x, at: jnp.take_along_axis(x, jnp.clip(at, 0, 4)[:, None, :], axis=2),
    "gather of slices": lambda x, at: jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], 1), (3, 2)))(x, at),
    "scatter, positions outside dropped": lambda x, at: jax.vmap(
        lambda x, at: x.at[jnp.where(at < 0, 99, at)].set(-1.0, mode="drop")
    )(x, at),
    "scatter, sums": lambda x, at: jax.vmap(lambda x, at: x.at[at].add(x[:3], mode="drop"))(x, at),
    "scatter of slices": lambda x, at: jax.vmap(
        lambda x, at: jax.lax.dynamic_update_slice(x, jnp.ones((2, 2)), (at[0], at[1]))
    )(x, at),
    "dynamic slices": lambda x, at: jax.lax.dynamic_update_slice(
        x, jax.lax.dynamic_slice(x, (0, at[0, 2], 0), (x.shape[0], 2, 5)), (0, at[2, 1], 0)
    ),
    "stable sort of booleans": lambda x, at: jnp.argsort(x > 0, axis=1),
    "top k": lambda x, at: jax.lax.top_k(jnp.abs(jnp.round(x)), 3),
    "loop that ends at another step for each example": lambda x, at: jax.vmap(jax.vmap(collatz))(at + 2),
    "branches": lambda x, at: jax.lax.switch(at[0, 2] - 1, [lambda x: x, lambda x: -x, lambda x: x * x], x),
    "scan": lambda x, at: jax.lax.scan(lambda c, row: (c + row, c * row), jnp.zeros((x.shape[0], 5)), x.swapaxes(0, 1)),
    "map over examples": lambda x, at: jax.lax.map(lambda x: jnp.cumsum(x, axis=0), x),
    "fori": lambda x, at: jax.lax.fori_loop(0, at[2, 0], lambda i, x: x * 2 + i, x),
    "products": lambda x, at: jnp.einsum("bij,bkj->kib", x, x) + jnp.einsum("bij,jk->bik", x, jnp.eye(5)).sum(),
    "pads, cuts and turns": lambda x, at: jnp.pad(x[:, 1:6:2, ::-1], ((0, 0), (2, 1), (0, 3)), constant_values=9)[
        ..., ::2
    ],
    "negative padding": lambda x, at: jax.lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 0), (1, -2, 0))),
    "integers": lambda x, at: (
        at // 2,
        at % 3,
        -at,
        jnp.sign(at),
        at.astype(jnp.uint8) & 3,
        at > 2,
        (at > 2) ^ (at < 5),
    ),
    "reductions": lambda x, at: (x.sum(1), x.max((1, 2)), jnp.any(x > 2, 1), jnp.all(x < 2, 2), x.argmax(1), x.prod(2)),
    "curves": lambda x, at: (jax.nn.softmax(x), jnp.log1p(x**2), jnp.expm1(x), jax.nn.gelu(x), jnp.round(x), x**3),
    "not finite": lambda x, at: jnp.isfinite(x / jnp.where(at[:, :1, None] > 1, 0, 1)),
    "windows": lambda x, at: jax.lax.reduce_window(
        x[..., None], -jnp.inf, jax.lax.max, (1, 3, 2, 1), (1, 2, 1, 1), ((0, 0), (1, 1), (0, 1), (0, 0))
    ),
    "stacks": lambda x, at: (jnp.stack([x, -x], 2), jnp.tile(x, (1, 2, 1)), *jnp.split(x, [2, 3], axis=1)),
    "length of the batch": lambda x, at: x.reshape(-1, 5) * jnp.arange(7 * x.shape[0])[:, None],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operation_does_the_same_in_onnx(name):
    def function(weights, x, at):
        found = FUNCTIONS[name](x, at)
        return {f"y{number}": each for number, each in enumerate(jax.tree.leaves(found))}

    batch = jax.export.symbolic_shape(BATCH)[0]
    arrays = {"x": FLOATS, "at": PLACES}
    inputs = {each: jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype) for each, array in arrays.items()}
    session = runtime.InferenceSession(convert(function, {}, inputs, "test").SerializeToString())
    found = dict(zip([each.name for each in session.get_outputs()], session.run(None, arrays), strict=True))
    expected = jax.jit(function)({}, FLOATS, PLACES)
    assert found.keys() == expected.keys()
    for each, value in expected.items():
        assert found[each].dtype == value.dtype
        np.testing.assert_allclose(found[each], value, rtol=1e-5, atol=1e-6)
