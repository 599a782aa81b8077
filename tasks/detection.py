"""Detection: objects in boxes; the detector's own losses to train, COCO's and VOC's average precision to evaluate.

A detector (models/ssd.py, faster_rcnn.py, yolox.py, ...) reads its own outputs: models/detection.py's Detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from ml_collections import ConfigDict

from morphism import augment as augmentation
from morphism.augment.colour import hsv_jitter, photometric_distortion
from morphism.augment.mosaic import GROUP, mosaic
from morphism.data.records import Source
from morphism.lengths import to_steps
from morphism.models.detection import Detector
from morphism.tasks import canvas, coco, detections, voc
from morphism.tasks.task import Apply, Batch, File, Metrics, Predictions, check_count, see_once, spread

DRAWN = 12  # images of a split


@dataclass(frozen=True)
class Detection:
    """The task of a model that is a Detector. Members are described in tasks/task.py."""

    name: ClassVar[str] = "detection"
    targets: ClassVar[tuple[str, ...]] = ("boxes",)
    headline: ClassVar[tuple[str, ...]] = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    higher_is_better: ClassVar[tuple[str, ...]] = ("ap", "ap50", "ap75")
    views: ClassVar[tuple[str, ...]] = ("center",)
    masks: ClassVar[tuple[str, ...]] = ()

    def check_classes(self, source: str, classes: Sequence[str]) -> None:
        check_count(self, 1, source, classes)

    def resolve(self, config: ConfigDict, source: Source) -> ConfigDict:
        """Adds augment.closing_from, the draw of an example from which on there is no mosaic, or -1."""
        epoch = len(source) / config.batch_size  # in steps
        lengths = {"duration": config.duration, "augment.closing": config.augment.closing}
        total, closing = (to_steps(length, epoch, field) for field, length in lengths.items())
        # An epoch counts so many draws of a record.
        first = max(round((total - closing) / epoch), 0) * config.data.repeats
        resolved = config.copy_and_resolve_references()
        with resolved.unlocked():
            resolved.augment.closing_from = first if closing else -1
        return resolved

    def misfit(self, model: nn.Module, outputs: Any, classes: int) -> str:
        """Logits may count the background as well, and YOLOv3's predictions hold five numbers before the classes."""
        if not isinstance(model, Detector):
            return "it is no detector, with a loss and detect of its own"
        spare = {"cls_logits": (0, 1), "class_logits": (0, 1), "predictions": (5,)}
        for name in spare.keys() & outputs.keys():
            width = outputs[name].shape[-1]
            if width - classes not in spare[name]:
                return f"its {name} are {width} per box, the data has {classes} classes"
        return ""

    def mixed(self, config: ConfigDict) -> int:
        return GROUP if config.mosaic > 0 else 1

    def augment(self, key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
        """Mosaics, where the config says so, colours distorted, then `normalise`; other geometry is the host's.

        `closed` bool [B], beside what was there, marks the examples from draw config.closing_from on (`resolve`), which
        have neither mosaic nor mixup; none if that is -1. Whether one is closed depends on its own draw alone.
        """
        batch = batch | {"closed": (batch["draw"] >= config.closing_from) & (config.closing_from >= 0)}
        keys = partial(augmentation.example_keys, key, batch)
        if config.mosaic > 0:
            batch = mosaic(keys("mosaic"), keys("mixup"), keys("flip"), batch, batch["closed"], config)
        images = batch["image"].astype(jnp.float32)
        if config.photometric:
            # Colours change before a picture is zoomed out: the ground around it, which a mosaic has not, keeps its
            # mean.
            ground = config.mosaic == 0
            inside = jax.vmap(partial(_within, images.shape[1:3]))(batch["image_box"]) if ground else None
            images = jax.vmap(photometric_distortion)(keys("jitter"), images, inside)
        if any(config.hsv):
            images = jax.vmap(partial(hsv_jitter, gains=config.hsv))(keys("jitter"), images)
        return batch | {"image": self.normalise(batch | {"image": images}, config)}

    def loss(
        self, model: Detector, outputs: dict[str, Array], batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The sum of the detector's terms; and, where there are mosaics, how many boxes a picture had no slot for."""
        terms = model.loss(outputs, batch)
        told = {"boxes_left_out": jnp.mean(batch["left_out"].astype(jnp.float32))} if "left_out" in batch else {}
        return sum(terms.values()), terms | told

    def prepared(self, config: ConfigDict, views: str) -> ConfigDict:
        return config

    def normalise(self, batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
        """The normalised picture, and on the canvas around it config.fill, or zeros, as torchvision pads."""
        return canvas.normalise(batch, config, canvas.fill(config))

    def infer(
        self, apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str
    ) -> dict[str, Array]:
        return see_once(apply, images, batch, data, views)

    def predict(self, model: Detector, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """boxes [B,D,4] in pixels of the picture as decoded; scores [B,D]; classes [B,D], -1 in unused slots; id."""
        found = model.detect(outputs, batch["size"])
        scale = (batch["original_size"] / batch["size"])[:, ::-1]
        return {
            "boxes": found["boxes"] * jnp.tile(scale, 2)[:, None],
            "scores": found["scores"],
            "classes": jnp.where(found["valid"], found["classes"], -1),
            "id": batch["id"],
        }

    def init_metrics(self, source: Source) -> Metrics:
        return {"source": source, "gathered": detections.init_metrics()}

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        """Adds the source's annotations of the same pictures as well."""
        true = [metrics["source"].annotations(int(index)) for index in predictions["id"]]
        slots = max(map(len, true))

        def padded(name: str, fill: float = 0) -> np.ndarray:
            columns = [getattr(each, name) for each in true]
            spare = [[(0, slots - len(column))] + [(0, 0)] * (column.ndim - 1) for column in columns]
            return np.stack([np.pad(*each, constant_values=fill) for each in zip(columns, spare, strict=True)])

        truth = {
            "true_boxes": padded("boxes"),
            "true_classes": padded("classes", -1),
            "true_area": padded("area"),
            "true_crowd": padded("crowd"),
            "true_difficult": padded("difficult"),
        }
        return metrics | {"gathered": detections.update_metrics(metrics["gathered"], predictions | truth)}

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """COCO's twelve numbers and its AP of each class; of VOC voc10_ap50, the area, and voc07_ap50, eleven points.

        In 0..1, -1 where there is nothing to find.
        """
        classes = metrics["source"].classes
        found = coco.summarise(metrics["gathered"], classes)
        pascal = voc.summarise(metrics["gathered"], classes)
        examples = found.pop("pictures")
        return found | {"voc10_ap50": pascal["map"], "voc07_ap50": pascal["map_07"], "examples": examples}

    def table(self, summary: dict[str, Any]) -> dict[str, float]:
        """COCO's twelve numbers and VOC's two, then the AP of each class; without those that have nothing to find.

        Numbers that average over classes and sizes without objects would be -1. The AP itself is always there.
        """
        names = (*coco.NAMES, "voc10_ap50", "voc07_ap50")
        rows = {name: summary[name] for name in names}
        rows |= {f"ap, {name}": value for name, value in summary["per_class"].items()}
        return {name: value for name, value in rows.items() if value >= 0 or name == "ap"}

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        found = coco.results(metrics["gathered"], source.category_ids, source.image_ids)
        return (File("detections", "detections, in COCO's format,", found),)

    def describe(self, predictions: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
        """All detections that evaluation counts, best first; a box is x0, y0, x1, y1 in pixels of the decoded image."""
        numbers, scores, boxes = (predictions[name][row] for name in ("classes", "scores", "boxes"))
        order = [index for index in np.argsort(-scores, kind="stable") if numbers[index] >= 0]
        return {
            "detections": [
                {
                    "class": classes[numbers[index]],
                    "score": round(float(scores[index]), 4),
                    "box": np.round(boxes[index].astype(float), 1).tolist(),
                }
                for index in order
            ]
        }

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        """Class, score and box of each detection that is `shown`, or that there is none."""
        found = shown(described["detections"], threshold, most)
        return [(each["class"], each["score"], each["box"]) for each in found] or [("no detections",)]

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        return len(shown(described["detections"], threshold, most)), len(described["detections"])

    def mask(self, predictions: Predictions, row: int, name: str = "") -> np.ndarray:
        raise KeyError(name)

    def drawn(self, count: int) -> Sequence[int]:
        return spread(count, DRAWN)

    def draw(
        self, source: Source, batches: Sequence[Predictions], data: ConfigDict, threshold: float, most: int
    ) -> bytes:
        """Images with their objects, and those of their detections that are `shown`."""
        from morphism.tasks.drawing import detection as drawing

        found = []
        for batch in batches:
            for row, index in enumerate(batch["id"].tolist()):
                every = self.describe(batch, row, source.classes)["detections"]
                found.append((index, shown(every, threshold, most), every))
        return drawing.draw(source, sorted(found, key=lambda each: each[0]), threshold, data)


def shown(detections: list[dict[str, Any]], threshold: float, most: int) -> list[dict[str, Any]]:
    """What a person is shown of `describe`'s detections: at most `most`, of those that score `threshold` or more."""
    return [each for each in detections if each["score"] >= threshold][:most]


def _within(size: tuple[int, int], box: Float[Array, "4"]) -> Bool[Array, "h w"]:
    """Which pixels' middles lie in the box."""
    rows, columns = (jnp.arange(side) + 0.5 for side in size)
    return ((rows > box[1]) & (rows < box[3]))[:, None] & ((columns > box[0]) & (columns < box[2]))[None, :]
