"""Instance segmentation: objects in boxes, each with a mask. Evaluated as detection is, and by COCO's AP of masks.

The device predicts a mask of few cells per box; the host pastes it into the decoded image (tasks/paste.py). With
config.metrics.medical objects are also judged one by one, as papers on nuclei do (tasks/nuclei.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from morphism.data.records import Source
from morphism.models.detection import Detector
from morphism.tasks import coco, detection_plots, detections, layers, nuclei, paste, tide
from morphism.tasks.detection import Detection, ranked
from morphism.tasks.layers import Layer
from morphism.tasks.task import Batch, Metrics, Predictions

NAMES = tuple(f"mask_{name}" for name in coco.NAMES)


@dataclass(frozen=True)
class Instances(Detection):
    """The task of a model that is a Detector with a mask head. tasks/task.py describes the members.

    score: detections with a lower score do not count for tasks/nuclei.py; None: its measures are left out.
    """

    score: float | None = None
    name: ClassVar[str] = "instances"
    targets: ClassVar[tuple[str, ...]] = ("boxes", "masks")
    higher_is_better: ClassVar[tuple[str, ...]] = ("mask_ap", "mask_ap50", "mask_ap75", *Detection.higher_is_better)

    @property
    def image_score(self) -> str:
        return super().image_score.replace("boxes", "masks")

    def misfit(self, model: nn.Module, outputs: Any, classes: int) -> str:
        wrong = super().misfit(model, outputs, classes)
        if wrong:
            return wrong
        found = jax.eval_shape(model.detect, outputs, jax.ShapeDtypeStruct((1, 2), np.int32))
        return "" if "masks" in found else "it finds boxes without masks"

    def predict(self, model: Detector, outputs: dict[str, Array], batch: Batch) -> dict[str, Array]:
        """As Detection's, with masks [B,D,S,S], probabilities in the S x S parts of each box; original_size [B,2]."""
        masks = model.detect(outputs, batch["size"])["masks"]
        return super().predict(model, outputs, batch) | {"masks": masks, "original_size": batch["original_size"]}

    @property
    def exports(self) -> Mapping[str, str]:
        return super().exports | {"masks": "[B,D,S,S], the probability of each of S x S equal parts of a box"}

    def measured(self, config: ConfigDict, least: float) -> "Instances":
        return replace(super().measured(config, least), score=config.metrics.score if config.metrics.medical else None)

    def update_metrics(self, metrics: Metrics, predictions: Predictions) -> Metrics:
        updated, source = super().update_metrics(metrics, predictions), metrics["source"]
        found = [
            counts
            for row, used in enumerate(predictions["classes"] >= 0)
            for counts in outlines(predictions, row, np.flatnonzero(used))
        ]
        truths = [source.masks(int(index)) for index in predictions["id"]]
        gathered = detections.with_outlines(updated["gathered"], found, truths, predictions["original_size"])
        return updated | {"gathered": gathered}

    def summarise(self, metrics: Metrics) -> dict[str, Any]:
        """Detection's numbers; COCO's twelve of masks, "mask_ap", ..., and "mask_per_class", the AP of masks per class.

        In 0..1; -1 if there are no objects. Areas of objects are those that the data states. "nuclei" and
        "mask_tide", if measured: tasks/nuclei.py, tasks/tide.py.
        """
        found = coco.summarise(metrics["gathered"], metrics["source"].classes, of_outlines=True)
        del found["images"]
        if self.judges:
            found["tide"] = tide.summarise(metrics["gathered"], metrics["source"].classes, of_outlines=True)
        further = {} if self.score is None else {"nuclei": nuclei.summarise(metrics["gathered"], self.score)}
        return super().summarise(metrics) | {f"mask_{name}": value for name, value in found.items()} | further

    def table(self, summary: dict[str, Any]) -> dict[str, float | int]:
        """The numbers of masks, of boxes, and of nuclei if measured, without those for which there are no objects."""
        rows = {name: summary[name] for name in NAMES} | tide.table(summary.get("mask_tide"), "mask_")
        rows |= {f"mask_ap, {name}": value for name, value in summary["mask_per_class"].items()}
        known = {name: value for name, value in rows.items() if value >= 0 or name == "mask_ap"}
        return known | super().table(summary) | (nuclei.table(summary["nuclei"]) if "nuclei" in summary else {})

    def plots(self, metrics: Metrics, summary: dict[str, Any]) -> dict[str, Any]:
        """As Detection's, of masks; those of boxes have "boxes/" in front of their names."""
        boxes = super().plots(metrics, summary)
        gathered, classes = metrics["gathered"], metrics["source"].classes
        masks = detection_plots.of_masks(gathered, classes, summary["mask_per_class"], self.least)
        return masks | {f"boxes/{name}": each for name, each in boxes.items()}

    def per_image(self, metrics: Metrics, predictions: Predictions) -> list[dict[str, Any]]:
        classes = metrics["source"].classes
        return detection_plots.per_image(metrics["gathered"], classes, detection_plots.mask_confusion, self.least)

    def describe(self, predictions: Predictions, row: int, classes: Sequence[str]) -> dict[str, Any]:
        """As Detection's, with each mask as COCO's compressed run lengths, which pycocotools decodes."""
        found = super().describe(predictions, row, classes)["detections"]
        size = predictions["original_size"][row].tolist()
        masks = outlines(predictions, row, np.array(ranked(predictions, row), int))
        texts = [coco.text_of({"size": size, "counts": counts}) for counts in masks]
        return {"detections": [each | {"mask": text} for each, text in zip(found, texts, strict=True)]}

    def true_layers(self, source: Source, index: int) -> Sequence[Layer]:
        found = source[index].get("annotations")
        return () if found is None else (layers.of_objects(source.classes, found, source.masks(index)),)


def outlines(predictions: Predictions, row: int, slots: np.ndarray) -> list[bytes]:
    """COCO's compressed run lengths of the masks of an image's detections in `slots`."""
    masks, boxes = (predictions[name][row][slots] for name in ("masks", "boxes"))
    return list(paste.outlines(masks, boxes, tuple(predictions["original_size"][row].tolist())))
