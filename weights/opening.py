"""Trained weights as a beginning: what `config.init_from` and `--weights` name, opened and put into a model.

"weights.safetensors", "weights.pth"    files under torch's names
"torchvision:resnet50/IMAGENET1K_V2"    torchvision's public checkpoints: weights/public.py
"runs/first"                            a run of ours: its best checkpoint, the moving averages where it kept them

A run, and a file that weights.export wrote, also say which classes, model and image preparation they were trained with.
"""

import os
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.runtime.checkpoint import read_trained
from morphism.runtime.digest import digest
from morphism.runtime.manifest import read_classes, settled_config
from morphism.runtime.mesh import AXIS
from morphism.runtime.paths import AnyPath, folder
from morphism.weights import files, public
from morphism.weights.convert import (
    Shapes,
    check_finite,
    classes_in,
    fit,
    from_torch,
    head,
    rename,
    to_torch,
    torch_shapes,
    without_wrapper,
)

PREPARATION = (  # fields of a config that say how images reach the model
    *("augment.mean", "augment.std", "augment.fill", "data.image_size", "data.eval_size", "data.resize_size"),
    *("data.resize", "data.max_size", "data.antialias", "data.canvases", "data.window"),
    *("data.pixels", "data.intensity"),
)
TRAINED = ("task", "model.name", "model.options", *PREPARATION)  # fields that trained weights depend on


@dataclass(frozen=True)
class Weights:
    """`tensors` have torch's names and layouts; `sha256` is that of the file, or of a run's parameters.

    `classes` are the names of a run's classes, `prepared` says how a public checkpoint's pictures are; else None.
    `trained` holds the fields of TRAINED in a run's config; it is empty for other weights.
    """

    origin: str
    sha256: str
    tensors: dict[str, np.ndarray]
    classes: tuple[str, ...] | None = None
    prepared: public.Public | public.PublicDetector | public.PublicSegmenter | None = None
    trained: dict[str, Any] = field(default_factory=dict)


def read_weights(reference: str, say: Callable[[str], None]) -> Weights:
    """Opens what `reference` names; `say` gets a line for what takes long and for each decision in reading.

    Raises UserError if it cannot be read.
    """
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
    tensors = files.read(path, say)
    classes, trained = _exported(files.facts(path), path)
    return Weights(str(path), files.sha256(path), tensors, classes, trained=trained)


def read_run(workdir: AnyPath, which: str) -> Weights:
    """What a run is evaluated with, at its checkpoint "best", "latest" or of a step.

    Raises UserError if there is none, or if it is not finite.
    """
    config, classes = settled_config(workdir), read_classes(workdir)
    step, variables = read_trained(workdir, config.best, which)
    origin, tensors = f"{workdir}, step {step}", to_torch(variables)
    check_finite(tensors, origin)
    return Weights(origin, digest(variables), tensors, classes, trained=_trained(config))


def facts(weights: Weights) -> dict[str, Any]:
    """The facts that an exported file keeps of a run's `weights`, for `read_weights`; JSON values."""
    return {"classes": list(weights.classes or ()), **weights.trained}


def with_options(config: ConfigDict, weights: Weights, overrides: Set[str] = frozenset()) -> ConfigDict:
    """`config` with the model options that the weights were trained with.

    Fields in `overrides`, such as "model.options.bn_epsilon", are kept.
    Raises UserError if the weights belong to another architecture or task.
    """
    config = config.copy_and_resolve_references()
    for name, value in {"task": config.task, "model.name": config.model.name}.items():
        if weights.trained.get(name, value) != value:
            raise UserError(f"{weights.origin} is for config.{name}={weights.trained[name]}, not {value}")
    if "model.options" in weights.trained:
        with config.model.unlocked():
            given = {name: x for name, x in config.model.options.items() if f"model.options.{name}" in overrides}
            config.model.options = ConfigDict(weights.trained["model.options"] | given, convert_dict=False)
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
    init_allow_unexpected say. Raises UserError where it does not, where nothing does, and where it is not finite.
    """
    shapes = torch_shapes(variables)
    tensors, notes = _named(weights, config, shapes)
    taken, more = fit(
        tensors,
        shapes,
        weights.origin,
        replaceable=head(shapes_of(config)),
        allow_missing=config.init_allow_missing,
        allow_unexpected=config.init_allow_unexpected,
    )
    return taken, notes + more


def variables_from(weights: Weights, config: ConfigDict, classes: int) -> tuple[dict[str, Any], list[str]]:
    """All variables of config's model for so many classes, and lines that tell what of `weights` was left out.

    Raises UserError where anything is missing, or not finite.
    """
    like = variables_like(models.create(config.model, classes, AXIS), config)
    shapes = torch_shapes(like)
    tensors, notes = _named(weights, config, shapes)
    taken, more = fit(tensors, shapes, weights.origin, allow_unexpected=config.init_allow_unexpected)
    return from_torch(taken, like), notes + more


def classes_of(weights: Weights, config: ConfigDict) -> int | None:
    """For how many classes the head of `weights` is made; None where they have no head."""
    shapes = shapes_of(config)
    return classes_in(_named(weights, config, shapes(2))[0], shapes)


def _named(weights: Weights, config: ConfigDict, shapes: Shapes) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors under the model's names: as they are where those are all there, else by config.init_rename.

    So an experiment whose rules are for a backbone reads the whole model as well. Without rules, a wrapper's
    prefix that only some names have is removed if more names then match the model's; a line says so.
    """
    if shapes.keys() <= weights.tensors.keys():
        return rename(weights.tensors, (), weights.origin), []
    if config.init_rename:
        return rename(weights.tensors, config.init_rename, weights.origin), []
    tensors, prefix = without_wrapper(rename(weights.tensors, (), weights.origin), shapes)
    return tensors, [f"{weights.origin}: {prefix}, which some names begin with, is removed"] if prefix else []


def _trained(config: ConfigDict) -> dict[str, Any]:
    """The fields of TRAINED that `config` has."""
    groups = _tuples(config.to_dict())
    dotted = [name.split(".") for name in TRAINED[1:]]
    return {"task": groups["task"]} | {
        f"{group}.{name}": groups[group][name] for group, name in dotted if name in groups[group]
    }


def _exported(facts: dict[str, Any], path: Path) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    """The classes and the fields of TRAINED in a file's header. Raises UserError if they are malformed."""
    trained = {name: _tuples(value) for name, value in facts.items() if name != "classes"}
    unknown, names = trained.keys() - set(TRAINED), facts.get("classes") or None
    if unknown:
        raise UserError(f"{path}: its header says {sorted(unknown)[0]}, which is not known here; update this program")
    if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise UserError(f"{path}: the classes in its header are no list of texts; export it again")
    if names and len(set(names)) < len(names):
        raise UserError(f"{path}: the classes in its header are not {len(names)} different ones; export it again")
    if not isinstance(trained.get("model.options", {}), dict):
        raise UserError(f"{path}: model.options in its header are no fields; export it again")
    return names and tuple(names), trained


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a config has."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {name: _tuples(each) for name, each in value.items()} if isinstance(value, dict) else value
