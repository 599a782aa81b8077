"""The optimisers, each with the update of its torch namesake, so that published recipes carry over unchanged."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from errors import check_choice

# In these, as in torch, weight decay is L2 regularisation: it enters the gradient before all else.
L2 = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adam")


def make_optimizer(config: ConfigDict, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """Gradient -> clipping by global norm -> L2 -> the rule of config.optimizer.name -> times -learning_rate(step)."""
    rules = {
        "sgd": lambda: optax.identity(),
        "momentum": lambda: optax.trace(config.momentum),
        "nesterov": lambda: optax.trace(config.momentum, nesterov=True),
        "rmsprop": lambda: optax.chain(
            optax.scale_by_rms(config.rms_decay, config.epsilon, eps_in_sqrt=False), _trace(config.momentum)
        ),
        "adagrad": lambda: scale_by_adagrad(config.epsilon),
        "adam": lambda: optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        "adamw": lambda: optax.chain(
            optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
            optax.add_decayed_weights(config.weight_decay, mask),
        ),
    }
    check_choice("config.optimizer.name", config.name, (*rules, "lars"))
    mask = _everything if config.decay_norm_and_bias else kernels
    parts = []
    if config.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay > 0 and config.name in L2:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask))
    if config.name == "lars":
        lars = optax.lars(
            learning_rate,
            config.weight_decay,
            weight_decay_mask=mask,
            trust_coefficient=config.trust_coefficient,
            trust_ratio_mask=kernels,  # biases and norms keep the plain rate
            momentum=config.momentum,
        )
        return optax.chain(*parts, lars)
    return optax.chain(*parts, rules[config.name](), optax.scale_by_learning_rate(learning_rate))


def kernels(params: Any) -> Any:
    """True for the weights of convolutions and dense layers, False for biases and the scales and shifts of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _everything(params: Any) -> Any:
    return jax.tree.map(lambda leaf: True, params)


def _trace(momentum: float) -> optax.GradientTransformation:
    return optax.trace(momentum) if momentum > 0 else optax.identity()


def scale_by_adagrad(epsilon: float) -> optax.GradientTransformation:
    """g / (sqrt(sum of g^2) + epsilon): torch.optim.Adagrad. optax.scale_by_rss has its epsilon inside the root."""

    def update(gradients, squares, params=None):
        squares = jax.tree.map(lambda s, g: s + jnp.square(g), squares, gradients)
        return jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + epsilon), gradients, squares), squares

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)
