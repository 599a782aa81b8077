"""A task of tasks: one network learns several at once, and each is evaluated as if it were alone.

The network returns {part: outputs of that part} and has what interprets them (Network). Sources and batches have the
targets of all parts. Scalars, metrics, predictions and files of a part have its name and a slash in front:
"objects/ap", "ground/miou".

    config.parts.<part>    the part's own values of fields of config: {"loss": {"name": "focal"}}
    config.augment         augmentation of the images, by the rules of the first part; they must leave the targets of
                           the other parts valid: only the host changes geometry, and no images are mixed
    config.best            such as "objects/ap"

`classes`, wherever a Task takes them, are a mapping from the parts' names.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Key, UInt8
from ml_collections import ConfigDict
from PIL import Image

from morphism.data.records import Record, Source
from morphism.errors import UserError
from morphism.tasks.task import Apply, Batch, File, Metrics, Predictions, Task

Classes = Mapping[str, Sequence[str]]


@runtime_checkable
class Network(Protocol):
    """A model of a composed task."""

    def reader(self, part: str) -> Any:
        """The model that the part's task gets: for Detection a Detector that interprets that part's outputs.

        In a linen module this is a method that is not wrapped (nn.nowrap).
        """


@dataclass(frozen=True)
class Part:
    """One of the tasks.

    weight: factor of its loss in the sum.
    keys: names of the task's targets -> names of this part's, so that two parts can have the same task:
    {"segmentation": "lanes"}.
    """

    name: str
    task: Task
    weight: float = 1.0
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.keys.get(target, target) for target in self.task.targets)

    def source(self, source: Source) -> Source:
        """The split as the task knows it."""
        return _Seen(source, source.targets[self.targets[0]], self.keys)

    def batch(self, batch: Batch) -> Batch:
        """The batch as the task knows it."""
        return _renamed(batch, self.keys)

    def config(self, config: ConfigDict) -> ConfigDict:
        """The configuration as the task knows it."""
        own = ConfigDict(config.to_dict(), type_safe=False)
        own.update(config.parts[self.name].to_dict())
        return own

    def named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The task's `values`, with the part's name in front of theirs."""
        return {f"{self.name}/{name}": value for name, value in values.items()}

    def own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `named`: this part's values, by the task's own names."""
        front = f"{self.name}/"
        return {name.removeprefix(front): value for name, value in values.items() if name.startswith(front)}


@dataclass(frozen=True)
class _Seen:
    """A source with the classes and the targets of one part; everything else is the source's own."""

    source: Source
    classes: Sequence[str]
    keys: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return _renamed(self.source[index], self.keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


def _renamed(values: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return values | {own: values[key] for own, key in keys.items() if key in values}


@dataclass(frozen=True)
class Composed:
    """The task of a model whose outputs are {part: outputs}. tasks/task.py describes the members."""

    parts: tuple[Part, ...]
    name: ClassVar[str] = "composed"

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(target for part in self.parts for target in part.targets))

    @property
    def headline(self) -> tuple[str, ...]:
        return self._names(lambda task: task.headline)

    @property
    def higher_is_better(self) -> tuple[str, ...]:
        return self._names(lambda task: task.higher_is_better)

    @property
    def views(self) -> tuple[str, ...]:
        """The views that all parts have."""
        first, *others = (part.task.views for part in self.parts)
        return tuple(view for view in first if all(view in views for views in others))

    @property
    def masks(self) -> tuple[str, ...]:
        return tuple("/".join(filter(None, (part.name, mask))) for part in self.parts for mask in part.task.masks)

    def _names(self, of: Callable[[Task], Sequence[str]]) -> tuple[str, ...]:
        return tuple(f"{part.name}/{name}" for part in self.parts for name in of(part.task))

    def check(self, config: ConfigDict) -> None:
        for part in self.parts:
            part.task.check(part.config(config))

    def check_classes(self, source: str, classes: Classes) -> None:
        for part in self.parts:
            part.task.check_classes(f"{source}, {part.name},", classes[part.name])

    def resolve(self, config: ConfigDict, source: Source) -> ConfigDict:
        resolved = config.copy_and_resolve_references()
        own = {part.name: part.task.resolve(part.config(config), part.source(source)) for part in self.parts}
        with resolved.unlocked():
            resolved.augment = own[self.parts[0].name].augment
            for name, each in own.items():
                resolved.parts[name].update({group: each[group] for group in ("augment", "loss") if group in each})
        return resolved

    def misfit(self, model: Network, outputs: Any, classes: Mapping[str, int]) -> str:
        for part in self.parts:
            if not isinstance(outputs, dict) or part.name not in outputs:
                return f"its outputs have no {part.name!r}, which the task has"
            wrong = part.task.misfit(model.reader(part.name), outputs[part.name], classes[part.name])
            if wrong:
                return f"{part.name}: {wrong}"
        return ""

    def mixed(self, config: ConfigDict) -> int:
        """1. Raises UserError if `config` mixes images, since only the first part's targets would be mixed."""
        if self.parts[0].task.mixed(config) > 1:
            raise UserError(
                f"config.augment: it mixes images, but only the targets of {self.parts[0].name}; turn mixing off"
            )
        return 1

    def augment(self, key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: Mapping[str, int]) -> Batch:
        first = self.parts[0]
        augmented = first.task.augment(key, first.batch(batch), config, classes[first.name])
        return augmented | {own: batch[own] for own in first.keys if own in batch}

    def loss(
        self, model: Network, outputs: dict[str, Any], batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum of the parts' losses; per part "<part>/loss", without its weight, and its scalars."""
        total, scalars = 0.0, {}
        for part in self.parts:
            value, more = part.task.loss(
                model.reader(part.name), outputs[part.name], part.batch(batch), part.config(config)
            )
            total += part.weight * value
            scalars |= part.named({"loss": value, **more})
        return total, scalars

    def prepared(self, config: ConfigDict, views: str) -> ConfigDict:
        return self.parts[0].task.prepared(config, views)

    def normalise(self, batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
        return self.parts[0].task.normalise(self.parts[0].batch(batch), config)

    def infer(
        self, apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str
    ) -> dict[str, Any]:
        """{part: outputs}, each by its own task; all parts that see the images unchanged share one pass."""
        once = apply(images, batch)

        def outputs(part: Part) -> Any:
            def seen(x: Array, batch: Batch) -> Any:
                return (once if x is images else apply(x, batch))[part.name]

            return part.task.infer(seen, images, part.batch(batch), data, views)

        return {part.name: outputs(part) for part in self.parts}

    def predict(self, model: Network, outputs: dict[str, Any], batch: Batch) -> dict[str, Array]:
        found = {"id": batch["id"]}
        for part in self.parts:
            own = part.task.predict(model.reader(part.name), outputs[part.name], part.batch(batch))
            found |= part.named({name: value for name, value in own.items() if name != "id"})
        return found

    def _predictions(self, part: Part, predictions: Predictions) -> Predictions:
        return {"id": predictions["id"], **part.own(predictions)}

    def measured(self, config: ConfigDict) -> "Composed":
        return replace(
            self, parts=tuple(replace(part, task=part.task.measured(part.config(config))) for part in self.parts)
        )

    def init_metrics(self, source: Source) -> Metrics:
        return {part.name: part.task.init_metrics(part.source(source)) for part in self.parts}

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        return {
            part.name: part.task.update_metrics(metrics[part.name], self._predictions(part, predictions))
            for part in self.parts
        }

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in self.parts:
            found |= part.named(part.task.summarise(metrics[part.name]))
        return found | {"examples": found[f"{self.parts[0].name}/examples"]}

    def table(self, summary: dict[str, Any]) -> dict[str, float | int]:
        rows: dict[str, float | int] = {}
        for part in self.parts:
            rows |= part.named(part.task.table(part.own(summary)))
        return rows

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        return tuple(
            File(f"{part.name}_{file.name}", f"{part.name}: {file.title}", file.value)
            for part in self.parts
            for file in part.task.files(metrics[part.name], part.source(source))
        )

    def describe(self, predictions: Predictions, row: int, classes: Classes) -> dict[str, Any]:
        return {
            part.name: part.task.describe(self._predictions(part, predictions), row, classes[part.name])
            for part in self.parts
        }

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        return [
            (part.name, *line) for part in self.parts for line in part.task.lines(described[part.name], threshold, most)
        ]

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        counts = [part.task.counts(described[part.name], threshold, most) for part in self.parts]
        return sum(shown for shown, _ in counts), sum(every for _, every in counts)

    def mask(self, predictions: Predictions, row: int, name: str = "") -> UInt8[np.ndarray, "h w"]:
        own, _, mask = name.partition("/")
        part = next(part for part in self.parts if part.name == own)
        return part.task.mask(self._predictions(part, predictions), row, mask)

    def drawn(self, count: int) -> Sequence[int]:
        return sorted({index for part in self.parts for index in part.task.drawn(count)})

    def draw(
        self, source: Source, batches: Sequence[Predictions], data: ConfigDict, threshold: float, most: int
    ) -> bytes:
        """The drawings of the parts, one below the other."""
        drawings = []
        for part in self.parts:
            own = part.source(source)
            kept = []
            for batch in batches:
                rows = np.isin(batch["id"], part.task.drawn(len(own)))
                if rows.any():
                    kept.append({name: value[rows] for name, value in self._predictions(part, batch).items()})
            drawings.append(part.task.draw(own, kept, data, threshold, most))
        return _stacked(drawings)


def _stacked(drawings: Sequence[bytes]) -> bytes:
    """A PNG of PNGs, one below the other, on white."""
    images = [Image.open(io.BytesIO(each)).convert("RGB") for each in drawings]
    size = max(image.width for image in images), sum(image.height for image in images)
    whole, top, content = Image.new("RGB", size, "white"), 0, io.BytesIO()
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    whole.save(content, "PNG")
    return content.getvalue()
