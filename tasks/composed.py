"""A task of tasks: one network learns several at once, and each is evaluated as if it were alone.

The network returns {part: outputs of that part} and has what interprets them (Network). Scalars, metrics, predictions
and files of a part have its name and a slash in front: "objects/ap", "ground/miou".

    config.parts.<part>    the part's task, its weight, and its own values of fields: {"loss": {"name": "focal"}}
    config.augment         augmentation of the images, by the rules of the first part; they must leave the targets of
                           the other parts valid: only the host changes geometry, and no images are mixed
    config.best            such as "objects/ap"

An example may lack the truths of some parts: then it counts neither in their losses nor in their metrics.

The loss of a step is a sum over the parts. Each part's is the mean over all of its labelled examples, wherever they
are: a device or micro-batch with twice as many of them as another counts twice. So the number of devices changes
nothing where a task's loss is a mean of losses of single images; others are normalised within each device, as they are
alone. A part without a labelled example in the whole step adds nothing.

A network that returns "log_variance", {part: s}, learns the weights as well: a part then adds exp(-s) weight L + s / 2
(Kendall, Gal & Cipolla 2018, "Multi-task learning using uncertainty to weigh losses", equation 10, the form of a
classification; that of a regression has another factor of 1/2 in front of L, by which its s would be shifted).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped
from ml_collections import ConfigDict

from morphism.data import sources
from morphism.data.derived import carried
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.tasks.fusion import Fusion
from morphism.tasks.layers import Layer, Tag
from morphism.tasks.parts import Network, Part, check_together
from morphism.tasks.task import Annotating, Apply, Batch, File, Metrics, Predictions, RowMean, Task, Totals

Classes = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Composed(Annotating):
    """The task of a model whose outputs are {part: outputs}. tasks/task.py describes the members."""

    parts: tuple[Part, ...]
    fusion: Fusion | None = None
    name: ClassVar[str] = "multitask"

    @property
    def judged(self) -> tuple[Part | Fusion, ...]:
        """What is evaluated and shown: the parts, and what is fused of two of them."""
        return self.parts if self.fusion is None else (*self.parts, self.fusion)

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
    def image_score(self) -> str:
        return f"mean over {', '.join(f'{part.name} ({part.task.image_score})' for part in self.judged)}"

    @property
    def masks(self) -> tuple[str, ...]:
        return tuple("/".join(filter(None, (part.name, mask))) for part in self.judged for mask in part.task.masks)

    def _names(self, of: Callable[[Task], Sequence[str]]) -> tuple[str, ...]:
        return tuple(f"{part.name}/{name}" for part in self.judged for name in of(part.task))

    def check(self, config: ConfigDict) -> None:
        for part in self.parts:
            with part.explained(config):
                part.task.check(part.config(config))
        check_together(self.parts, config)
        self.mixed(config.augment)
        if self.fusion:
            self.fusion.check()

    def class_names(self, source: Source | sources.Classes) -> Classes:
        known = source.targets
        return {part.name: tuple(known[part.targets[0]]) for part in self.parts}

    def with_classes(self, source: Source, classes: Classes, where: str) -> Source:
        """Every target with the classes of the part that learns from it. Raises UserError for data without any."""
        if len(self.unjudged(source)) == len(self.judged):
            wanted = (f"{part.name} from {' and '.join(part.targets)}" for part in self.parts)
            raise UserError(
                f"{where} is data for {' and '.join(source.targets)}, but the task learns {', '.join(wanted)}; give "
                "data for one of these"
            )
        return sources.with_classes(
            source, {target: classes[part.name] for part in self.parts for target in part.targets}, where
        )

    def unjudged(self, source: Source) -> Sequence[str]:
        return [part.name for part in self.judged if not len(_carrying(source, part))]

    def check_classes(self, source: str, classes: Classes) -> None:
        for part in self.parts:
            part.task.check_classes(f"{source}, {part.name},", classes[part.name])
        if self.fusion:
            self.fusion.check_classes(classes)

    def resolve(self, config: ConfigDict, source: Source) -> ConfigDict:
        resolved = config.copy_and_resolve_references()
        own = {}
        for part in self.parts:
            with part.explained(config):
                own[part.name] = part.task.resolve(part.config(config), part.source(source))
        with resolved.unlocked(), resolved.ignore_type():  # a rule of class weights becomes numbers
            resolved.augment = own[self.parts[0].name].augment
            for name, each in own.items():
                resolved.parts[name].update({group: each[group] for group in ("augment", "loss") if group in each})
            if self.fusion:
                resolved.fusion.update(self.fusion.resolved(self.class_names(source)))
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
        return augmented | {own: batch[own] for own in ("valid", *first.keys) if own in batch}

    def shared(self, batch: Batch, mean: RowMean) -> Batch:
        """Adds share_<part> float32 [B]: 1 / `mean` of the part's labelled examples; 0 if there are none."""
        found = {}
        for part in self.parts:
            rows = mean(part.labelled(batch))
            found[f"share_{part.name}"] = jnp.full(len(batch["valid"]), jnp.where(rows > 0, 1 / rows, 0))
        return batch | found

    def loss(
        self, model: Network, outputs: dict[str, Any], batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The weighted sum of the parts' losses; per part "<part>/loss", without its weight, and its scalars.

        A part's loss and scalars here are those of its labelled examples, times their number over the mean number per
        micro-batch of all devices (`shared`): the mean over micro-batches and devices is one over examples.
        """
        total, scalars = jnp.zeros(()), {}
        for part in self.parts:
            own, share = part.batch(batch), batch[f"share_{part.name}"][0]
            value, more = part.task.loss(model.reader(part.name), outputs[part.name], own, part.config(config))
            count = share * jnp.sum(own["valid"])
            values = {name: count * each for name, each in {"loss": value, **more}.items()}
            weighted = part.weight * values["loss"]
            if "log_variance" in outputs:
                values["log_variance"] = outputs["log_variance"][part.name]
                weighted = _uncertain(weighted, values["log_variance"], share > 0)
            total += weighted
            scalars |= part.named(values)
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
            own = {name: value for name, value in own.items() if name != "id"}
            found |= part.named(own | {"labelled": part.labelled(batch)})
        return found if self.fusion is None else found | self.fusion.predict(found)

    def totals(self, outputs: dict[str, Any], predictions: dict[str, Array], batch: Batch) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for part in self.parts:
            own = part.task.totals(outputs[part.name], part.own(predictions), part.batch(batch))
            found |= part.named(own)
        return found

    @property
    def only_drawn(self) -> Sequence[str]:
        """Those of the parts, except for what is fused: that is evaluated."""
        fused = set() if self.fusion is None else {self.fusion.things.name, self.fusion.stuff.name}
        return [f"{part.name}/{name}" for part in self.parts if part.name not in fused for name in part.task.only_drawn]

    @property
    def exports(self) -> Mapping[str, str]:
        found = {name: each for part in self.parts for name, each in part.named(part.task.exports).items()}
        return found if self.fusion is None else found | self.fusion.exports

    def exported(self, model: Network, outputs: dict[str, Any], batch: Batch) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for part in self.parts:
            found |= part.named(part.task.exported(model.reader(part.name), outputs[part.name], batch))
        return found if self.fusion is None else found | self.fusion.exported(found)

    def _predictions(self, part: Part | Fusion, predictions: Predictions) -> Predictions:
        return {"id": predictions["id"], **part.own(predictions)}

    def _labelled(self, part: Part | Fusion, predictions: Predictions) -> tuple[Predictions, Bool[np.ndarray, "b"]]:
        """The part's predictions of the rows that count for it, and which rows these are."""
        found = self._predictions(part, predictions)
        rows = found.pop("labelled")
        # Large maps are copied only where some rows do not count.
        return (found if rows.all() else {name: value[rows] for name, value in found.items()}), rows

    def measured(self, config: ConfigDict, least: float) -> "Composed":
        parts = (replace(part, task=part.task.measured(part.config(config), least)) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def naming(self, top: int) -> "Composed":
        return replace(self, parts=tuple(replace(part, task=part.task.naming(top)) for part in self.parts))

    def init_metrics(self, source: Source) -> Metrics:
        """Per part with truths its task's metrics, and how many examples they count; how many examples there were."""
        unjudged = self.unjudged(source)
        known = [part for part in self.judged if part.name not in unjudged]
        return {
            "parts": {part.name: part.task.init_metrics(part.source(source)) for part in known},
            "labelled": dict.fromkeys((part.name for part in self.judged), 0),
            "examples": 0,
        }

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        own, labelled = dict(metrics["parts"]), dict(metrics["labelled"])
        for part in self.judged:
            known, rows = self._labelled(part, predictions)
            if rows.any():
                own[part.name] = part.task.update_metrics(own[part.name], known)
                labelled[part.name] += int(rows.sum())
        return metrics | {
            "parts": own,
            "labelled": labelled,
            "examples": metrics["examples"] + len(predictions["id"]),
        }

    def add_totals(self, metrics: Metrics, totals: Totals) -> Metrics:
        """A part without any truth has no metrics, and totals of 0."""
        own = dict(metrics["parts"])
        for part in self.parts:
            if part.name in own:
                own[part.name] = part.task.add_totals(own[part.name], part.own(totals))
        return metrics | {"parts": own}

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """The parts' summaries, each over the examples that carry its truths; -1 where there is none."""
        found: dict[str, Any] = {}
        for part in self.judged:
            empty = dict.fromkeys(part.task.headline, -1.0) | {"examples": 0}
            some = metrics["labelled"][part.name] > 0
            found |= part.named(part.task.summarise(metrics["parts"][part.name]) if some else empty)
        return found | {"examples": metrics["examples"]}

    def table(self, summary: dict[str, Any]) -> dict[str, float | int]:
        """The parts' tables; if not all examples carry the truths of a part, first how many do."""
        rows: dict[str, float | int] = {}
        for part in self.judged:
            own = part.own(summary)
            if own["examples"] < summary["examples"]:
                rows |= part.named({"examples": own["examples"]})
            rows |= part.named(part.task.table(own) if own["examples"] else {})
        return rows

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        return tuple(
            file._replace(name=f"{part.name}_{file.name}", title=f"{part.name}: {file.title}")
            for part in self.judged
            if metrics["labelled"][part.name]
            for file in part.task.files(metrics["parts"][part.name], part.source(source))
        )

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in self.judged:
            if metrics["labelled"][part.name]:
                found |= part.named(part.task.plots(metrics["parts"][part.name], part.own(summary)))
        return found

    def per_image(self, metrics: Metrics, predictions: Predictions) -> list[dict[str, Any]]:
        """Per image the mean score of the parts whose truths it carries, and what is known of each of these."""
        parts: list[dict[str, Any]] = [{} for _ in predictions["id"]]
        for part in self.judged:
            known, rows = self._labelled(part, predictions)
            if rows.any():
                found = part.task.per_image(metrics["parts"][part.name], known)
                for row, each in zip(np.flatnonzero(rows).tolist(), found, strict=True):
                    parts[row][part.name] = each
        scores = [[each["score"] for each in of.values() if each["score"] is not None] for of in parts]
        means = [round(sum(each) / len(each), 4) if each else None for each in scores]
        return [{"score": mean, "parts": of} for mean, of in zip(means, parts, strict=True)]

    def describe(self, predictions: Predictions, row: int, classes: Classes) -> dict[str, Any]:
        return {
            part.name: part.task.describe(self._predictions(part, predictions), row, part.classes(classes))
            for part in self.judged
        }

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        return [
            (part.name, *line)
            for part in self.judged
            for line in part.task.lines(described[part.name], threshold, most)
        ]

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        counts = [part.task.counts(described[part.name], threshold, most) for part in self.judged]
        return sum(shown for shown, _ in counts), sum(every for _, every in counts)

    def coco_results(
        self, described: dict[str, Any], classes: Classes
    ) -> Mapping[str, tuple[Sequence[str], list[dict[str, Any]]]]:
        return {
            f"{part.name}_{name}": found
            for part in self.parts
            for name, found in part.task.coco_results(described[part.name], part.classes(classes)).items()
        }

    def mask(self, predictions: Predictions, row: int, name: str = "") -> Shaped[np.ndarray, "h w"]:
        own, _, mask = name.partition("/")
        part = next(part for part in self.judged if part.name == own)
        return part.task.mask(self._predictions(part, predictions), row, mask)

    def found_layers(
        self, predictions: Predictions, row: int, classes: Classes, threshold: float, most: int
    ) -> Sequence[Layer]:
        """Those of the parts; what is fused stands for the parts that it is made of."""
        return [
            layer._replace(of=part.name) if isinstance(layer, Tag) else layer
            for part in self._pictured
            for layer in part.task.found_layers(
                self._predictions(part, predictions), row, part.classes(classes), threshold, most
            )
        ]

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        return [
            layer._replace(of=part.name) if isinstance(layer, Tag) else layer
            for part in self._pictured
            if all(target in source.targets for target in part.mains)
            for layer in part.task.true_layers(part.source(source), index)
        ]

    @property
    def _pictured(self) -> tuple[Part | Fusion, ...]:
        fused = {self.fusion.things.name, self.fusion.stuff.name} if self.fusion else set()
        return tuple(part for part in self.judged if part.name not in fused)


def _carrying(source: Source, part: Part | Fusion) -> Int[np.ndarray, "n"]:
    """The records that count for a part, as far as is known without reading them; none if `source` lacks a target."""
    known = all(target in source.targets for target in part.targets)
    return np.flatnonzero(known & np.all([carried(source, target) for target in part.mains], axis=0))


def _uncertain(loss: Float[Array, ""], log_variance: Float[Array, ""], present: Bool[Array, ""]) -> Float[Array, ""]:
    """A part's loss weighed by what the network has learned of its uncertainty; 0 for a part that is not `present`."""
    return jnp.exp(-log_variance) * loss + jnp.where(present, log_variance / 2, 0)
