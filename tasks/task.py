"""The interface between tasks and the code that trains, evaluates and predicts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Bool, Float, Key, Shaped, UInt8
from ml_collections import ConfigDict

from morphism.data import sources
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.tasks.layers import Layer, Tag

Batch = dict[str, Array]
Outputs = Any  # what a model returns: a tree of arrays
Apply = Callable[[Float[Array, "b h w 3"], Batch], Outputs]  # the network: (images, the rest of the batch) -> outputs
Predictions = dict[str, np.ndarray]
Totals = dict[str, np.ndarray]
Metrics = Any  # of some examples; those of others can be added (ADDED)
Names = Sequence[str] | Mapping[str, Sequence[str]]  # of classes, ordered by number; for a task of parts by part
Counts = int | Mapping[str, int]  # of classes; for a task of parts by part, hashable
RowMean = Callable[[Bool[Array, "b"]], Float[Array, ""]]


ADDED = (int, float, np.ndarray, list, dict)  # the types of metrics that processes add up


class File(NamedTuple):
    """A file that an evaluation writes next to its result.

    title: what the console calls it. value: its content, of JSON. images: names and contents of files for a folder of
    the file's own name.
    """

    name: str
    title: str
    value: Any
    images: Iterable[tuple[str, bytes]] = ()


@runtime_checkable
class Task(Protocol):
    """What a model learns and how it is evaluated, as pure functions. No code outside tasks/ asks which task it has.

    Shapes: B examples per batch, K classes. augment, normalise, loss, infer and predict run on the device, in the
    training or the evaluation step; all others run on the host. `classes` are Names, as `class_names` gives them, or
    on the device their Counts.
    """

    @property
    def name(self) -> str:
        """The value of config.task, also in messages."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it learns from: their keys in a batch. Its classes are those of the first."""

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics of `summarise` that the log shows, best known first. The best checkpoint is chosen by one."""

    @property
    def higher_is_better(self) -> tuple[str, ...]:
        """The metrics of the headline of which a higher value is better; of the others, such as a loss, a lower one."""

    @property
    def image_score(self) -> str:
        """What the score of `per_image` is, in words."""

    @property
    def views(self) -> tuple[str, ...]:
        """How evaluation can see an image: "center" is once; `infer` implements the others."""

    @property
    def masks(self) -> tuple[str, ...]:
        """The names of the masks that `mask` returns: ("",) if there is only one, () if there is none."""

    # Before training

    def check(self, config: ConfigDict) -> None:
        """Raises UserError if two fields of the whole `config` do not go together; each alone is in its range."""

    def class_names(self, source: Source | sources.Classes) -> Names:
        """The names of the classes that it learns from `source`."""

    def with_classes(self, source: Source, classes: Names, where: str) -> Source:
        """`source`, called `where`, with its classes numbered as in `classes`. Raises UserError for other classes."""

    def check_classes(self, source: str, classes: Names) -> None:
        """Raises UserError if `source`, config.data.source, has too few classes."""

    def resolve(self, config: ConfigDict, source: Source) -> ConfigDict:
        """The whole `config` with the fields that depend on `source`, the train split. Raises UserError.

        Only the compiled programs get the result: augment, loss, normalise, infer. The loading of data and the saved
        configuration have the fields as they were written.
        """

    def misfit(self, model: nn.Module, outputs: Outputs, classes: int) -> str:
        """What is wrong with the shapes of a model's outputs for K classes; "" if nothing."""

    def unjudged(self, source: Source) -> Sequence[str]:
        """What cannot be evaluated on `source`: of a task of parts the parts whose truths no record has."""

    # The training step

    def mixed(self, config: ConfigDict) -> int:
        """How many successive rows of a batch are mixed; 1 if none. `config` is config.augment."""

    def augment(self, key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
        """The batch with augmented and normalised images, float32 [B,H,W,3], made from pixels 0..255.

        `config` is config.augment.
        """

    def shared(self, batch: Batch, mean: RowMean) -> Batch:
        """The batch, not yet split into micro-batches, with what the loss must know of those of all devices.

        mean: from rows of the batch to how many are True per micro-batch, on average over all devices.
        """

    def loss(
        self, model: nn.Module, outputs: Outputs, batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss, a mean over the valid examples of a device's share of the batch; scalars to report.

        `config` is the whole configuration, where `augment` gets config.augment alone.
        """

    # The evaluation step

    def prepared(self, config: ConfigDict, views: str) -> ConfigDict:
        """`config` that loads images as `views` need them. Raises UserError if the views would all be the same."""

    def normalise(self, batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
        """The model's input from images of 0..255 [B,H,W,3]. `config` is config.augment."""

    def infer(
        self, apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str
    ) -> Outputs:
        """The network's outputs, combined if it sees each image several times. `data` is config.data."""

    def predict(self, model: nn.Module, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Arrays [B,...], among them the batch's "id". Numbers of valid examples must be finite."""

    def totals(self, outputs: Outputs, predictions: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """Integers summed over the valid examples, of which an evaluation needs nothing per example; {} if none.

        The step adds up those of all devices. `predictions` are those of `predict`.
        """

    @property
    def only_drawn(self) -> Sequence[str]:
        """The predictions that metrics do not read: they leave the device with batches that have images to draw."""

    # In an exported program

    @property
    def exports(self) -> Mapping[str, str]:
        """What `exported` returns: the name of each array, and its meaning for people."""

    def exported(self, model: nn.Module, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """The results on canvases, arrays [B,...] by the names of `exports`; needs no truth and no decoded image."""

    # Metrics, in float64 or integers, each example once. A value of their dictionary that is of a type in ADDED is a
    # sum over examples, or a list with something per batch or example, in any order; any other is the same for all.

    def measured(self, config: ConfigDict, least: float) -> "Task":
        """This task with the further metrics of config.metrics, which `morphism eval` reports and training does not.

        least: detections with a lower score count neither as confused nor in an image's score.
        """

    def init_metrics(self, source: Source) -> Metrics:
        """Empty metrics for the split `source`."""

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        """Adds a batch of `predict`'s arrays, with valid examples only; perhaps without those of `only_drawn`."""

    def add_totals(self, metrics: Metrics, totals: Totals) -> Metrics:
        """Adds the `totals` of a batch over all devices."""

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """JSON values: the metrics of the headline, "examples", and more."""

    def table(self, summary: dict[str, Any]) -> dict[str, float | int]:
        """The numbers of a summary to print, one per line; counts are integers."""

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        """Files for other programs, besides the summary."""

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        """The numbers of plots, as JSON values, by the plot's name; {} if there is nothing to draw.

        evaluation/plots.py says which plots there are, and draws them. `summary` is that of `metrics`.
        """

    def per_image(self, metrics: Metrics, predictions: Predictions) -> list[dict[str, Any]]:
        """How well each image of a batch is predicted, as JSON values; `metrics` are those to which it was added last.

        score: in 0..1, higher is better, None if nothing about the image is known; true, predicted: what is true of it
        and what was predicted; cells: its share of the confusion matrix of `plots`, wrong cells at least, as
        [true class, predicted class, count], () without one. A task of parts has a dictionary of these as `parts`.
        """

    # For people

    def naming(self, top: int) -> "Task":
        """This task with the `top` best classes of an image instead of one; itself if it has no such classes."""

    def describe(self, predictions: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
        """The predictions for an image as JSON values."""

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        """The values of each line to print; for detections, `most` of those with a score of at least `threshold`.

        Scores are in 0..1.
        """

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        """How many detections `lines` prints, and how many there are; (0, 0) for a task without detections."""

    def coco_results(
        self, described: dict[str, Any], classes: Any
    ) -> Mapping[str, tuple[Sequence[str], list[dict[str, Any]]]]:
        """The classes and an image's results in COCO's format, without its id, by name of a file; {} if it has none.

        Class k is category k + 1.
        """

    def mask(self, predictions: Predictions, row: int, name: str = "") -> Shaped[np.ndarray, "h w"]:
        """The class of every pixel of a decoded image, uint8; of fused segments their ids, uint16.

        `name` is one of `masks`.
        """

    def found_layers(
        self, predictions: Predictions, row: int, classes: Any, threshold: float, most: int
    ) -> Sequence[Layer]:
        """What is drawn over an image of its predictions; `threshold` and `most` as for `lines`."""

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        """What is drawn over an image of its truth; nothing of a truth that the record lacks."""

    def annotate(
        self,
        pixels: UInt8[np.ndarray, "h w 3"],
        predictions: Predictions,
        row: int,
        classes: Any,
        threshold: float,
        most: int,
    ) -> UInt8[np.ndarray, "H W 3"]:
        """A copy of the decoded image with its `found_layers`; a small image is enlarged by a whole factor."""

    def annotate_truth(
        self, pixels: UInt8[np.ndarray, "h w 3"], source: Source, index: int
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The same with its `true_layers`."""


class Annotating:
    """How a task annotates images with its layers."""

    def annotate(
        self,
        pixels: UInt8[np.ndarray, "h w 3"],
        predictions: Predictions,
        row: int,
        classes: Any,
        threshold: float,
        most: int,
    ) -> UInt8[np.ndarray, "H W 3"]:
        from morphism.tasks.drawing.annotate import annotate

        return annotate(pixels, self.found_layers(predictions, row, classes, threshold, most))

    def annotate_truth(
        self, pixels: UInt8[np.ndarray, "h w 3"], source: Source, index: int
    ) -> UInt8[np.ndarray, "H W 3"]:
        from morphism.tasks.drawing.annotate import annotate

        return annotate(pixels, self.true_layers(source, index))


class SingleTask(Annotating):
    """What tasks have in common that are not made of others. Their classes are those of the source's main target."""

    def class_names(self, source: Source | sources.Classes) -> Names:
        return tuple(source.classes)

    def with_classes(self, source: Source, classes: Names, where: str) -> Source:
        return sources.with_classes(source, classes, where)

    def shared(self, batch: Batch, mean: RowMean) -> Batch:
        return batch

    def unjudged(self, source: Source) -> Sequence[str]:
        return ()

    def totals(self, outputs: Outputs, predictions: dict[str, Array], batch: Batch) -> dict[str, Array]:
        return {}

    def add_totals(self, metrics: Metrics, totals: Totals) -> Metrics:
        return metrics

    @property
    def only_drawn(self) -> Sequence[str]:
        return ()

    def measured(self, config: ConfigDict, least: float) -> Task:
        return self

    def naming(self, top: int) -> Task:
        return self

    def coco_results(
        self, described: dict[str, Any], classes: Any
    ) -> Mapping[str, tuple[Sequence[str], list[dict[str, Any]]]]:
        return {}

    def found_layers(
        self, predictions: Predictions, row: int, classes: Any, threshold: float, most: int
    ) -> Sequence[Layer]:
        """The lines that are printed, as text."""
        lines = self.lines(self.describe(predictions, row, classes), threshold, most)
        return (Tag((), [(" ".join(map(str, line)), None) for line in lines]),)

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        return ()

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        return {}

    def configured(self, config: ConfigDict) -> Task:
        """The task as `config` wants it: what tasks.of returns."""
        return self


def lower_is_better(task: Task, metric: str) -> bool:
    """Whether the best value of a metric of the task's headline is the lowest."""
    return metric not in task.higher_is_better


def counts(classes: Names) -> Counts:
    """How many classes there are."""
    if isinstance(classes, Mapping):
        return FrozenDict({part: len(names) for part, names in classes.items()})
    return len(classes)


def by_part(value: Any) -> Mapping[str, Any]:
    """What a task of parts has by part; of other tasks the `value` itself, whose part has no name."""
    return value if isinstance(value, Mapping) else {"": value}


def counted(classes: Counts) -> str:
    """The number of classes in words, such as "10 classes" or "classes: 6 of ground, 5 of objects"."""
    if not isinstance(classes, Mapping):
        return f"{classes} classes"
    return f"classes: {', '.join(f'{count} of {part}' for part, count in classes.items())}"


def check_count(task: Task, least: int, source: str, classes: Sequence[str]) -> None:
    """Raises UserError if `source`, config.data.source, has fewer than `least` classes."""
    if len(classes) < least:
        raise UserError(
            f"{source} has {len(classes)} class ({', '.join(classes)}); {task.name} needs at least {least}, each with "
            "a folder or label of its own"
        )


def ratios(values: np.ndarray, of: np.ndarray) -> list[float | None]:
    """Each of `values` over that of `of`; None where that is 0."""
    return [float(value / total) if total else None for value, total in zip(values, of, strict=True)]


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the records 0 to count - 1, evenly spread: the first ones of a sorted split may be alike."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
