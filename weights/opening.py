"""Opens the weights that `config.init_from` or `--weights` names, and fits them to a model.

"weights.safetensors", "weights.pth"    files with torch's names
"torchvision:resnet50/IMAGENET1K_V2"    torchvision's public checkpoints: weights/public.py
"runs/first"                            the best checkpoint of a run, with its moving averages if it kept them

A run, and a file exported from one, also state the classes, model and image preparation that they were trained with.
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
from flax.core import FrozenDict
from ml_collections import ConfigDict

from morphism import models
from morphism.errors import UserError
from morphism.runtime.checkpoint import read_trained
from morphism.runtime.digest import digest
from morphism.runtime.manifest import read_classes, settled_config, with_tuples
from morphism.runtime.mesh import AXIS
from morphism.runtime.paths import AnyPath, folder
from morphism.tasks.task import Counts, Names, by_part
from morphism.weights import convert, files, public
from morphism.weights.public import PREFIX, Public, PublicDetector, PublicSegmenter

PREPARATION = (  # fields of a config that say how images reach the model
    *("augment.mean", "augment.std", "augment.fill", "data.image_size", "data.eval_size", "data.resize_size"),
    *("data.resize", "data.max_size", "data.antialias", "data.canvases", "data.window"),
    *("data.pixels", "data.intensity"),
)
TRAINED = ("task", "model.name", "model.options", "model.heads", *PREPARATION)  # fields that trained weights depend on


@dataclass(frozen=True)
class Weights:
    """Opened weights, and what is known of their training.

    origin: names them in messages.
    sha256: of the file, or of a run's parameters.
    tensors: torch's name -> array in torch's layout.
    classes: the names of a run's classes; None for other weights.
    public: the facts of a public checkpoint; None for other weights.
    trained: the fields of TRAINED in a run's config; empty for other weights.
    """

    origin: str
    sha256: str
    tensors: dict[str, np.ndarray]
    classes: Names | None = None
    public: Public | PublicDetector | PublicSegmenter | None = None
    trained: dict[str, Any] = field(default_factory=dict)


def read_weights(reference: str, say: Callable[[str], None]) -> Weights:
    """Opens what `reference` names; `say` gets a line for each download and each decision in reading.

    Raises UserError if it cannot be read.
    """
    if reference.startswith(PREFIX):
        path, found = public.fetch(reference, say), public.find(reference)
        tensors = files.read(path)
        if found.untrained:
            tensors = {name: x for name, x in tensors.items() if not name.startswith(found.untrained)}
        if isinstance(found, PublicDetector):
            tensors = {public.current_name(name): x for name, x in tensors.items()}
        return Weights(reference, files.sha256(path), tensors, public=found)
    if "://" in reference:
        return read_run(folder(reference), "best")
    path = Path(os.path.expanduser(reference))  # without a home "~" stays as it is
    if path.is_dir():
        return read_run(path, "best")
    tensors = files.read(path, say)
    classes, trained = _exported(files.facts(path), path)
    return Weights(str(path), files.sha256(path), tensors, classes, trained=trained)


def read_run(workdir: AnyPath, which: str) -> Weights:
    """The weights with which a run is evaluated; `which` is "best", "latest" or a step.

    Raises UserError if there is no such checkpoint, and if a value is not finite.
    """
    config, classes = settled_config(workdir), read_classes(workdir)
    step, variables = read_trained(workdir, config, which)
    origin, tensors = f"{workdir}, step {step}", convert.to_torch(variables)
    convert.check_finite(tensors, origin)
    return Weights(origin, digest(variables), tensors, classes, trained=trained_fields(config))


def facts(weights: Weights) -> dict[str, Any]:
    """What the header of an exported file states, for `read_weights`; JSON values."""
    return {"classes": weights.classes or [], **weights.trained}


def with_options(config: ConfigDict, weights: Weights, overrides: Set[str] = frozenset()) -> ConfigDict:
    """`config` with the model options of the weights, except for the fields of `overrides`.

    An override is a dotted name, such as "model.options.bn_epsilon".
    Raises UserError if the weights are of another architecture or task.
    """
    config = config.copy_and_resolve_references()
    for name, value in {"task": config.task, "model.name": config.model.name}.items():
        if weights.trained.get(name, value) != value:
            raise UserError(f"{weights.origin} is for config.{name}={weights.trained[name]}, not {value}")
    if "model.options" in weights.trained:
        with config.model.unlocked():
            given = {name: x for name, x in config.model.options.items() if f"model.options.{name}" in overrides}
            config.model.options = ConfigDict(weights.trained["model.options"] | given, convert_dict=False)
            if "model.heads" in weights.trained:
                config.model.heads = _with_overrides(weights.trained["model.heads"], config.model.heads, overrides)
    if weights.public:
        architecture = weights.origin.removeprefix(PREFIX).partition("/")[0]
        if config.model.name != architecture:
            raise UserError(f"{weights.origin} is for config.model.name={architecture}, not {config.model.name}")
        if isinstance(weights.public, PublicDetector):
            with config.model.options.unlocked():
                config.model.options.update(dict(weights.public.options))
    return config


def _with_overrides(trained: dict[str, Any], heads: ConfigDict, overrides: Set[str]) -> ConfigDict:
    """The `trained` heads of a network of parts, with the options of `heads` that `overrides` name."""
    found = ConfigDict(trained)
    for part, head in heads.items():
        given = {x: y for x, y in head.get("options", {}).items() if f"model.heads.{part}.options.{x}" in overrides}
        if given and part in found:
            found[part].options = ConfigDict({**found[part].get("options", {}), **given})
    return found


def shapes_of(config: ConfigDict, part: str = "") -> Callable[[int], convert.Shapes]:
    """Number of classes -> torch's names and shapes of the arrays of the model that `config` describes.

    With a `part` it is the number of that part's classes; the others have two.
    """
    others = dict.fromkeys(config.get("parts", {}), 2)

    @cache
    def shapes(classes: int) -> convert.Shapes:
        each = FrozenDict(others | {part: classes}) if part else classes
        return convert.torch_shapes(variables_like(models.create(config.model, each, AXIS), config))

    return shapes


def variables_like(model: nn.Module, config: ConfigDict) -> dict[str, Any]:
    """The shapes and types of a model's variables."""
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), config.data.image_size))


def fitting(
    weights: Weights, variables: dict[str, Any], config: ConfigDict, *, complete: bool = False
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of `weights` for a model, and a line for each group that is left out.

    A head for other classes is left out; all else must fit as config.init_rename, init_allow_missing and
    init_allow_unexpected say. If `complete`, the model must get all of its arrays.

    Args:
      variables: the model's, or their shapes.

    Raises UserError if they do not fit, if none is left, and if a value is not finite.
    """
    shapes = convert.torch_shapes(variables)
    tensors, notes = _named(weights, config, shapes)
    taken, more = convert.fit(
        tensors,
        shapes,
        weights.origin,
        replaceable=frozenset() if complete else convert.head(shapes_of(config)),
        allow_missing=() if complete else config.init_allow_missing,
        allow_unexpected=config.init_allow_unexpected,
    )
    return taken, notes + more


def variables_from(weights: Weights, config: ConfigDict, classes: Counts) -> tuple[dict[str, Any], list[str]]:
    """All variables of config's model with `classes` classes, and a line for each group of `weights` left out.

    Raises UserError if an array is missing, or not finite.
    """
    like = variables_like(models.create(config.model, classes, AXIS), config)
    tensors, notes = fitting(weights, like, config, complete=True)
    return convert.from_torch(tensors, like), notes


def classes_of(weights: Weights, config: ConfigDict) -> int | dict[str, int | None] | None:
    """The number of classes of the head in `weights`, for a network of parts by part; None if they have no head."""
    tensors, _ = _named(weights, config, shapes_of(config)(2))
    if config.get("parts"):
        return {part: convert.classes_in(tensors, shapes_of(config, part)) for part in config.parts}
    return convert.classes_in(tensors, shapes_of(config))


def holds_heads(weights: Weights, config: ConfigDict) -> bool:
    """Whether `weights` have every array of config's model, those of its heads among them, perhaps in other shapes."""
    return shapes_of(config)(2).keys() <= weights.tensors.keys()


def _named(weights: Weights, config: ConfigDict, shapes: convert.Shapes) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors renamed by config.init_rename, unless they already have all of the model's names.

    So an experiment whose rules are for a backbone also reads the whole model. Without rules, a wrapper's prefix that
    only some names have is removed if more names then match the model's; a line says so.
    """
    if shapes.keys() <= weights.tensors.keys():
        return convert.rename(weights.tensors, (), weights.origin), []
    if config.init_rename:
        return convert.rename(weights.tensors, config.init_rename, weights.origin), []
    tensors, prefix = convert.without_wrapper(convert.rename(weights.tensors, (), weights.origin), shapes)
    return tensors, [f"{weights.origin}: {prefix}, which some names begin with, is removed"] if prefix else []


def trained_fields(config: ConfigDict) -> dict[str, Any]:
    """The fields of TRAINED that `config` has."""
    groups = with_tuples(config.to_dict())
    dotted = [name.split(".") for name in TRAINED[1:]]
    return {"task": groups["task"]} | {
        f"{group}.{name}": groups[group][name] for group, name in dotted if name in groups[group]
    }


def _exported(facts: dict[str, Any], path: Path) -> tuple[Names | None, dict[str, Any]]:
    """The classes and the fields of TRAINED in a file's header. Raises UserError if they are malformed."""
    trained = {name: with_tuples(value) for name, value in facts.items() if name != "classes"}
    unknown, classes = trained.keys() - set(TRAINED), facts.get("classes") or None
    if unknown:
        raise UserError(f"{path}: its header says {sorted(unknown)[0]}, which is not known here; update this program")
    for names in by_part(classes).values() if classes else ():
        if not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
            raise UserError(f"{path}: the classes in its header are no list of texts; export it again")
        if len(set(names)) < len(names):
            raise UserError(f"{path}: the classes in its header are not {len(names)} different ones; export it again")
    for name in ("model.options", "model.heads"):
        if not isinstance(trained.get(name, {}), dict):
            raise UserError(f"{path}: {name} in its header are no fields; export it again")
    return with_tuples(classes), trained
