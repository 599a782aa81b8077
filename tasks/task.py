"""What a task is to all that trains, evaluates and predicts with it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from ml_collections import ConfigDict

from morphism.data.records import Source
from morphism.errors import UserError

Batch = dict[str, Array]
Outputs = Any  # what a model returns: a tree of arrays
Apply = Callable[[Float[Array, "b h w 3"], Batch], Outputs]  # the network: images, and what else it reads of a batch
Predictions = dict[str, np.ndarray]
Metrics = Any


class File(NamedTuple):
    """What an evaluation writes next to its result. title: what a person is told that it is."""

    name: str
    title: str
    value: Any  # of JSON


@runtime_checkable
class Task(Protocol):
    """What a model learns and how it is judged: pure functions, which nothing outside tells apart.

    B examples of a batch, K classes. augment, normalise, loss, infer and predict run on the device, inside the
    training or the evaluation step; all others run on the host. `classes` are names in the order of their numbers.
    """

    @property
    def name(self) -> str:
        """What config.task and messages call it."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The truths that it learns from, by the names of their keys in a batch; its classes are of the first."""

    @property
    def headline(self) -> tuple[str, ...]:
        """The numbers of `summarise` that are worth a line, best-known first."""

    @property
    def higher_is_better(self) -> tuple[str, ...]:
        """Those of the headline that may say which checkpoint is best."""

    @property
    def views(self) -> tuple[str, ...]:
        """How evaluation may see an image: "center" is once; `infer` knows the others."""

    @property
    def masks(self) -> tuple[str, ...]:
        """The masks that `mask` makes of an image; ("",) where there is one, () where there is none."""

    # Before training

    def check_classes(self, source: str, classes: Sequence[str]) -> None:
        """Raises UserError where `source`, config.data.source, has too few classes to learn anything."""

    def resolve(self, config: ConfigDict, source: Source) -> ConfigDict:
        """`config` with the fields filled in that depend on the train split `source`; raises UserError."""

    def misfit(self, model: nn.Module, outputs: Outputs, classes: int) -> str:
        """What is wrong with the shapes of a model's outputs for K classes, or ""."""

    # The training step

    def mixed(self, config: ConfigDict) -> int:
        """How many rows of a batch, one after the other, are mixed by `config`, config.augment."""

    def augment(self, key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
        """The batch with augmented and normalised images, float32 [B,H,W,3]; before they are pixels of 0..255.

        `config` is config.augment.
        """

    def loss(
        self, model: nn.Module, outputs: Outputs, batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What is minimised, a mean over the valid examples of a device's share of the batch; scalars to report."""

    # The evaluation step

    def prepared(self, config: ConfigDict, views: str) -> ConfigDict:
        """`config` with images loaded as `views` need them; raises UserError where these would be one and the same."""

    def normalise(self, batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
        """The model's input, of images of 0..255 [B,H,W,3]. `config` is config.augment."""

    def infer(
        self, apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str
    ) -> Outputs:
        """The network's outputs, combined where it sees each image several times. `data` is config.data."""

    def predict(self, model: nn.Module, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Arrays [B,...], with the batch's "id" among them."""

    # Metrics, in float64 or whole numbers, each example once

    def init_metrics(self, source: Source) -> Metrics:
        """Nothing gathered yet, of the split `source`."""

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        """Adds a batch of `predict`'s arrays, of valid examples only."""

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """Values of JSON: the headline's numbers, "examples", and whatever else there is to say."""

    def table(self, summary: dict[str, Any]) -> dict[str, float]:
        """What is printed of a summary, a line each."""

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        """What other programs read, next to the summary."""

    # What a person sees

    def describe(self, predictions: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
        """What there is to say of an image, in values of JSON."""

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        """Of that what is printed, values of a line each; of detections those that score `threshold`, `most` of them.

        A score is in 0..1.
        """

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        """How many detections `lines` prints, and how many there are; (0, 0) where there is no such thing."""

    def mask(self, predictions: Predictions, row: int, name: str = "") -> UInt8[np.ndarray, "h w"]:
        """The class of every pixel of an image as decoded, for a name in `masks`."""

    def drawn(self, count: int) -> Sequence[int]:
        """Those of `count` records whose predictions `draw` wants."""

    def draw(
        self, source: Source, batches: Sequence[Predictions], data: ConfigDict, threshold: float, most: int
    ) -> bytes:
        """A PNG of images of `source`, as config.data shows them, with what was predicted; see `lines` of the rest."""


def see_once(apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str) -> Outputs:
    """`infer` of a task whose only view is "center"."""
    return apply(images, batch)


def check_count(task: Task, least: int, source: str, classes: Sequence[str]) -> None:
    """Raises UserError where `source`, config.data.source, has fewer classes than `least`."""
    if len(classes) < least:
        raise UserError(
            f"{source} has {len(classes)} class ({', '.join(classes)}); {task.name} needs at least {least}, each with "
            "a folder or label of its own"
        )


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the records 0 to count - 1, evenly spread: the first of a sorted split would be of one kind."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
