"""Each optimiser against its torch namesake's documented update, written out in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from errors import UserError
from experiments.base import get_base
from training.optimizer import make_optimizer

STEPS, DECAY = 6, 0.03
RATES = [0.1, 0.1, 0.05, 0.05, 0.01, 0.01]
RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(size=(3, 2)), RNG.normal(size=2)
GRADIENTS = [(RNG.normal(size=(3, 2)), RNG.normal(size=2)) for _ in range(STEPS)]


def torch_sgd(w, g, s, lr, decay, momentum=0.0, nesterov=False):
    g = g + decay * w
    s["b"] = momentum * s.get("b", 0) + g
    return w - lr * (g + momentum * s["b"] if nesterov else s["b"])


def torch_rmsprop(w, g, s, lr, decay, momentum):
    g = g + decay * w
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g**2
    s["b"] = momentum * s.get("b", 0) + g / (np.sqrt(s["v"]) + 1e-8)
    return w - lr * s["b"]


def torch_adagrad(w, g, s, lr, decay):
    g = g + decay * w
    s["v"] = s.get("v", 0) + g**2
    return w - lr * g / (np.sqrt(s["v"]) + 1e-8)


def torch_adam(w, g, s, lr, decay, decoupled=False):
    w, g = (w * (1 - lr * decay), g) if decoupled else (w, g + decay * w)
    s["t"] = s.get("t", 0) + 1
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    m, v = s["m"] / (1 - 0.9 ** s["t"]), s["v"] / (1 - 0.999 ** s["t"])
    return w - lr * m / (np.sqrt(v) + 1e-8)


def paper_lars(w, g, s, lr, decay, momentum):
    """You et al. 2017, algorithm 1; vectors, being biases and norms, without the trust ratio."""
    g = g + decay * w
    if w.ndim > 1:
        # The decay is already in g, so the ratio is |w| / |g + decay w|, as in optax and MLPerf's later references.
        g = g * 0.001 * np.linalg.norm(w) / np.linalg.norm(g)
    s["b"] = momentum * s.get("b", 0) + lr * g
    return w - s["b"]


REFERENCES = {
    "sgd": torch_sgd,
    "momentum": lambda *a: torch_sgd(*a, momentum=0.9),
    "nesterov": lambda *a: torch_sgd(*a, momentum=0.9, nesterov=True),
    "rmsprop": lambda *a: torch_rmsprop(*a, momentum=0.9),
    "adagrad": torch_adagrad,
    "adam": torch_adam,
    "adamw": lambda *a: torch_adam(*a, decoupled=True),
    "lars": lambda *a: paper_lars(*a, momentum=0.9),
}


def settings(name, **changes):
    config = get_base().optimizer
    config.update(name=name, weight_decay=DECAY, **changes)
    return config


def run(config):
    optimizer = make_optimizer(config, lambda step: jnp.array(RATES)[step])
    params = {"kernel": jnp.array(KERNEL, jnp.float32), "bias": jnp.array(BIAS, jnp.float32)}
    state = optimizer.init(params)
    for kernel, bias in GRADIENTS:
        gradients = {"kernel": jnp.array(kernel, jnp.float32), "bias": jnp.array(bias, jnp.float32)}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("name", REFERENCES)
def test_updates_are_the_references(name, exclude):
    found = run(settings(name, decay_norm_and_bias=not exclude))
    kernel, bias, states = KERNEL, BIAS, ({}, {})
    for rate, (kernel_gradient, bias_gradient) in zip(RATES, GRADIENTS, strict=True):
        kernel = REFERENCES[name](kernel, kernel_gradient, states[0], rate, DECAY)
        bias = REFERENCES[name](bias, bias_gradient, states[1], rate, 0.0 if exclude else DECAY)
    np.testing.assert_allclose(found["kernel"], kernel, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(found["bias"], bias, rtol=2e-5, atol=1e-6)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    config = settings("sgd", clip_norm=0.5, momentum=0.0)
    config.weight_decay = 0.0
    optimizer = make_optimizer(config, lambda step: 1.0)
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    updates, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    np.testing.assert_allclose(updates["a"], [-0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [[-0.4]], rtol=1e-6)


def test_the_state_of_every_optimiser_is_a_tree_of_arrays():
    for name in REFERENCES:
        state = make_optimizer(settings(name), lambda step: 0.1).init({"w": jnp.ones((2, 2))})
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))


def test_what_makes_no_optimiser_is_named():
    with pytest.raises(UserError, match="config.optimizer.name is 'adamm'.*did you mean adam"):
        make_optimizer(settings("adamm"), lambda step: 0.1)
