"""Average precision of masks against pycocotools; the task's predictions, files and descriptions."""

import contextlib
import io
import json
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_detections import draw_batches
from pycocotools import mask as reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from morphism import tasks
from morphism.data.annotations import Annotations
from morphism.data.outlines import Outlines
from morphism.experiments.base import get_base
from morphism.models.detection import Detector
from morphism.tasks import coco, detections
from morphism.tasks.instances import NAMES

CLASSES = ("a", "b", "c", "d", "never there")
SIZE = (620, 640)
instances = tasks.get("instances")


def blob(rng, box):
    """The outline of an ellipse in a box with a corner cut off; at times of nothing."""
    mask = np.zeros(SIZE, np.uint8, order="F")
    x0, y0, x1, y1 = np.clip(box, 0, (*SIZE[::-1], *SIZE[::-1]))
    y, x = np.arange(SIZE[0])[:, None] + 0.5, np.arange(SIZE[1]) + 0.5
    inside = ((x - (x0 + x1) / 2) / (x1 - x0 + 1e-9)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0 + 1e-9)) ** 2 < 0.3
    mask[inside & (x + y > x0 + y0 + rng.uniform(0, 0.4) * (x1 - x0)) & (x < x1) & (y < y1)] = rng.random() < 0.95
    return reference.encode(mask)["counts"]


def draw_outlined(seed):
    """Batches of detections and truths, and per batch the outlines of both."""
    rng = np.random.default_rng(seed)
    for batch in draw_batches(seed, images=16):
        found = [blob(rng, box) for box in batch["boxes"][batch["classes"] >= 0]]
        true = [
            Outlines.of(None if rng.random() < 0.15 else blob(rng, box) for box in boxes[classes >= 0])
            for boxes, classes in zip(batch["true_boxes"], batch["true_classes"], strict=True)
        ]
        yield batch, found, true


def gathered(batches):
    metrics, names = detections.init_metrics(), ("boxes", "classes", "crowd", "difficult", "area")
    for batch, found, true in batches:
        truths = [
            Annotations(*(batch[f"true_{name}"][row][used] for name in names))
            for row, used in enumerate(batch["true_classes"] >= 0)
        ]
        metrics = detections.update_metrics(metrics, batch, truths)
        metrics = detections.with_outlines(metrics, found, true, np.tile(SIZE, (len(truths), 1)))
    return metrics


class OrdinaryOverlap(COCOeval):
    """pycocotools' rules for crowds, for the truths that are `hard` too, but of these with the IoU of any object."""

    def computeIoU(self, imgId, catId):
        ious = super().computeIoU(imgId, catId)
        if not len(ious):
            return ious
        found = sorted(self._dts[imgId, catId], key=lambda d: -d["score"])[:100]
        for column, truth in enumerate(self._gts[imgId, catId]):
            if truth["hard"]:
                pairs = [d["segmentation"] for d in found], [truth["segmentation"]], [0]
                ious[:, column] = reference.iou(*pairs)[:, 0]
        return ious


def pycocotools(batches):
    """Its twelve numbers and its precision, from records written slot by slot."""
    images, truths, found = [], [], []
    for batch, found_outlines, true_outlines in batches:
        left = iter(found_outlines)
        for row, image in enumerate(batch["id"].tolist()):
            images.append({"id": image, "height": SIZE[0], "width": SIZE[1]})
            for slot, counts in zip(np.flatnonzero(batch["true_classes"][row] >= 0), true_outlines[row], strict=True):
                x0, y0, x1, y1 = batch["true_boxes"][row, slot].tolist()
                around = reference.frPyObjects([[x0, y0, x1, y0, x1, y1, x0, y1]], *SIZE)[0]
                crowd = bool(batch["true_crowd"][row, slot])
                ignored = crowd or bool(batch["true_difficult"][row, slot]) or not counts
                truths.append(
                    {
                        **{"id": len(truths) + 1, "image_id": image, "bbox": [x0, y0, x1 - x0, y1 - y0]},
                        "category_id": int(batch["true_classes"][row, slot]),
                        "segmentation": {"size": SIZE, "counts": counts} if counts else around,
                        "area": float(batch["true_area"][row, slot]),
                        "iscrowd": int(ignored),
                        "hard": ignored and not crowd,
                    }
                )
            for slot in np.flatnonzero(batch["classes"][row] >= 0):
                found.append(
                    {
                        "image_id": image,
                        "category_id": int(batch["classes"][row, slot]),
                        "segmentation": {"size": SIZE, "counts": next(left)},
                        "score": float(batch["scores"][row, slot]),
                    }
                )
    truth = COCO()
    categories = [{"id": index, "name": name} for index, name in enumerate(CLASSES)]
    truth.dataset = {"info": {}, "images": images, "annotations": truths, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = OrdinaryOverlap(truth, truth.loadRes(found), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats, run.eval["precision"][:, :, :, 0, -1]


@pytest.mark.parametrize("seed", range(3))
def test_the_twelve_numbers_of_masks_and_each_classs_are_pycocotools(seed):
    batches = list(draw_outlined(seed))
    metrics = gathered(batches)
    found = coco.summarise(metrics, CLASSES, of_outlines=True)
    stats, precision = pycocotools(batches)
    np.testing.assert_allclose([found[name] for name in coco.NAMES], stats, atol=1e-12)
    assert 0.05 < found["ap"] < 0.95 and found["ap"] != coco.summarise(metrics, CLASSES)["ap"]
    for index, name in enumerate(CLASSES[:-1]):
        assert found["per_class"][name] == pytest.approx(precision[:, :, index].mean(), abs=1e-12)
    assert found["per_class"]["never there"] == -1


def test_boxes_are_judged_as_without_outlines():
    batches = list(draw_outlined(1))
    metrics = detections.init_metrics() | gathered(batches)
    plain = {
        **metrics,
        "found": [{k: v for k, v in part.items() if k != "segmentation"} for part in metrics["found"]],
        "true": [{k: v for k, v in part.items() if k not in ("segmentation", "known")} for part in metrics["true"]],
    }
    assert coco.summarise(metrics, CLASSES) == coco.summarise(plain, CLASSES)


class Discs:
    """A source of three images with two discs each, the last without outlines."""

    classes, image_ids, category_ids = ("disc", "other"), (7, 8, 9), (1, 3)
    targets: ClassVar = {"boxes": classes, "masks": classes}
    boxes = np.float32([[4, 6, 24, 26], [30, 10, 58, 38]])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"image": np.full((40, 60, 3), 90, np.uint8), "name": f"{index}", "annotations": self.annotations(index)}

    def annotations(self, index):
        none = np.zeros(2, bool)
        return Annotations(self.boxes, np.array([0, 1], np.int32), none, none, np.array([314.0, 616.0]))

    def masks(self, index):
        return Outlines.of(None if index == 2 else self.disc(box) for box in self.boxes)

    def disc(self, box):
        y, x = np.mgrid[:40, :60] + 0.5
        (x0, y0, x1, y1) = box
        inside = (x - (x0 + x1) / 2) ** 2 + (y - (y0 + y1) / 2) ** 2 < (x1 - x0) ** 2 / 4
        return reference.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"]


class Finds(Detector):
    def detect(self, outputs, sizes):
        return outputs


def found_discs(scale):
    y, x = np.mgrid[:28, :28] - 13.5
    masks = np.broadcast_to(np.clip(0.5 + (14 - np.hypot(x, y)) / 2, 0, 1).astype(np.float32), (3, 3, 28, 28))
    boxes = np.concatenate([Discs.boxes, np.zeros((1, 4), np.float32)]) * scale
    return {
        "boxes": np.broadcast_to(boxes, (3, 3, 4)),
        "scores": np.broadcast_to(np.float32([0.75, 0.9, 0.0]), (3, 3)),
        "classes": np.broadcast_to(np.int32([0, 1, -1]), (3, 3)),
        "valid": np.broadcast_to([True, True, False], (3, 3)),
        "masks": masks,
    }


def predicted(scale=2):
    batch = {
        "id": np.arange(3),
        "size": np.tile(np.int32([40 * scale, 60 * scale]), (3, 1)),
        "original_size": np.tile(np.int32([40, 60]), (3, 1)),
    }
    found = instances.predict(Finds(), *jax.tree.map(jnp.asarray, (found_discs(scale), batch)))
    return jax.tree.map(np.asarray, found)


def test_discs_that_are_found_have_an_average_precision_of_1_in_boxes_and_masks():
    source = Discs()
    metrics = instances.update_metrics(instances.init_metrics(source), predicted())
    summary = instances.summarise(metrics)
    assert summary["ap"] == summary["mask_ap75"] == pytest.approx(1)
    assert 0.8 < summary["mask_ap"] < 0.99
    assert set(NAMES) < set(summary) and summary["examples"] == 3
    table = instances.table(summary)
    assert next(iter(table)) == "mask_ap" and "mask_ap, disc" in table and "mask_ap_large" not in table
    assert set(instances.headline) < set(summary) and set(instances.higher_is_better) < set(summary)
    (file,) = instances.files(metrics, source)
    results = json.loads(json.dumps(file.value))
    assert [(each["image_id"], each["category_id"]) for each in results] == [(i, k) for i in (7, 8, 9) for k in (1, 3)]
    assert reference.area(results[0]["segmentation"]) == pytest.approx(np.pi * 10**2, rel=0.1)


def test_masks_are_described_as_run_lengths_best_first():
    found = json.loads(json.dumps(instances.describe(predicted(), 0, ("disc", "other"))))["detections"]
    assert [(each["class"], each["score"]) for each in found] == [("other", 0.9), ("disc", 0.75)]
    mask = reference.decode(found[0]["mask"])
    assert mask.shape == (40, 60) and mask[24, 44] == 1 and mask[24, 4] == 0
    assert instances.lines({"detections": found}, 0.8, 9) == [("other", 0.9, [30.0, 10.0, 58.0, 38.0])]


def test_a_detector_without_a_mask_head_is_no_model_of_the_task():
    outputs = {name: np.asarray(value) for name, value in found_discs(1).items()}
    assert instances.misfit(Finds(), outputs, 2) == ""
    del outputs["masks"]
    assert instances.misfit(Finds(), outputs, 2) == "it finds boxes without masks"
    assert instances.misfit(nn.Dense(2), outputs, 2).startswith("it is no detector")


def test_the_configuration_is_that_of_detection_with_masks():
    config = get_base("instances")
    assert tasks.of(config) == instances and tuple(config.data.targets) == instances.targets
    assert config.best == "mask_ap" and config.data.max_boxes == get_base("detection").data.max_boxes
