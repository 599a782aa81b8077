"""Trained weights as a beginning: what `config.init_from` and `--weights` name, opened and put into a model.

"weights.safetensors", "weights.pth"    files under torch's names
"torchvision:resnet50/IMAGENET1K_V2"    torchvision's public checkpoints: weights/public.py
"runs/first"                            a run of ours: its best checkpoint, the moving averages where it kept them
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding
from ml_collections import ConfigDict

import models
from errors import UserError
from training.checkpoint import Checkpoints, choose
from training.digest import digest
from training.manifest import read_classes, read_config, read_intensity
from training.mesh import AXIS
from training.paths import AnyPath, folder
from training.state import TrainState
from weights import files, public
from weights.convert import Shapes, classes_in, fit, from_torch, head, rename, to_torch, torch_shapes


@dataclass(frozen=True)
class Weights:
    """`tensors` have torch's names and layouts; `sha256` is that of the file, or of a run's parameters.

    `classes` are the names of a run's classes, `prepared` says how a public checkpoint's pictures are; else None.
    `intensity` holds how a run scales images of more than 8 bits: fields of config.data.
    """

    origin: str
    sha256: str
    tensors: dict[str, np.ndarray]
    classes: tuple[str, ...] | None = None
    prepared: public.Public | public.PublicDetector | public.PublicSegmenter | None = None
    intensity: dict[str, Any] = field(default_factory=dict)


def read_weights(reference: str, say: Callable[[str], None]) -> Weights:
    """Opens what `reference` names; `say` is told of what takes long. Raises UserError where it cannot be read."""
    if reference.startswith(public.PREFIX):
        path = public.fetch(reference, say)
        prepared = public.find(reference)
        tensors = files.read(path)
        if prepared.untrained:
            tensors = {name: x for name, x in tensors.items() if not name.startswith(prepared.untrained)}
        if isinstance(prepared, public.PublicDetector):
            tensors = {public.modern(name): x for name, x in tensors.items()}
        return Weights(reference, files.sha256(path), tensors, prepared=prepared)
    if "://" in reference:
        return read_run(folder(reference), "best")
    path = Path(os.path.expanduser(reference))  # without a home "~" stays as it is
    if path.is_dir():
        return read_run(path, "best")
    tensors = files.read(path)
    return Weights(str(path), files.sha256(path), tensors)


def read_run(workdir: AnyPath, which: str) -> Weights:
    """What a run is evaluated with, at its checkpoint "best", "latest" or of a step. Raises UserError without one."""
    classes = read_classes(workdir)
    with Checkpoints(workdir, best=read_config(workdir).best) as checkpoints:
        step = choose(checkpoints, which)
        state = checkpoints.read(step)
    variables = state["ema"] or {"params": state["params"], "batch_stats": state["batch_stats"]}
    return Weights(
        f"{workdir}, step {step}", digest(variables), to_torch(variables), classes, intensity=read_intensity(workdir)
    )


def with_options(config: ConfigDict, weights: Weights) -> ConfigDict:
    """`config` with those options of the model that a public checkpoint was trained with, to use it as it is.

    Raises UserError where the checkpoint is another architecture's.
    """
    config = config.copy_and_resolve_references()
    if weights.prepared:
        architecture = weights.origin.removeprefix(public.PREFIX).partition("/")[0]
        if config.model.name != architecture:
            raise UserError(f"{weights.origin} is for config.model.name={architecture}, not {config.model.name}")
        if isinstance(weights.prepared, public.PublicDetector):
            with config.model.options.unlocked():
                config.model.options.update(dict(weights.prepared.options))
    return config


def shapes_of(config: ConfigDict) -> Callable[[int], Shapes]:
    """Number of classes -> torch's names and shapes of the arrays of the model that `config` describes."""

    @cache
    def shapes(classes: int) -> Shapes:
        return torch_shapes(variables_like(models.create(config.model, classes, AXIS), config))

    return shapes


def variables_like(model: nn.Module, config: ConfigDict) -> dict[str, Any]:
    """The shapes and types of a model's variables."""
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), config.data.image_size))


def fitting(weights: Weights, variables: dict[str, Any], config: ConfigDict) -> tuple[dict[str, np.ndarray], list[str]]:
    """What of `weights` `variables`, or their shapes, can begin with, and lines that tell what was left out.

    A head made for other classes begins anew; all else must fit as config.init_rename, init_allow_missing and
    init_allow_unexpected say. Raises UserError where it does not.
    """
    shapes = torch_shapes(variables)
    return fit(
        _named(weights, config, shapes),
        shapes,
        weights.origin,
        replaceable=head(shapes_of(config)),
        allow_missing=config.init_allow_missing,
        allow_unexpected=config.init_allow_unexpected,
    )


def start_from(
    weights: Weights, state: TrainState, optimizer: optax.GradientTransformation, config: ConfigDict, sharding: Sharding
) -> tuple[TrainState, list[str]]:
    """The fresh `state` with the values of `weights` that are `fitting`, and lines that tell what was left out."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    tensors, notes = fitting(weights, variables, config)

    def begin(state: TrainState, variables: dict[str, Any]) -> TrainState:
        return state.replace(
            **variables,
            opt_state=optimizer.init(variables["params"]),
            ema=state.ema and jax.tree.map(jnp.copy, variables),
        )

    state = jax.jit(begin, out_shardings=sharding)(state, from_torch(tensors, variables))
    return state, [f"begins with {len(tensors)} arrays of {weights.origin}", *notes]


def variables_from(weights: Weights, config: ConfigDict, classes: int) -> tuple[dict[str, Any], list[str]]:
    """All variables of config's model for so many classes, and lines that tell what of `weights` was left out.

    Raises UserError where anything is missing.
    """
    like = variables_like(models.create(config.model, classes, AXIS), config)
    shapes = torch_shapes(like)
    tensors, notes = fit(
        _named(weights, config, shapes),
        shapes,
        weights.origin,
        allow_unexpected=config.init_allow_unexpected,
    )
    return from_torch(tensors, like), notes


def classes_of(weights: Weights, config: ConfigDict) -> int | None:
    """For how many classes the head of `weights` is made; None where they have no head."""
    shapes = shapes_of(config)
    return classes_in(_named(weights, config, shapes(2)), shapes)


def _named(weights: Weights, config: ConfigDict, shapes: Shapes) -> dict[str, np.ndarray]:
    """The tensors under the model's names: as they are where those are all there, else by config.init_rename.

    So an experiment whose rules are for a backbone reads the whole model as well.
    """
    rules = () if shapes.keys() <= weights.tensors.keys() else config.init_rename
    return rename(weights.tensors, rules, weights.origin)
