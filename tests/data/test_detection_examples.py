from dataclasses import dataclass

import numpy as np
import pytest

from morphism.data import sources
from morphism.data.annotations import Annotations
from morphism.data.pipeline import eval_batches, train_batches
from morphism.data.windows import shorter
from morphism.errors import UserError
from morphism.experiments.base import get_base


@dataclass(frozen=True)
class Pictures:
    """Record i is of sizes[i], grey but for a white rectangle, its only object; the last record has none."""

    all_sizes: tuple[tuple[int, int], ...]
    difficult: bool = False
    classes = ("thing",)
    targets = property(lambda self: {"boxes": self.classes})

    @property
    def sizes(self):
        return np.array(self.all_sizes, np.int32)

    def __len__(self):
        return len(self.all_sizes)

    def annotations(self, index):
        height, width = self.all_sizes[index]
        box = [] if index == len(self) - 1 else [[width // 4, height // 4, width // 2, height // 2]]
        count = len(box)
        boxes = np.array(box, np.float32).reshape(-1, 4)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        difficult = np.full(count, self.difficult)
        return Annotations(boxes, np.zeros(count, np.int32), np.zeros(count, bool), difficult, area)

    def __getitem__(self, index):
        image = np.full((*self.all_sizes[index], 3), 100, np.uint8)
        for x0, y0, x1, y1 in self.annotations(index).boxes.astype(int):
            image[y0:y1, x0:x1] = 255
        return {"image": image, "name": f"picture {index}", "annotations": self.annotations(index)}


@pytest.fixture
def config():
    config = get_base("detection")
    config.batch_size = 4
    config.data.update(image_size=64, max_size=96, max_boxes=3, canvases=((64, 96), (96, 64)))
    return config


def white(image):
    """The box around what is white in a canvas."""
    rows, columns = np.nonzero((image > 230).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


MIXED = Pictures(((120, 160), (160, 120), (100, 150), (150, 110), (64, 64), (40, 80), (80, 50)))


def test_a_picture_goes_to_the_smallest_canvas_that_holds_it_and_its_boxes_go_with_it(config):
    batches = list(train_batches(MIXED, config, start_step=0, stop_step=12))
    assert {batch["image"].shape[1:3] for batch in batches} == {(64, 96), (96, 64)}
    for batch in batches:
        for row, index in enumerate(batch["id"]):
            height, width = MIXED.all_sizes[index]
            shown = batch["size"][row]
            assert min(shown) == 64 or max(shown) == 96
            assert abs(shown[0] / height - shown[1] / width) < 0.03
            assert (batch["original_size"][row] == (height, width)).all()
            image = batch["image"][row]
            assert not image[shown[0] :].any() and not image[:, shown[1] :].any()
            if index < len(MIXED) - 1:
                assert batch["classes"][row].tolist() == [0, -1, -1]
                np.testing.assert_allclose(batch["boxes"][row, 0], white(image), atol=1.5)
            else:
                assert batch["classes"][row].tolist() == [-1, -1, -1]


def test_half_of_the_pictures_are_mirrored_within_their_canvas(config):
    batches = list(train_batches(MIXED, config, start_step=0, stop_step=40))
    left = [
        batch["boxes"][row, 0, 0] < batch["size"][row, 1] * 0.3
        for batch in batches
        for row, index in enumerate(batch["id"])
        if index < len(MIXED) - 1
    ]
    assert 0.35 < np.mean(left) < 0.65


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_sees_every_picture_once_on_its_canvas(config, processes):
    parts = [
        list(eval_batches(MIXED, config, batch_size=4, process_index=p, processes=processes)) for p in range(processes)
    ]
    ids = np.concatenate([batch["id"][batch["valid"]] for part in parts for batch in part])
    assert sorted(ids) == list(range(len(MIXED)))
    for batches in zip(*parts, strict=True):
        assert len({batch["image"].shape for batch in batches}) == 1


def test_a_later_start_and_more_processes_see_the_same_batches(config):
    whole = list(train_batches(MIXED, config, start_step=0, stop_step=8))
    later = list(train_batches(MIXED, config, start_step=5, stop_step=8))
    halves = [
        list(train_batches(MIXED, config, start_step=5, stop_step=8, process_index=p, processes=2)) for p in (0, 1)
    ]
    for a, b, *parts in zip(whole[5:], later, *halves, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
            np.testing.assert_array_equal(a[key], np.concatenate([part[key] for part in parts]))


def test_ssds_crops_and_expansions_keep_boxes_on_their_objects(config):
    config.data.update(resize="stretch", image_size=80, canvases=())
    config.augment.update(zoom_out=0.5, iou_crop=True)
    seen = 0
    for batch in train_batches(MIXED, config, start_step=0, stop_step=20):
        assert batch["image"].shape == (4, 80, 80, 3)
        for row in np.flatnonzero(batch["classes"][:, 0] == 0):
            x0, y0, x1, y1 = batch["boxes"][row, 0]
            if min(x1 - x0, y1 - y0) >= 6:
                np.testing.assert_allclose((x0, y0, x1, y1), white(batch["image"][row]), atol=2)
                seen += 1
    assert seen > 30


def test_train_sizes_are_drawn_for_each_example(config):
    config.data.update(train_sizes=(32, 48, 64))
    sizes = {
        int(min(size)) for batch in train_batches(MIXED, config, start_step=0, stop_step=10) for size in batch["size"]
    }
    assert sizes == {32, 48, 64}


def test_difficult_objects_are_not_learnt_from(config):
    source = Pictures(MIXED.all_sizes, difficult=True)
    assert all((batch["classes"] == -1).all() for batch in train_batches(source, config, start_step=0, stop_step=4))


def test_what_does_not_fit_is_an_error_that_names_the_field(config):
    config.data.canvases = ((64, 64),)
    with pytest.raises(UserError, match="becomes .* x 96, which no canvas of config.data.canvases holds"):
        list(train_batches(MIXED, config, start_step=0, stop_step=1))
    for batch in eval_batches(MIXED, config, batch_size=4):  # whole, on canvases of their own
        for size, original in zip(batch["size"].tolist(), batch["original_size"].tolist(), strict=True):
            assert tuple(size) == shorter(original, 64, 96) or original == [1, 1]  # of a row that fills up the batch
    config.data.canvases = ()  # as the images need them
    assert all(min(each["image"].shape[1:3]) >= 64 for each in train_batches(MIXED, config, start_step=0, stop_step=4))
    scenes = get_base("detection")
    scenes.batch_size = 8
    scenes.data.update(source="scenes:20x64", image_size=64, max_boxes=1)
    with pytest.raises(UserError, match="boxes, more than config.data.max_boxes=1; raise that"):
        list(train_batches(sources.load(scenes.data, "train"), scenes, start_step=0, stop_step=4))


def test_multi_scale_batches_are_squares_drawn_anew_every_ten_steps(config):
    """Of a size that seed and step decide, with the boxes on their objects."""
    source = Pictures(((120, 160), (160, 120), (100, 150), (64, 64), (40, 80)))
    config.data.update(resize="fit", canvases=(), multi_scale=(64, 96, 128))
    whole = list(train_batches(source, config, start_step=0, stop_step=60))
    sides = [batch["image"].shape[1:3] for batch in whole]
    assert all(a == b and a in (64, 96, 128) for a, b in sides)
    decades = [set(sides[start : start + 10]) for start in range(0, 60, 10)]
    assert all(len(each) == 1 for each in decades) and len(set.union(*decades)) > 1
    for batch in whole[::10]:
        for image, boxes, classes in zip(batch["image"], batch["boxes"], batch["classes"], strict=True):
            for box in boxes[classes >= 0]:
                np.testing.assert_allclose(white(image), box, atol=2)
    later = next(iter(train_batches(source, config, start_step=37, stop_step=38)))
    np.testing.assert_array_equal(later["image"], whole[37]["image"])
    assert next(iter(eval_batches(source, config, batch_size=2)))["image"].shape[1:3] == (64, 64)


def test_pictures_of_mosaics_are_not_mirrored_on_the_host(config):
    config.augment.update(flip_probability=1.0, mosaic=1.0)
    batch = next(iter(train_batches(MIXED, config, start_step=0, stop_step=1)))
    plain = {int(id): image for id, image in zip(batch["id"], batch["image"], strict=True)}
    config.augment.update(flip_probability=0.0, mosaic=0.0)
    batch = next(iter(train_batches(MIXED, config, start_step=0, stop_step=1)))
    assert all(np.array_equal(image, plain[int(id)]) for id, image in zip(batch["id"], batch["image"], strict=True))


def test_the_ground_that_a_picture_is_zoomed_out_on_is_told_apart_from_it(config):
    """Also where it is cropped and flipped; what is grey in the canvas lies in `picture`, what is mean-coloured not."""
    config.augment.update(zoom_out=1.0, iou_crop=True)
    config.data.update(resize="stretch", canvases=(), image_size=64)
    middles = np.arange(64) + 0.5
    grounds = 0
    for batch in train_batches(MIXED, config, start_step=0, stop_step=8):
        for image, (x0, y0, x1, y1) in zip(batch["image"].astype(int), batch["image_box"], strict=True):
            rows, columns = (y0 + 1 < middles) & (middles < y1 - 1), (x0 + 1 < middles) & (middles < x1 - 1)
            inner = image[np.ix_(rows, columns)]
            assert (np.abs(inner - 100) <= 1).all(axis=-1).sum() + (inner > 101).all(axis=-1).sum() == inner[
                ..., 0
            ].size
            outside = ~((y0 - 1 < middles) & (middles < y1 + 1))[:, None] | ~((x0 - 1 < middles) & (middles < x1 + 1))
            assert (image[outside] == (123, 117, 104)).all()
            grounds += outside.any()
    assert grounds > 8
