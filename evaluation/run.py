"""A trained run, or public weights, opened to evaluate or predict with them."""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism import models, tasks
from morphism.data import sources
from morphism.data.oddities import Oddities
from morphism.data.pipeline import problem
from morphism.data.records import Source
from morphism.errors import NonFinite, UserError, check_choice
from morphism.evaluation.fitness import check_model
from morphism.evaluation.loop import Predictions, predict
from morphism.evaluation.step import make_eval_step
from morphism.runtime.checkpoint import Checkpoints, check_same, choose, shapes
from morphism.runtime.manifest import read_classes, settled_config
from morphism.runtime.mesh import AXIS, make_mesh, replicated
from morphism.runtime.paths import AnyPath
from morphism.runtime.validation import check_config
from morphism.weights.convert import check_finite, to_torch
from morphism.weights.opening import PREPARATION, Weights, classes_of, read_weights, variables_from, with_options
from morphism.weights.public import Public, PublicSegmenter


@dataclass(frozen=True)
class Run:
    """`variables` are what the model is evaluated with: the moving averages where the run kept them.

    `name` and `facts` say where they come from, to a person and in JSON. What a call of `predict` has compiled and put
    on the devices serves the next.
    """

    config: ConfigDict
    task: ModuleType
    classes: Sequence[str]
    name: str
    facts: dict[str, Any]
    model: nn.Module
    variables: dict[str, Any]
    _steps: dict[tuple[str, str], Callable] = field(default_factory=dict, init=False, repr=False, compare=False)

    def predict(
        self,
        source: Source,
        say: Callable[[str], None],
        views: str = "center",
        skip_broken: bool = False,
    ) -> Iterator[Predictions]:
        """The task's predictions for `source`, a batch at a time and in order, on all devices, from `views` of each.

        `say` is given a line for odd images and one for shared canvases, if there are any. With `skip_broken` records
        that cannot be read are left out. Raises UserError where the task has no such views, and where ten crops would
        be the same one.
        """
        check_choice("--views", views, self.task.VIEWS)
        loaded = whole_square(self.config) if views == "ten_crop" else self.config
        odd = Oddities(source, say)
        return _finite(predict(self._step(views), self._on_devices, source, loaded, self._mesh, odd, skip_broken))

    def problem(self, source: Source, index: int) -> str:
        """Why `predict` leaves a record out; "" where it does not."""
        return problem(source, self.config, index)

    def _step(self, views: str) -> Callable:
        """The evaluation step, one for every state of the config; jit keeps a program for every shape of batches."""
        key = views, self.config.to_json_best_effort()
        if key not in self._steps:
            self._steps[key] = make_eval_step(self.model, self.task, self.config, self._mesh, views)
        return self._steps[key]

    @cached_property
    def _mesh(self) -> Mesh:
        return make_mesh()

    @cached_property
    def _on_devices(self) -> dict[str, Any]:
        return jax.device_put(self.variables, replicated(self._mesh))


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
    check_finite(to_torch(variables), f"{workdir}, step {step}")
    return Run(config, tasks.get(config.task), classes, f"step {step} of {workdir}", {"step": step}, model, variables)


def open_weights(config: ConfigDict, reference: str, overrides: Set[str], say: Callable[[str], None]) -> Run:
    """What --weights names, in the model of `config`, to see pictures as config says.

    If the weights say how images were prepared for them (torchvision's, a run's), that replaces the fields of `config`
    that are not in `overrides`. The classes are a run's, else those of config.data.source. `say` gets notes.
    Raises UserError if weights, model and data do not match.
    """
    weights = read_weights(reference, say)
    config = with_options(config, weights, overrides)
    _prepare(config, weights, overrides)
    check_config(config)
    names = weights.classes or tuple(sources.classes(config.data))
    classes = classes_of(weights, config)
    if classes not in (None, len(names)):
        if weights.classes:
            raise UserError(f"{weights.origin} is made for {classes} classes, but names {len(names)}; export it again")
        raise UserError(
            f"{weights.origin} is made for {classes} classes, {config.data.source} has {len(names)}; give the data "
            "that it was trained for as config.data.source"
        )
    variables, notes = variables_from(weights, config, len(names))
    for note in notes:
        say(note)
    model = models.create(config.model, len(names), AXIS)
    check_model(model, tasks.get(config.task), config, len(names), variables)
    facts = {"weights": weights.origin, "sha256": weights.sha256}
    return Run(config, tasks.get(config.task), names, weights.origin, facts, model, variables)


def _prepare(config: ConfigDict, weights: Weights, overrides: Set[str]) -> None:
    """Sets the fields of image preparation, except those in `overrides`, as the weights were trained with them."""
    wanted = {field: weights.trained[field] for field in PREPARATION if field in weights.trained}
    public = weights.prepared
    if public:
        wanted = {"augment.mean": public.mean, "augment.std": public.std}
    if isinstance(public, PublicSegmenter):
        wanted |= {"data.resize": "shorter", "data.image_size": public.resize_size, "data.antialias": True}
    elif isinstance(public, Public):
        if public.top1 is None:
            raise UserError(
                f"{weights.origin} has no trained classifier; it is to begin training with, as config.init_from"
            )
        wanted |= {"data.resize_size": public.resize_size, "data.eval_size": public.crop_size}
    try:
        config.update_from_flattened_dict({field: value for field, value in wanted.items() if field not in overrides})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{weights.origin}: what its header says of config is broken ({error}); export it again"
        ) from error
