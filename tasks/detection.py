"""Detection: objects in boxes. Trained by the detector's own losses, evaluated by COCO's and VOC's average precision.

A detector (models/ssd.py, faster_rcnn.py, yolox.py, ...) interprets its own outputs: models/detection.py, Detector.
"""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8
from ml_collections import ConfigDict

from morphism import augment as augmentation
from morphism.augment.colour import hsv_jitter, photometric_distortion
from morphism.augment.mosaic import GROUP, mosaic
from morphism.data.records import Source
from morphism.errors import UserError
from morphism.lengths import to_steps
from morphism.models.detection import SHARED, Detections, Detector
from morphism.ops.platform import per_example
from morphism.tasks import canvas, coco, detection_plots, detections, layers, tide, voc
from morphism.tasks.layers import Layer
from morphism.tasks.task import Apply, Batch, File, Metrics, Predictions, SingleTask, check_count


@dataclass(frozen=True)
class Detection(SingleTask):
    """The task of a model that is a Detector. tasks/task.py describes the members.

    judges: whether `summarise` has the kinds of errors (tasks/tide.py).
    has_loss: whether evaluation computes the loss of each image, for which batches hold its objects.
    least: detections with a lower score count neither in the confusion matrix nor for `image_score`.
    """

    judges: bool = False
    has_loss: bool = False
    least: float = detection_plots.SCORE
    name: ClassVar[str] = "detection"
    targets: ClassVar[tuple[str, ...]] = ("boxes",)
    higher_is_better: ClassVar[tuple[str, ...]] = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    views: ClassVar[tuple[str, ...]] = ("center",)
    masks: ClassVar[tuple[str, ...]] = ()

    @property
    def image_score(self) -> str:
        return f"F1 of boxes at IoU 0.5, of detections that score at least {self.least:g}"

    @property
    def headline(self) -> tuple[str, ...]:
        return (*self.higher_is_better, "loss") if self.has_loss else self.higher_is_better

    def configured(self, config: ConfigDict) -> "Detection":
        return replace(self, has_loss=config.data.eval_loss)

    def check(self, config: ConfigDict) -> None:
        data, augment = config.data, config.augment
        if data.balanced:
            raise UserError("config.data.balanced: an image of several objects has no single class; set it to False")
        if data.get("train_sizes") and data.resize != "shorter":
            raise UserError(
                f"config.data.train_sizes: resize={data.resize} makes every image as large as its canvas; set it to "
                '(), or resize to "shorter"'
            )
        if data.get("multi_scale") and (data.resize == "shorter" or data.canvases):
            raise UserError(
                "config.data.multi_scale: it is itself the canvas into which images are fitted; set "
                'config.data.resize to "fit" or "stretch", and canvases to ()'
            )
        mosaic = augment.get("mosaic", 0)  # as a part that is not the first, it may lack what it does not augment
        if augment.get("mixup", 0) > 0 and mosaic == 0:
            raise UserError("config.augment.mixup: only mosaics are mixed; set it to 0.0, or mosaic to a probability")
        if mosaic > 0 and (augment.zoom_out > 0 or augment.iou_crop or augment.scale_jitter):
            raise UserError(
                "config.augment.mosaic: it takes whole images; set zoom_out to 0.0, iou_crop to False and scale_jitter "
                "to ()"
            )

    def check_classes(self, source: str, classes: Sequence[str]) -> None:
        check_count(self, 1, source, classes)

    def resolve(self, config: ConfigDict, source: Sized) -> ConfigDict:
        """Adds augment.closing_from: the first draw of a record without mosaic, or -1.

        The last part begins with an epoch, the one that begins nearest to its length from the end, but not the first.
        """
        epoch = len(source) / config.batch_size  # in steps
        lengths = {"duration": config.duration, "augment.closing": config.augment.closing}
        total, closing = (to_steps(length, epoch, field) for field, length in lengths.items())
        # A record is drawn data.repeats times per epoch.
        first = max(round((total - closing) / epoch), 1) * config.data.repeats
        resolved = config.copy_and_resolve_references()
        with resolved.unlocked():
            resolved.augment.closing_from = first if closing else -1
        return resolved

    def misfit(self, model: nn.Module, outputs: Any, classes: int) -> str:
        """Logits may include the background, and YOLOv3's predictions hold five numbers before the classes."""
        if not isinstance(model, Detector):
            return "it is no detector: it has no loss and detect of its own"
        spare = {"cls_logits": (0, 1), "class_logits": (0, 1), "predictions": (5,)}
        for name in spare.keys() & outputs.keys():
            width = outputs[name].shape[-1]
            if width - classes not in spare[name]:
                return f"its {name} are {width} per box, the data has {classes} classes"
        return ""

    def mixed(self, config: ConfigDict) -> int:
        return GROUP if config.mosaic > 0 else 1

    def augment(self, key: Key[Array, ""], batch: Batch, config: ConfigDict, classes: int) -> Batch:
        """Mosaics and distorted colours, as configured, then `normalise`; other geometry is the host's."""
        keys = partial(augmentation.example_keys, key, batch)
        if config.mosaic > 0:
            batch = mosaic(keys("mosaic"), keys("mixup"), keys("flip"), batch, closed(batch, config), config)
        images = batch["image"].astype(jnp.float32)
        if config.photometric:
            # As if colours were distorted before zooming out: the ground around an image keeps the mean colour. A
            # mosaic has no such ground.
            ground = config.mosaic == 0
            inside = jax.vmap(partial(_within, images.shape[1:3]))(batch["image_box"]) if ground else None
            images = jax.vmap(photometric_distortion)(keys("jitter"), images, inside)
        if any(config.hsv):
            images = jax.vmap(partial(hsv_jitter, gains=config.hsv))(keys("jitter"), images)
        return batch | {"image": self.normalise(batch | {"image": images}, config)}

    def loss(
        self, model: Detector, outputs: dict[str, Array], batch: Batch, config: ConfigDict
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The sum of the detector's terms, and the terms; with mosaics also the boxes per image that had no slot."""
        terms = model.loss(outputs, batch | {"closed": closed(batch, config.augment)})
        total = sum(terms.values())
        if "left_out" in batch:
            terms |= {"boxes_left_out": jnp.mean(batch["left_out"].astype(jnp.float32))}
        return total, terms

    def prepared(self, config: ConfigDict, views: str) -> ConfigDict:
        return config

    def normalise(self, batch: Batch, config: ConfigDict) -> Float[Array, "b h w 3"]:
        """The normalised images; the rest of each canvas is config.fill, or zeros as in torchvision."""
        return canvas.normalise(batch, config, canvas.fill(config))

    def infer(
        self, apply: Apply, images: Float[Array, "b h w 3"], batch: Batch, data: ConfigDict, views: str
    ) -> dict[str, Array]:
        return apply(images, batch)

    def predict(self, model: Detector, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """boxes [B,D,4] in pixels of the decoded image; scores [B,D]; classes [B,D], -1 in unused slots; id [B].

        With `has_loss` also loss [B].
        """
        found = in_decoded(model.detect(outputs, batch["size"]), batch)
        return found | ({"loss": image_losses(model, outputs, batch)} if self.has_loss else {})

    def measured(self, config: ConfigDict, least: float) -> "Detection":
        return replace(self, judges=True, least=least)

    @property
    def exports(self) -> Mapping[str, str]:
        return {
            "boxes": "[B,D,4], x0, y0, x1, y1 in pixels of the input; 0 in unused slots",
            "scores": "[B,D], in 0..1, best first; 0 in unused slots",
            "classes": "[B,D], numbers of classes; -1 in unused slots",
            "valid": "[B,D], False for unused slots",
        }

    def exported(self, model: Detector, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        found = model.detect(outputs, batch["size"])
        return {name: found[name] for name in self.exports}

    def init_metrics(self, source: Source) -> Metrics:
        return {"source": source, "gathered": detections.init_metrics(), "loss": 0.0}

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        """Adds the predictions, with the annotations that the source has of the same images."""
        truths = [metrics["source"].annotations(int(index)) for index in predictions["id"]]
        gathered = detections.update_metrics(metrics["gathered"], predictions, truths)
        loss = float(np.sum(predictions["loss"], dtype=np.float64)) if self.has_loss else 0.0
        return metrics | {"gathered": gathered, "loss": metrics["loss"] + loss}

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """COCO's twelve numbers and its AP per class; VOC's AP by area, voc10_ap50, and by 11 points, voc07_ap50.

        In 0..1; -1 if there are no objects. "tide", if measured: tasks/tide.py. With `has_loss` the mean of the images'
        losses, each as if it were alone.
        """
        classes = metrics["source"].classes
        further = {"tide": tide.summarise(metrics["gathered"], classes)} if self.judges else {}
        found = coco.summarise(metrics["gathered"], classes)
        pascal = voc.summarise(metrics["gathered"], classes)
        examples = found.pop("images")
        further |= {"loss": metrics["loss"] / max(examples, 1)} if self.has_loss else {}
        return found | further | {"voc10_ap50": pascal["map"], "voc07_ap50": pascal["map_07"], "examples": examples}

    def table(self, summary: dict[str, Any]) -> dict[str, float]:
        """COCO's twelve numbers and VOC's two, TIDE's if measured, the AP per class; without what has no objects.

        Those would be -1. The AP itself is always there.
        """
        names = (*coco.NAMES, "voc10_ap50", "voc07_ap50", *(("loss",) if self.has_loss else ()))
        rows = {name: summary[name] for name in names} | tide.table(summary.get("tide"))
        rows |= {f"ap, {name}": value for name, value in summary["per_class"].items()}
        return {name: value for name, value in rows.items() if value >= 0 or name == "ap"}

    def files(self, metrics: Metrics, source: Source) -> tuple[File, ...]:
        found = coco.results(metrics["gathered"], source.category_ids, source.image_ids)
        return (File("detections", "detections, in COCO's format,", found),)

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        """Curves, confusion with the background, and AP and recall per class: tasks/detection_plots.py."""
        classes = metrics["source"].classes
        return detection_plots.of_boxes(metrics["gathered"], classes, summary["per_class"], self.least)

    def per_image(self, metrics: Metrics, predictions: Predictions) -> list[dict[str, Any]]:
        classes = metrics["source"].classes
        return detection_plots.per_image(metrics["gathered"], classes, detection_plots.box_confusion, self.least)

    def describe(self, predictions: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
        """All detections that evaluation counts, best first; boxes: x0, y0, x1, y1 in pixels of the decoded image."""
        numbers, scores, boxes = (predictions[name][row] for name in ("classes", "scores", "boxes"))
        return {
            "detections": [
                {
                    "class": classes[numbers[index]],
                    "score": round(float(scores[index]), 4),
                    "box": np.round(boxes[index].astype(float), 1).tolist(),
                }
                for index in ranked(predictions, row)
            ]
        }

    def lines(self, described: dict[str, Any], threshold: float, most: int) -> list[tuple[Any, ...]]:
        """Class, score and box of each detection that is `shown`, or "no detections"."""
        found = shown(described["detections"], threshold, most)
        return [(each["class"], each["score"], each["box"]) for each in found] or [("no detections",)]

    def counts(self, described: dict[str, Any], threshold: float, most: int) -> tuple[int, int]:
        return len(shown(described["detections"], threshold, most)), len(described["detections"])

    def coco_results(
        self, described: dict[str, Any], classes: Sequence[str]
    ) -> Mapping[str, tuple[Sequence[str], list[dict[str, Any]]]]:
        """Boxes are x, y, width, height; masks are `segmentation`."""
        return {"detections": (classes, [_coco_result(each, classes) for each in described["detections"]])}

    def mask(self, predictions: Predictions, row: int, name: str = "") -> UInt8[np.ndarray, "h w"]:
        raise KeyError(name)

    def found_layers(
        self, predictions: Predictions, row: int, classes: Sequence[str], threshold: float, most: int
    ) -> Sequence[Layer]:
        described = self.describe(predictions, row, classes)["detections"]
        return (layers.of_detections(classes, shown(described, threshold, most)),)

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        found = source[index].get("annotations")
        return () if found is None else (layers.of_objects(source.classes, found),)


def ranked(predictions: Predictions, row: int) -> list[int]:
    """The used slots of an image, best first."""
    numbers = predictions["classes"][row]
    return [index for index in np.argsort(-predictions["scores"][row], kind="stable").tolist() if numbers[index] >= 0]


def in_decoded(found: Detections, batch: Batch) -> dict[str, Array]:
    """Detections on canvases as `predict` returns them: boxes in pixels of the decoded images, class -1 if unused."""
    scale = (batch["original_size"] / batch["size"])[:, ::-1]
    return {
        "boxes": found["boxes"] * jnp.tile(scale, 2)[:, None],
        "scores": found["scores"],
        "classes": jnp.where(found["valid"], found["classes"], -1),
        "id": batch["id"],
    }


def _coco_result(each: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    x0, y0, x1, y1 = each["box"]
    box = [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)]
    found = {"category_id": classes.index(each["class"]) + 1, "bbox": box, "score": each["score"]}
    return found | ({"segmentation": each["mask"]} if "mask" in each else {})


def image_losses(model: Detector, outputs: dict[str, Any], batch: Batch) -> Float[Array, "b"]:
    """The sum of the detector's terms for each image alone, without the L1 loss of YOLOX's last epochs."""
    shared = {name: outputs[name] for name in SHARED if name in outputs}
    own = {name: value for name, value in outputs.items() if name not in shared}
    truths = {name: value for name, value in batch.items() if name != "image"}
    truths["closed"] = jnp.zeros(len(batch["valid"]), bool)

    def example(own: dict[str, Any], truth: Batch) -> Float[Array, ""]:
        own, truth = jax.tree.map(lambda x: x[None], (own, truth))
        return sum(model.loss(own | shared, truth).values())

    return per_example(example)(own, truths)


def closed(batch: Batch, config: ConfigDict) -> Bool[Array, "b"]:
    """The examples from draw config.closing_from on (`resolve`), which have neither mosaic nor mixup; none if it is -1.

    Whether an example is closed depends only on its own draw. `config` is config.augment.
    """
    return (batch["draw"] >= config.closing_from) & (config.closing_from >= 0)


def shown(detections: list[dict[str, Any]], threshold: float, most: int) -> list[dict[str, Any]]:
    """The first `most` of `describe`'s detections with a score of at least `threshold`, which people are shown."""
    return [each for each in detections if each["score"] >= threshold][:most]


def _within(size: tuple[int, int], box: Float[Array, "4"]) -> Bool[Array, "h w"]:
    """Which pixels have their centre in the box."""
    rows, columns = (jnp.arange(side) + 0.5 for side in size)
    return ((rows > box[1]) & (rows < box[3]))[:, None] & ((columns > box[0]) & (columns < box[2]))[None, :]
