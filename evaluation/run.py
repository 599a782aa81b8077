"""A trained run, or public weights, opened to evaluate or predict with them."""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

import models
import tasks
from data import sources
from data.intensity import with_fields
from data.oddities import Oddities
from data.sources import Source
from errors import NonFinite, UserError, check_choice
from evaluation.loop import Predictions, predict
from training.checkpoint import Checkpoints, check_same, choose, shapes
from training.initial import classes_of, read_weights, variables_from, with_options
from training.manifest import read_classes, settled_config
from training.mesh import AXIS, make_mesh, replicated
from training.paths import AnyPath
from training.step import make_eval_step
from training.validation import check_config
from weights.public import Public, PublicDetector, PublicSegmenter


@dataclass(frozen=True)
class Run:
    """`variables` are what the model is evaluated with: the moving averages where the run kept them.

    `name` and `facts` say where they come from, to a person and in JSON.
    """

    config: ConfigDict
    task: ModuleType
    classes: Sequence[str]
    name: str
    facts: dict[str, Any]
    model: nn.Module
    variables: dict[str, Any]

    def predict(self, source: Source, say: Callable[[str], None], views: str = "center") -> Iterator[Predictions]:
        """The task's predictions for `source`, a batch at a time and in order, on all devices, from `views` of each.

        `say` is given a line that tells of odd pictures, if there are any. Raises UserError where the task has no such
        views, and where ten crops would be the same one.
        """
        check_choice("--views", views, self.task.VIEWS)
        mesh = make_mesh()
        eval_step = make_eval_step(self.model, self.task, self.config, mesh, views)
        variables = jax.device_put(self.variables, replicated(mesh))
        loaded = whole_square(self.config) if views == "ten_crop" else self.config
        return _finite(predict(eval_step, variables, source, loaded, mesh, Oddities(source, say)))


def _finite(batches: Iterator[Predictions]) -> Iterator[Predictions]:
    """The batches unchanged. Raises NonFinite with what to do about weights that predict nothing."""
    try:
        yield from batches
    except NonFinite as error:
        raise NonFinite(
            f"{error}; its weights have diverged or overflowed: choose another --checkpoint, or other --weights"
        ) from error


def whole_square(config: ConfigDict) -> ConfigDict:
    """`config` with evaluation's pictures as large as they are resized to, for crops to be cut from on the device."""
    data = config.data
    if data.resize_size == (data.eval_size or data.image_size):
        raise UserError(
            f"--views ten_crop: pictures are resized to config.data.resize_size={data.resize_size}, which is the "
            "network's input, so that all crops would be one; train with a larger resize_size, or choose flip"
        )
    wider = config.copy_and_resolve_references()
    with wider.unlocked():
        wider.data.eval_size = data.resize_size
    return wider


def open_run(workdir: AnyPath, which: str) -> Run:
    """The checkpoint "best", "latest" or of a step. Raises UserError where there is none, or none of this model."""
    config = settled_config(workdir)
    check_config(config)
    classes = read_classes(workdir)
    with Checkpoints(workdir, best=config.best) as checkpoints:
        step = choose(checkpoints, which)
        state = checkpoints.read(step)
    variables = state["ema"] or {"params": state["params"], "batch_stats": state["batch_stats"]}
    model = models.create(config.model, len(classes), AXIS)
    wanted = jax.eval_shape(lambda: models.init(model, jax.random.key(0), config.data.image_size))
    check_same(shapes(variables), shapes(wanted), workdir / "checkpoints" / str(step))
    return Run(config, tasks.get(config.task), classes, f"step {step} of {workdir}", {"step": step}, model, variables)


def open_weights(config: ConfigDict, reference: str, overrides: Set[str], say: Callable[[str], None]) -> Run:
    """What --weights names, in the model of `config`, to see pictures as config says.

    Pictures are prepared as torchvision prepares them for a checkpoint of its own, but for the fields of `overrides`.
    The classes are those of a run's workdir, else of config.data.source. `say` is given what is worth telling.
    Raises UserError where weights, model and data do not fit one another.
    """
    weights = read_weights(reference, say)
    config = with_options(config, weights)
    if weights.prepared:
        _prepare(config, weights.prepared, weights.origin, overrides)
    fields = {name: value for name, value in weights.intensity.items() if f"data.{name}" not in overrides}
    config = with_fields(config, fields)
    check_config(config)
    names = weights.classes or tuple(sources.classes(config.data))
    classes = classes_of(weights, config)
    if classes not in (None, len(names)):
        raise UserError(
            f"{weights.origin} is made for {classes} classes, {config.data.source} has {len(names)}; give the data "
            "that it was trained for as config.data.source"
        )
    variables, notes = variables_from(weights, config, len(names))
    for note in notes:
        say(note)
    model = models.create(config.model, len(names), AXIS)
    facts = {"weights": weights.origin, "sha256": weights.sha256}
    return Run(config, tasks.get(config.task), names, weights.origin, facts, model, variables)


def _prepare(
    config: ConfigDict, public: Public | PublicDetector | PublicSegmenter, origin: str, overrides: Set[str]
) -> None:
    wanted = {"augment.mean": public.mean, "augment.std": public.std}
    if isinstance(public, PublicSegmenter):
        wanted |= {"data.resize": "shorter", "data.image_size": public.resize_size, "data.antialias": True}
    elif isinstance(public, Public):
        if public.top1 is None:
            raise UserError(f"{origin} has no trained classifier; it is to begin training with, as config.init_from")
        wanted |= {"data.resize_size": public.resize_size, "data.eval_size": public.crop_size}
    config.update_from_flattened_dict({field: value for field, value in wanted.items() if field not in overrides})
