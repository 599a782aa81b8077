import contextlib
import io
import json

import numpy as np
import pytest
from drawn_detections import draw_batches, gathered
from pycocotools import mask as reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from morphism.errors import UserError
from morphism.tasks import coco

CLASSES = ("a", "b", "c", "d", "never there")


class OrdinaryOverlap(COCOeval):
    """pycocotools' rules for crowds, for the truths that are `hard` too, but of these with the IoU of any object."""

    def computeIoU(self, imgId, catId):
        ious = super().computeIoU(imgId, catId)
        if not len(ious):
            return ious
        found = sorted(self._dts[imgId, catId], key=lambda d: -d["score"])[:100]
        for column, truth in enumerate(self._gts[imgId, catId]):
            if truth["hard"]:
                ious[:, column] = reference.iou([d["bbox"] for d in found], [truth["bbox"]], [0])[:, 0]
        return ious


def pycocotools(batches):
    """Its twelve numbers and its precision, from records written slot by slot."""
    images, truths, found = [], [], []
    for batch in batches:
        for row, image in enumerate(batch["id"].tolist()):
            images.append({"id": image})
            for slot in np.flatnonzero(batch["true_classes"][row] >= 0):
                x0, y0, x1, y1 = batch["true_boxes"][row, slot].tolist()
                truths.append(
                    {
                        "id": len(truths) + 1,
                        "image_id": image,
                        "category_id": int(batch["true_classes"][row, slot]),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": float(batch["true_area"][row, slot]),
                        "iscrowd": int(batch["true_crowd"][row, slot] or batch["true_difficult"][row, slot]),
                        "hard": bool(batch["true_difficult"][row, slot] and not batch["true_crowd"][row, slot]),
                    }
                )
            for slot in np.flatnonzero(batch["classes"][row] >= 0):
                x0, y0, x1, y1 = batch["boxes"][row, slot].tolist()
                found.append(
                    {
                        "image_id": image,
                        "category_id": int(batch["classes"][row, slot]),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "score": float(batch["scores"][row, slot]),
                    }
                )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": images,
        "annotations": truths,
        "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = OrdinaryOverlap(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats, run.eval["precision"][:, :, :, 0, -1]


@pytest.mark.parametrize("seed", range(4))
def test_the_twelve_numbers_and_each_classs_are_pycocotools(seed):
    batches = list(draw_batches(seed))
    found = coco.summarise(gathered(batches), CLASSES)
    stats, precision = pycocotools(batches)
    np.testing.assert_allclose([found[name] for name in coco.NAMES], stats, atol=1e-9)
    assert 0.05 < found["ap"] < 0.95 and found["images"] == 24
    for index, name in enumerate(CLASSES[:-1]):
        assert found["per_class"][name] == pytest.approx(precision[:, :, index].mean(), abs=1e-9)
    assert found["per_class"]["never there"] == -1


def test_more_than_a_hundred_detections_of_a_class_in_an_image_are_cut_as_pycocotools_cuts_them():
    rng = np.random.default_rng(0)
    (batch,) = draw_batches(5, images=4, batch=4)
    corners = rng.uniform(0, 100, (4, 250, 2))
    batch["boxes"] = np.concatenate([corners, corners + rng.uniform(5, 90, (4, 250, 2))], axis=-1).astype(np.float32)
    batch["classes"], batch["scores"] = np.zeros((4, 250), np.int32), rng.random((4, 250)).astype(np.float32)
    batch["boxes"][:, :20], batch["scores"][:, :20] = batch["true_boxes"][:, [0]], 0.01
    batch["true_classes"][:] = 0
    batch["true_crowd"][:] = False
    found = coco.summarise(gathered([batch]), CLASSES)
    np.testing.assert_allclose([found[name] for name in coco.NAMES], pycocotools([batch])[0], atol=1e-9)


ODD_AREAS = (0, -5, 1e10, 1e10 + 1, 1e11, np.inf, np.nan, 1024, 9216, np.nextafter(1024, 0), np.nextafter(9216, 1e5))


@pytest.mark.parametrize("seed", range(2))
def test_areas_are_put_into_ranges_as_pycocotools_puts_them_whatever_they_are(seed):
    batches, rng = list(draw_batches(seed)), np.random.default_rng(seed)
    for batch in batches:
        odd = rng.random(batch["true_area"].shape) < 0.6
        batch["true_area"][odd] = rng.choice(ODD_AREAS, odd.sum())
        corners = batch["boxes"][:, ::3]
        corners[..., 2:] = np.round(corners[..., :2]) + rng.choice([32, 96, 0, -3], corners[..., 2:].shape)
        corners[..., :2] = np.round(corners[..., :2])
    found = coco.summarise(gathered(batches), CLASSES)
    np.testing.assert_allclose([found[name] for name in coco.NAMES], pycocotools(batches)[0], atol=1e-9)


def one(boxes, true_boxes, crowd, difficult):
    """An image with detections of one class, the first of the highest score."""
    count = len(true_boxes)
    return {
        "id": np.array([0]),
        "boxes": np.array(boxes, float)[None],
        "scores": np.linspace(0.9, 0.1, len(boxes))[None],
        "classes": np.zeros((1, len(boxes)), int),
        "true_boxes": np.array(true_boxes, float)[None],
        "true_classes": np.zeros((1, count), int),
        "true_area": np.full((1, count), 500.0),
        "true_crowd": np.array(crowd, bool)[None],
        "true_difficult": np.array(difficult, bool)[None],
    }


def test_difficult_objects_and_crowds_need_not_be_found_and_do_not_cost():
    plain, other = [5, 5, 20, 15], [30, 5, 60, 35]
    within = [31, 6, 41, 16]  # a ninth of the other
    for crowd, difficult, boxes, expected in (
        ((0, 0), (0, 1), [plain], 1),  # a difficult object is not found
        ((0, 1), (0, 0), [plain], 1),  # nor a crowd
        ((0, 0), (0, 0), [plain], 0.505),  # but any other should be
        ((0, 0), (0, 1), [other, other, plain], 1),  # nor do detections of it cost, however many
        ((0, 1), (0, 0), [other, within, plain], 1),  # nor parts of a crowd
        ((0, 1), (0, 1), [other, within, plain], 1),  # a difficult one too
        ((0, 0), (0, 1), [within, plain], 0.5),  # but parts of a difficult object do
    ):
        batch = one(boxes, [plain, other], crowd, difficult)
        assert coco.summarise(gathered([batch]), ["a"])["ap"] == pytest.approx(expected, abs=1e-3)
        np.testing.assert_allclose(pycocotools([batch])[0][0], expected, atol=1e-3)


def test_without_a_single_detection_the_ap_is_0():
    batches = list(draw_batches(0))
    for batch in batches:
        batch["classes"][:] = -1
    found = coco.summarise(gathered(batches), CLASSES)
    assert found["ap"] == found["ar100"] == 0


def test_a_detection_that_is_no_number_is_refused_by_the_name_of_its_image():
    batches = list(draw_batches(0))
    batches[1]["boxes"][0, 0], batches[1]["classes"][0, 0] = np.nan, 0
    with pytest.raises(UserError, match="image 8 has a detection whose score or box is not finite"):
        gathered(batches)


def test_results_file_has_the_datasets_own_ids_and_cocos_boxes():
    batches = list(draw_batches(1))
    category_ids, image_ids = [1, 3, 7, 44, 90], np.arange(24) * 100 + 139
    results = json.loads(json.dumps(coco.results(gathered(batches), category_ids, image_ids)))
    first = batches[0]
    slots = np.flatnonzero(first["classes"][0] >= 0)
    x0, y0, x1, y1 = first["boxes"][0, slots[0]].astype(float)
    assert results[0]["image_id"] == 139
    assert results[0]["category_id"] == category_ids[first["classes"][0, slots[0]]]
    assert results[0]["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0])
    assert results[0]["score"] == pytest.approx(first["scores"][0, slots[0]])
    assert len(results) == sum((batch["classes"] >= 0).sum() for batch in batches)
