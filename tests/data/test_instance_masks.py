"""Masks of objects: from the files to the batch, against maps of whole images, pixel by pixel."""

import json
from dataclasses import replace

import numpy as np
import pytest
from detection import coco, write_coco
from ml_collections import ConfigDict
from pycocotools import mask as reference

from morphism import frames
from morphism.data import id_maps, outlines, sources, survey, targets, windows
from morphism.data.annotations import Annotations
from morphism.data.checks import check_split
from morphism.data.derived import Subset, with_classes
from morphism.data.fingerprint import fingerprint
from morphism.data.outlines import Outlines
from morphism.data.pipeline import eval_batches, train_batches
from morphism.data.records import Outlined
from morphism.data.render import render_classes
from morphism.data.render_masks import render_masks, seen_pixels
from morphism.data.survey_text import describe
from morphism.data.windows import Window, whole
from morphism.errors import UserError, noting
from morphism.experiments.base import FIELDS, MASK_SIZE, get_base
from morphism.labels import IGNORE


def in_frame(pixels, box, cells):
    """The mask that frames.py defines, of a map of the canvas: a cell has the value of the pixel with its middle."""
    found = np.zeros((cells, cells), np.uint8)
    (x0, y0), (width, height) = frames.frame(box, cells)
    for row, column in np.ndindex(cells, cells):
        x, y = int(x0 + width * np.float32(column + 0.5)), int(y0 + height * np.float32(row + 0.5))
        if 0 <= y < pixels.shape[0] and 0 <= x < pixels.shape[1]:
            found[row, column] = pixels[y, x]
    return found


def random_window(rng, size):
    """A resize, a zoom out, a jittered scale, a crop or a square; flipped or not."""
    canvas = tuple(rng.integers(20, 140, 2).tolist())
    resized = tuple(max(1, side - int(rng.integers(15))) for side in canvas)
    larger = tuple(1 + int(side * rng.uniform(0.4, 3)) for side in size)
    drawn = (
        lambda: Window(whole(size), resized, canvas),
        lambda: Window(windows.zoom_out(size, rng, 1.0), resized, canvas),
        lambda: windows.scale_jitter(size, canvas, rng, (0.3, 3.0)),
        lambda: windows.random_crop(size, larger, canvas, rng),
        lambda: Window(windows.random_resized_crop(size, (0.08, 1), (0.5, 2), rng), canvas, canvas),
        lambda: windows.center_crop(size, min(canvas) + int(rng.integers(20)), min(canvas)),
    )[rng.integers(6)]()
    return replace(drawn, flip=bool(rng.random() < 0.5))


def random_objects(rng, size):
    """Outlines and boxes of polygons of all sizes, some beyond the image, and of scattered pixels."""
    found = []
    while not found:
        for _ in range(rng.integers(1, 6)):
            corners = (rng.random((rng.integers(3, 8), 2)) * 1.3 - 0.15) * size[::-1]
            center = rng.random(2) * size[::-1]
            corners = center + (corners - center) * rng.choice([0.2, 1])
            low, high = np.clip(corners.min(axis=0), 0, None), np.minimum(corners.max(axis=0), size[::-1])
            counts = outlines.read([corners.ravel().tolist()], size).counts
            if rng.random() < 0.3:
                counts = id_maps.outlines_of((rng.random(size) < 0.4).astype(np.uint8), np.array([1]))[0]
            if (high > low).all() and counts:
                found.append((counts, (*low, *high)))
    return Outlines.of(counts for counts, _ in found), np.array([box for _, box in found], np.float32)


@pytest.mark.parametrize("seed", range(120))
def test_masks_are_cut_from_the_map_of_each_object_through_any_window(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(5, 90, 2).tolist())
    window, cells = random_window(rng, size), int(rng.integers(1, 40))
    known, boxes = random_objects(rng, size)
    maps = [outlines.mask(known[row], size) for row in range(len(known))]
    canvases = [render_classes(each, window, fill=0) for each in maps]
    seen = seen_pixels(known.runs(), size, window)
    np.testing.assert_array_equal(seen > 0, [canvas.any() for canvas in canvases])

    kept = np.flatnonzero(windows.is_seen(boxes, window))
    placed = windows.placed(boxes[kept], window)
    found = render_masks(known.runs().take(kept), size, window, placed, cells)
    assert found.shape == (len(kept), cells, cells) and found.dtype == np.uint8
    for mask, row, box in zip(found, kept, placed, strict=True):
        np.testing.assert_array_equal(mask, in_frame(canvases[row], box, cells))


def test_run_lengths_of_a_map_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(150):
        count = int(rng.integers(1, 6))
        numbers = np.kron(rng.integers(0, count + 1, rng.integers(1, 9, 2)), np.ones(rng.integers(1, 9, 2), int))
        wanted = rng.permutation(count + 2)[: rng.integers(1, count + 3)]
        found = id_maps.outlines_of(numbers, wanted)
        for row, number in enumerate(wanted.tolist()):
            inside = numbers == number
            encoded = reference.encode(np.asfortranarray(inside, np.uint8))
            assert found[row] == (encoded["counts"] if inside.any() else b"")
            x, y, width, height = reference.toBbox(encoded).tolist()
            assert outlines.box(found[row], numbers.shape) == (x, y, x + width, y + height)
        assert len(id_maps.outlines_of(numbers, np.zeros(0, int))) == 0
        np.testing.assert_array_equal(found.runs().areas, [(numbers == number).sum() for number in wanted])


def test_outlines_are_taken_in_any_order():
    rng = np.random.default_rng(1)
    each = [rng.bytes(int(length)) for length in rng.integers(0, 5, 30)]
    whole = Outlines.of(each)
    for rows in (np.arange(30), np.arange(5, 12), np.zeros(0, int), rng.permutation(30), rng.integers(0, 30, 50)):
        part = whole.take(rows)
        assert [part[row] for row in range(len(part))] == [each[row] for row in rows]
    part = whole.part(3, 9)
    assert [part[row] for row in range(len(part))] == each[3:9]


class Things:
    """Four rectangles with a hole, and the number of each as its class; `known` says whose outlines are."""

    classes = tuple("abcd")
    targets = dict.fromkeys(("boxes", "masks"), classes) | {"segmentation": (*"abcd", "ground")}
    sizes = np.array([(120, 160), (160, 120), (64, 64), (300, 90)], np.int32)

    def __init__(self, known=(True,) * 4, outlined=True):
        self.known, self.outlined = known, outlined

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index].tolist()
        boxes = [(x, y, x + width // 3, y + height // 4) for y in (9, height // 2) for x in (7, width // 2)]
        numbers = np.full((height, width), 4, np.uint8)
        for label, (x0, y0, x1, y1) in enumerate(boxes):
            numbers[y0:y1, x0:x1] = label
            numbers[y0 + 4 : y1 - 5, x0 + 3 : x1 - 8] = 4
        none = np.zeros(4, bool)
        masks = id_maps.outlines_of(numbers, np.where(self.known, np.arange(4), 9))
        record = {
            "image": np.repeat(numbers[..., None] * 60, 3, axis=2),
            "name": f"record {index}",
            "annotations": Annotations(np.array(boxes, np.float32), np.arange(4), none, none, np.ones(4)),
            "segmentation": numbers,
        }
        return record | ({"masks": masks} if self.outlined else {})


RECIPES = {
    "shorter": ("canvas", {"image_size": 64, "max_size": 200}, {}),
    "zoomed, cropped": ("canvas", {"image_size": 80, "resize": "stretch"}, {"zoom_out": 0.5, "iou_crop": True}),
    "jittered": ("canvas", {"image_size": 72}, {"scale_jitter": (0.3, 2.0)}),
    "crop": ("crop", {"resize": "none", "crop": (80, 90), "scale": (0.6, 1.5)}, {}),
    "square": ("square", {"image_size": 64, "resize_size": 72}, {}),
}


def configured(rule, data, augment, cells=24):
    base = get_base("detection").copy_and_resolve_references()
    with base.unlocked():
        for task in FIELDS:
            of_task = get_base(task)
            for group in ("data", "augment"):
                for field, value in of_task[group].items():
                    if field not in base[group] or of_task.data.window_rule == rule:
                        base[group][field] = value
        base.batch_size, base.data.mask_size = 4, cells
        wanted = ("boxes", "masks", "segmentation")
        base.data.update(data | {"targets": wanted, "window_rule": rule, "max_boxes": 5})
        base.augment.update(augment)
    return base


@pytest.mark.parametrize("recipe", RECIPES)
def test_masks_boxes_and_classes_of_pixels_go_through_one_window(recipe):
    compared = 0
    for batch in train_batches(Things(), configured(*RECIPES[recipe]), start_step=0, stop_step=8):
        assert batch["masks"].shape == (4, 5, 24, 24) and batch["masks"].dtype == np.uint8
        for row, slot in np.ndindex(4, 5):
            label = batch["classes"][row, slot]
            canvas = batch["segmentation"][row] == label if label >= 0 else np.zeros((1, 1), bool)
            assert label < 0 or canvas.any()
            expected = in_frame(canvas, batch["boxes"][row, slot], 24)
            np.testing.assert_array_equal(batch["masks"][row, slot], expected)
            compared += label >= 0
    assert compared > 60


def test_an_unknown_mask_is_ignored_and_an_object_is_dropped_with_the_last_pixel_of_its_mask():
    config = configured(*RECIPES["square"])
    for source in (Things(known=(True, False, True, True)), Things(outlined=False)):
        for batch in train_batches(source, config, start_step=0, stop_step=4):
            for label, mask in zip(batch["classes"].ravel(), batch["masks"].reshape(-1, 24, 24), strict=True):
                known = label >= 0 and source.outlined and source.known[label]
                assert (mask == IGNORE).all() if label >= 0 and not known else (mask < 2).all()

    record, hole = Things()[0], Window((30, 18, 40, 30), (20, 20), (20, 20))  # within the hole of the first rectangle
    size, masks, boxes = (120, 160), targets.get("masks"), targets.get("boxes")
    assert boxes.kept(record["annotations"], hole, np.arange(4)).tolist() == [0]
    truth = masks.read(record, size, Things(), 0)
    assert masks.kept(truth, hole, np.arange(4)).tolist() == []
    assert masks.kept(truth, Window(whole(size), size, size), np.array([3, 1])).tolist() == [3, 1]
    unknown = masks.read(Things(known=(False,) * 4)[0], size, Things(), 0)
    assert masks.kept(unknown, hole, np.arange(4)).tolist() == [0, 1, 2, 3]


def test_a_deformed_image_has_no_masks_and_evaluation_takes_them_from_the_source():
    config = configured("crop", {"resize": "none", "crop": (80, 90)}, {"elastic": 3.0})
    config.data.targets = ("masks",)
    with pytest.raises(UserError, match="^config.augment.elastic: masks cannot be deformed with their image; set it"):
        next(train_batches(Things(), config, start_step=0, stop_step=1))
    assert "masks" not in next(eval_batches(Things(), configured(*RECIPES["shorter"]), batch_size=1))


SQUARE = [[4.0, 4.0, 12.0, 4.0, 12.0, 12.0, 4.0, 12.0]]


def outlined():
    """The objects of `coco`, of 40 x 50, 30 x 20 and 40 x 50 pixels: a square, run lengths, and a square of two."""
    content = coco()
    first, crowd, third = content["annotations"]
    first |= {"segmentation": SQUARE, "bbox": [4, 4, 8, 8]}
    crowd["segmentation"] = {"size": [40, 50], "counts": [50 * 40 - 10, 10]}
    third |= {"segmentation": [[5, 5, 10, 5, 10, 10, 5, 10], [5, 5, 6, 6]], "bbox": [5, 5, 5, 5]}
    return content


def opened(root, wanted=("boxes", "masks"), split="train", kind="coco", **changes):
    data = {"source": f"{kind}:{root}", "data_dir": "", "val_fraction": 0.0, "split_seed": 0, "targets": wanted}
    return sources.load(ConfigDict(data | changes), split)


def test_coco_has_masks_only_where_they_are_asked_for(tmp_path):
    root = write_coco(tmp_path, outlined())
    source, plain = opened(root), opened(root, ("boxes",))
    assert isinstance(source, Outlined) and list(source.targets) == ["boxes", "masks"]
    assert list(plain.targets) == ["boxes"] and plain.store.outlines is None and "masks" not in plain[0]
    assert "odd outlines" not in plain.oddities
    seven = source.image_ids.tolist().index(7)
    expected = np.zeros((30, 20), np.uint8)
    expected[4:12, 4:12] = 1
    for found in (source.masks(seven), source[seven]["masks"]):
        np.testing.assert_array_equal(outlines.mask(found[0], (30, 20)), expected)
        assert len(found) == len(source.annotations(seven)) == 2
    ids = opened(root, kind="coco_by_id")
    assert ids.masks(seven).counts == source.masks(seven).counts and len(ids.targets["masks"]) == 90


def test_odd_outlines_are_counted_and_one_that_cannot_be_read_is_an_error(tmp_path):
    content = outlined()
    first, crowd, third = content["annotations"]
    assert "objects with polygons of fewer than 3 points" in opened(write_coco(tmp_path, content)).oddities
    first["segmentation"] = [[4.1, 4.1, 4.2, 4.1, 4.2, 4.2]]  # between the middles of pixels
    crowd["segmentation"] = []
    third["bbox"] = [8, 5, 5, 5]
    source = opened(write_coco(tmp_path, content))
    for rule in (
        "1 objects without an outline (their masks are unknown), first annotation 2",
        "1 outlines without a pixel (their masks are unknown), first annotation 1",
        "1 outlines more than 2 pixels out of their boxes (kept), first annotation 3",
    ):
        assert rule in source.oddities
    assert source.store.outlines.known.sum() == 1
    crowd["segmentation"] = {"size": [50, 40], "counts": [2000]}
    write_coco(tmp_path, content)
    with pytest.raises(UserError, match="train2017.json: annotation 2 has a segmentation that cannot be read: its run"):
        opened(tmp_path)
    with noting() as notes:
        opened(tmp_path)
    assert len(notes) == 1 and len(opened(tmp_path, ("boxes",))) == 3
    write_coco(tmp_path)  # without any outline
    assert list(opened(tmp_path).targets) == ["boxes"]


def test_outlines_follow_their_boxes_through_parts_and_renamed_classes(tmp_path):
    content = outlined()
    content["annotations"].insert(
        0, {"id": 9, "image_id": 7, "category_id": 3, "bbox": [3, 3, 0, 4], "segmentation": SQUARE}
    )
    source = opened(write_coco(tmp_path, content))
    assert len(source.store.outlines) == len(source.store.flat) == 3  # the thin one is dropped
    part, renamed = Subset(source, np.array([2, 1, 1])), with_classes(source, ("toothbrush", "tram", "car"), "")
    for view, indices in ((part, [2, 1, 1]), (renamed, [0, 1, 2])):
        assert isinstance(view, Outlined) and list(view.targets) == ["boxes", "masks"]
        for index, own in enumerate(indices):
            assert view.masks(index).counts == source.masks(own).counts == view.store.masks(index).counts
            assert view[index]["masks"].counts == source.masks(own).counts
    assert renamed.targets["masks"] == renamed.classes


def test_a_fingerprint_covers_outlines_where_they_are_learned(tmp_path):
    both = ("boxes",), ("boxes", "masks")
    write_coco(tmp_path, outlined())
    before = [fingerprint(opened(tmp_path, wanted)) for wanted in both]
    content = outlined()
    content["annotations"][0]["segmentation"] = [[4.0, 4.0, 12.0, 4.0, 12.0, 12.0]]
    write_coco(tmp_path, content)
    now = [fingerprint(opened(tmp_path, wanted)) for wanted in both]
    assert before[0] == now[0] and before[1] != now[1]


def test_masks_of_scenes_are_of_visible_pixels_and_read_no_image():
    source, plain = opened("20x64", kind="scenes"), opened("20x64", ("boxes",), kind="scenes")
    hidden = 0
    for index in range(20):
        record, classes = source[index], source.segmentation(index)
        np.testing.assert_array_equal(classes, record["segmentation"])
        assert source.masks(index).counts == record["masks"].counts and "masks" not in plain[index]
        np.testing.assert_array_equal(plain[index]["image"], record["image"])
        total = np.zeros((64, 64), np.uint8)
        objects = record["annotations"]
        for row, label in enumerate(objects.classes):
            mask = outlines.mask(record["masks"][row], (64, 64))
            x0, y0, x1, y1 = objects.boxes[row].astype(int)
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0 and (classes[mask == 1] == label + 1).all()
            total += mask
            hidden += outlines.box(record["masks"][row], (64, 64)) != tuple(objects.boxes[row].tolist())
        np.testing.assert_array_equal(total, classes > 0)
    assert hidden and list(plain.targets) == ["boxes", "segmentation"]


def test_a_split_must_have_what_masks_need(tmp_path):
    root = write_coco(tmp_path, outlined())
    config = get_base("detection").copy_and_resolve_references()
    with config.unlocked():
        config.data.mask_size = MASK_SIZE.default
    config.data.update(source=f"coco:{root}", targets=("boxes", "masks"))
    check_split(opened(root), config, "train", training=True)
    part = Subset(opened(root), np.flatnonzero(opened(root).image_ids == 8))  # an image without objects
    with pytest.raises(UserError, match="none of its objects has a mask; look at the outlines"):
        targets.get("masks").check(part, config.data, "coco train", True)
    with pytest.raises(UserError, match="train has no masks, which config.data.targets asks for, but boxes; give"):
        check_split(opened(root, ("boxes",)), config, "train", training=True)
    config.data.targets = ("masks",)
    with pytest.raises(UserError, match='config.data.targets: masks lie in boxes; add "boxes"'):
        targets.get("masks").check(opened(root), config.data, "coco train", True)


def test_the_check_of_a_source_counts_masks(tmp_path):
    content = outlined()
    content["annotations"][1]["segmentation"] = None
    source = opened(write_coco(tmp_path, content))
    report = survey.survey(source).report
    assert (report["masks"], report["unknown masks"], report["boxes"]) == (2, 1, 3)
    assert report["other classes"]["masks"] == {"car": 1, "toothbrush": 1}
    assert (report["mask area"]["least"], report["mask area"]["most"]) == (25, 64)
    assert report["mask / box area"]["most"] == 1
    assert json.loads(json.dumps(report))["masks"] == 2
    assert "2, 1 unknown" in describe("", report)
