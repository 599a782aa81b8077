"""Opens a trained run, or public weights, for evaluation and prediction."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import PIL.Image
from jax.sharding import Mesh
from ml_collections import ConfigDict

from morphism import models, tasks
from morphism.data import sources
from morphism.data.loose import Loose, LooseImages, Pixels
from morphism.data.oddities import Oddities
from morphism.data.pipeline import problem
from morphism.data.records import Source
from morphism.errors import NonFinite, UserError, check_choice
from morphism.evaluation import video
from morphism.evaluation.fitness import check_model
from morphism.evaluation.loop import Predicted, eval_batch_size, predict
from morphism.evaluation.result import Result
from morphism.evaluation.step import make_eval_step
from morphism.evaluation.video import Frame
from morphism.runtime.checkpoint import check_same, read_trained, shapes
from morphism.runtime.manifest import read_classes, settled_config
from morphism.runtime.mesh import AXIS, make_mesh, replicated
from morphism.runtime.paths import AnyPath, folder
from morphism.runtime.resume import FREE, OF_EVALUATION, flat, refused, set_fields
from morphism.runtime.validation import check_config
from morphism.tasks import Task
from morphism.tasks.task import Names, by_part, counted, counts
from morphism.weights.convert import check_finite, to_torch
from morphism.weights.opening import PREPARATION, Weights, classes_of, read_weights, variables_from, with_options
from morphism.weights.public import Public, PublicSegmenter

Image = str | Path | PIL.Image.Image | np.ndarray


@dataclass(frozen=True)
class Run:
    """A trained model with its task and configuration.

    `variables` are those to evaluate: the moving averages if the run kept them. `name` and `facts` say where they come
    from, for people and for JSON. Calls of `predict` and `predictions` share compiled programs and arrays on devices.
    Where several processes have opened it, each predicts the images that it is given on its own devices.
    """

    config: ConfigDict
    task: Task
    classes: Names
    name: str
    facts: dict[str, Any]
    model: nn.Module
    variables: dict[str, Any]
    _steps: dict[tuple[Any, ...], Callable] = field(default_factory=dict, init=False, repr=False, compare=False)
    _placed: dict[Mesh, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<Run: {self.config.model.name}, {self.config.task}, {counted(counts(self.classes))}, {self.name}>"

    def predict(self, images: Image | Sequence[Image], say: Callable[[str], None] = print) -> list[dict[str, Any]]:
        """The predictions for each image: a dictionary of JSON values, as `morphism predict --output` writes.

        An image is a path, a PIL image, or uint8 pixels [H,W,3] (RGB) or [H,W]. `say` gets a line about odd images.
        Raises UserError for an image that cannot be read, and for anything else, a folder among them.
        """
        found = {result.index: result.found for result in self.results(images, say)}
        return [found[index] for index in range(len(found))]

    def annotated(
        self,
        images: Image | Sequence[Image],
        threshold: float = 0.25,
        most: int = 50,
        say: Callable[[str], None] = print,
    ) -> list[PIL.Image.Image]:
        """A copy of each image with its predictions drawn, as `morphism predict --output folder/` writes.

        threshold, most: of detections the least score to draw, and how many at most.
        """
        found = {result.index: result.annotated(threshold, most) for result in self.results(images, say)}
        return [found[index] for index in range(len(found))]

    def results(
        self,
        images: Image | Sequence[Image] | LooseImages,
        say: Callable[[str], None] = print,
        skip_broken: bool = False,
    ) -> Iterator[Result]:
        """Yields a Result per image as soon as it is there: by size of the images, not in their order.

        Each is what it would be if the image were the only one, up to the rounding of floats: batches of another size
        are other programs, which add up in another order.
        """
        if isinstance(images, LooseImages):
            source = images
        else:
            several = images if isinstance(images, Iterable) and not isinstance(images, Image) else [images]
            source = LooseImages([_loose(image, index) for index, image in enumerate(several)], self.classes)
        for rows, _ in self._predicted(make_mesh(own=True), source, say, "center", skip_broken) if len(source) else ():
            for row in range(len(rows["id"])):
                yield Result.of(self.task, self.classes, source, self.config.data, rows, row)

    def frames(self, path: str | Path, say: Callable[[str], None] = print) -> Iterator[tuple[Frame, Result]]:
        """Yields each frame of a video with its Result, in order; a batch of frames is in memory at a time.

        Frames have the names "clip.mp4#0", "clip.mp4#1", ... Raises UserError as `video.frames` does.
        """
        size = eval_batch_size(self.config, make_mesh(own=True))
        said: set[str] = set()
        remaining = video.frames(Path(path))
        while batch := list(itertools.islice(remaining, size)):
            # A last batch that is as large as those before needs no other program.
            filled = [*batch, *([batch[-1]] * (size - len(batch) if batch[0].number else 0))]
            source = LooseImages([Pixels(f"{path}#{frame.number}", frame.pixels) for frame in filled], self.classes)
            found = {
                result.index: result
                for result in self.results(source, lambda line: line in said or (said.add(line), say(line)))
            }
            yield from ((frame, found[index]) for index, frame in enumerate(batch))

    def naming(self, top: int) -> "Run":
        """This run with the `top` best classes per image, where it classifies images."""
        return replace(self, task=self.task.naming(top))

    def predictions(self, source: Source, say: Callable[[str], None], views: str = "center") -> Iterator[Predicted]:
        """Yields the task's predictions for `source` batch by batch, in order, computed on all devices.

        Of several processes, all of which have to call this, each has the rows of its own devices. `say` gets a line
        about odd images and one about shared canvases, if there are any. `views` are those of the task. Raises
        UserError if the task has no such views, and if all of its ten crops would be the same.
        """
        return self._predicted(make_mesh(), source, say, views, skip_broken=False)

    def _predicted(
        self, mesh: Mesh, source: Source, say: Callable[[str], None], views: str, skip_broken: bool
    ) -> Iterator[Predicted]:
        check_choice("--views", views, self.task.views)
        prepared = self.task.prepared(self.config, views)
        odd = Oddities(source, say)
        variables = self._on_devices(mesh)
        return _finite(predict(self._step(mesh, views), variables, source, prepared, mesh, odd, skip_broken))

    def problem(self, source: Source, index: int) -> str:
        """Why `results` leaves out a record; "" if it does not."""
        return problem(source, self.config, index)

    def _step(self, mesh: Mesh, views: str) -> Callable:
        """The evaluation step for the present config; jit keeps a program per shape of batches."""
        key = mesh, views, self.config.to_json_best_effort()
        if key not in self._steps:
            self._steps[key] = make_eval_step(self.model, self.task, self.config, mesh, views)
        return self._steps[key]

    def _on_devices(self, mesh: Mesh) -> dict[str, Any]:
        if mesh not in self._placed:
            self._placed[mesh] = jax.device_put(self.variables, replicated(mesh))
        return self._placed[mesh]


def _finite(batches: Iterator[Predicted]) -> Iterator[Predicted]:
    """The batches unchanged. Adds a remedy to NonFinite."""
    try:
        yield from batches
    except NonFinite as error:
        raise NonFinite(
            f"{error}; its weights have diverged or overflowed: choose another --checkpoint, or other --weights"
        ) from error


def _loose(image: Any, index: int) -> Loose:
    """A path, or uint8 pixels. Raises UserError for what is no image: a folder, an array that is not of 8 bits."""
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise UserError(f"{image} is a folder; give a list of its images, so that each has its place in the result")
        return Path(image)
    if not isinstance(image, Image):
        raise UserError(
            f"an image is {image!r:.60}; give a path, a PIL image, or uint8 pixels [H,W,3] or [H,W], or a list of these"
        )
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, PIL.Image.Image) else image
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise UserError(
            f"an image is {pixels.dtype} {list(pixels.shape)}; give a path, a PIL image, or uint8 pixels [H,W,3] or "
            "[H,W]"
        )
    return Pixels(f"image {index}", pixels)


def open(
    trained: AnyPath | str, config: ConfigDict | None = None, *, checkpoint: str = "best", **overrides: Any
) -> Run:
    """Opens what was trained, to predict with it.

        run = morphism.open("runs/cells", nms_threshold=0.3)
        run = morphism.open("torchvision:resnet50/IMAGENET1K_V2", imagenet_resnet.get_config("50"))

    Args:
      trained: the workdir of a run; or with `config`, weights as --weights names them.
      config: the experiment that the weights are for. A workdir has its own.
      checkpoint: of a workdir: best, latest or a step.
      overrides: fields in which evaluation may differ from training, by the end of their name: image_size,
        score_threshold, nms_threshold, detections, ... (OF_EVALUATION). With `config` set them there.

    Raises UserError if there is nothing of that kind, and for a field that may not differ.
    """
    if config is not None:
        if overrides or checkpoint != "best":
            given = ", ".join([*overrides, *(["checkpoint"] if checkpoint != "best" else [])])
            raise UserError(f"{given}: only a run has such; set fields in the config that is given")
        return open_weights(config.copy_and_resolve_references(), str(trained))
    return open_run(trained, checkpoint, partial(_override, given=overrides))


def _override(config: ConfigDict, given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        found = [field for field in OF_EVALUATION if field.rpartition(".")[2] == name]
        if not found:
            raise UserError(refused(name, "leave it out", OF_EVALUATION))
        set_fields(config, {found[0]: value})


def open_run(
    workdir: AnyPath | str, which: str = "best", change: Callable[[ConfigDict], None] = lambda config: None
) -> Run:
    """Opens a run at its "best" or "latest" checkpoint, or at a step. Raises UserError if it has none of this model.

    change: changes the run's configuration, before anything is built, in fields of OF_EVALUATION.
    """
    workdir = folder(workdir) if isinstance(workdir, str) else workdir
    config = settled_config(workdir)
    trained = flat(config)
    change(config)
    check_config(config)
    now = flat(config)
    changed = {field: value for field, value in now.items() if value != trained.get(field) and field not in FREE}
    classes = read_classes(workdir)
    step, variables = read_trained(workdir, config, which)
    model = models.create(config.model, counts(classes), AXIS)
    wanted = jax.eval_shape(lambda: models.init(model, jax.random.key(0), config.data.image_size))
    check_same(shapes(variables), shapes(wanted), workdir / "checkpoints" / str(step))
    check_finite(to_torch(variables), f"{workdir}, step {step}")
    facts = {"step": step} | ({"overrides": changed} if changed else {})
    return Run(config, tasks.of(config, classes), classes, f"step {step} of {workdir}", facts, model, variables)


def open_weights(
    config: ConfigDict, reference: str, overrides: Set[str] = frozenset(), say: Callable[[str], None] = print
) -> Run:
    """Opens weights, as --weights names them, in the model of `config`.

    If the weights say how images were prepared for them (torchvision's, a run's), that replaces the fields of `config`
    that are not in `overrides`. The classes are those of the run, or else of config.data.source. `say` gets notes.
    Raises UserError if weights, model and data do not match.
    """
    weights = read_weights(reference, say)
    config = with_options(config, weights, overrides)
    _prepare(config, weights, overrides)
    check_config(config)
    task = tasks.of(config)
    names = weights.classes or task.class_names(sources.Classes(config.data))
    wanted, classes = counts(names), classes_of(weights, config)
    for part, found in by_part(classes).items():
        if found in (None, by_part(wanted)[part]):
            continue
        made = f"{weights.origin} is made for {found} classes{f' of {part}' if part else ''}"
        if weights.classes:
            raise UserError(f"{made}, but names {by_part(wanted)[part]}; export it again")
        raise UserError(
            f"{made}, {config.data.source} has {by_part(wanted)[part]}; give the data that it was trained for as "
            "config.data.source"
        )
    variables, notes = variables_from(weights, config, wanted)
    for note in notes:
        say(note)
    model = models.create(config.model, wanted, AXIS)
    check_model(model, task, config, wanted, variables)
    facts = {"weights": weights.origin, "sha256": weights.sha256}
    return Run(config, tasks.of(config, names), names, weights.origin, facts, model, variables)


def _prepare(config: ConfigDict, weights: Weights, overrides: Set[str]) -> None:
    """Sets the fields of image preparation, except those in `overrides`, as the weights were trained with them."""
    wanted = {field: weights.trained[field] for field in PREPARATION if field in weights.trained}
    public = weights.public
    if public:
        wanted = {"augment.mean": public.mean, "augment.std": public.std}
    if isinstance(public, PublicSegmenter):
        wanted |= {"data.resize": "shorter", "data.image_size": public.resize_size, "data.antialias": True}
    elif isinstance(public, Public):
        if public.top1 is None:
            raise UserError(
                f"{weights.origin} has no trained classifier; use it to start a training, as config.init_from"
            )
        wanted |= {"data.resize_size": public.resize_size, "data.eval_size": public.crop_size}
    try:
        config.update_from_flattened_dict({field: value for field, value in wanted.items() if field not in overrides})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{weights.origin}: what its header says of config is broken ({error}); export it again"
        ) from error
