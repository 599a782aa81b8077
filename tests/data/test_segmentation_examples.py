from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from morphism.data.canvases import canvases as canvases_of
from morphism.data.canvases import eval_note
from morphism.data.examples import largest_share
from morphism.data.pipeline import eval_batches, train_batches
from morphism.data.render import deform
from morphism.data.sources import scene_masks, scenes
from morphism.data.targets.segmentation import border_weights
from morphism.data.windows import elastic
from morphism.errors import UserError
from morphism.experiments.base import get_base


@dataclass(frozen=True)
class Images:
    """Record i is of sizes[i]: class 1, white, in a rectangle on class 0, grey; an eighth is ignored, black."""

    all_sizes: tuple[tuple[int, int], ...]
    classes = ("ground", "thing")
    targets = property(lambda self: {"segmentation": self.classes})
    oddities = ""

    @property
    def sizes(self):
        return np.array(self.all_sizes, np.int32)

    def __len__(self):
        return len(self.all_sizes)

    def __getitem__(self, index):
        height, width = self.all_sizes[index]
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 4 : width // 2] = 1
        mask[:, -(width // 8) :] = 255
        image = np.array([100, 255], np.uint8)[np.minimum(mask, 1)] * (mask != 255)
        return {"image": image.astype(np.uint8), "name": f"image {index}", "segmentation": mask}


MIXED = Images(((96, 160), (160, 96), (64, 64), (40, 80)))


@pytest.fixture
def config():
    config = get_base("segmentation")
    config.batch_size = 4
    config.data.update(image_size=48, max_size=120, crop=(64, 56), scale=(0.5, 2.0))
    return config


def assert_together(image, mask):
    """Well inside a class the image has its colour."""
    for label, colour in ((0, 100), (1, 255)):
        inside = ndimage.binary_erosion(mask == label, iterations=4)
        assert np.all(np.abs(image[inside].astype(int) - colour) < 30)


def test_image_and_mask_are_scaled_cropped_and_mirrored_together(config):
    shares = set()
    for batch in train_batches(MIXED, config, start_step=0, stop_step=12):
        assert batch["image"].shape == (4, 64, 56, 3) and batch["segmentation"].shape == (4, 64, 56)
        for row in range(4):
            image, mask, size = batch["image"][row], batch["segmentation"][row], batch["size"][row]
            assert_together(image, mask)
            assert np.all(mask[size[0] :] == 255) and np.all(mask[:, size[1] :] == 255)
            assert not image[size[0] :].any() and not image[:, size[1] :].any()
            shares.add(float((mask == 1).mean()))
    assert len(shares) > 20


def test_half_of_the_crops_are_mirrored(config):
    config.data.update(scale=(1.0, 1.0), resize="none", crop=(160, 160))
    left = [
        np.argmax((mask[: size[0], : size[1]] == 1).any(axis=0)) < 0.3 * size[1]
        for batch in train_batches(MIXED, config, start_step=0, stop_step=20)
        for mask, size in zip(batch["segmentation"], batch["size"], strict=True)
    ]
    assert 0.3 < np.mean(left) < 0.7


def test_crops_of_one_class_alone_are_drawn_again(config):
    config.data.update(resize="none", scale=(1.0, 1.0), crop=(24, 24))

    def alone(ratio):
        config.data.cat_max_ratio = ratio
        batches = list(train_batches(MIXED, config, start_step=0, stop_step=20))
        masks = np.concatenate([batch["segmentation"] for batch in batches])
        return np.mean([largest_share(mask) > 0.75 for mask in masks])

    assert alone(0.75) < 0.5 * alone(1.0)


@pytest.mark.parametrize("exact", ["auto", "always", "never"])
def test_evaluation_has_every_image_whole_and_its_mask_as_it_is_stored(config, exact):
    config.data.update(canvases=((48, 120), (120, 48)), exact=exact)
    seen = {}
    for batch in eval_batches(MIXED, config, batch_size=3):
        for row in np.flatnonzero(batch["valid"]):
            index, (height, width) = int(batch["id"][row]), batch["original_size"][row]
            mask = batch["segmentation"][row]
            np.testing.assert_array_equal(mask[:height, :width], MIXED[index]["segmentation"])
            assert np.all(mask[height:] == 255) and np.all(mask[:, width:] == 255)
            shown = batch["size"][row]
            assert (
                shown.tolist()
                == {(96, 160): [48, 80], (160, 96): [80, 48], (64, 64): [48, 48], (40, 80): [48, 96]}[
                    MIXED.all_sizes[index]
                ]
            )
            seen[index] = batch["image"].shape[1:3], mask.shape
        assert np.all(batch["segmentation"][~batch["valid"]] == 255)
    if exact != "never":
        sizes = [(48, 80), (80, 48), (48, 48), (48, 96)]
        assert seen == {index: each for index, each in enumerate(zip(sizes, MIXED.all_sizes, strict=True))}
        return
    assert seen == {
        0: ((48, 120), (96, 160)),
        1: ((120, 48), (160, 96)),
        2: ((48, 120), (96, 160)),
        3: ((48, 120), (96, 160)),
    }


@pytest.mark.parametrize(
    ("exact", "sizes", "canvases", "shared"),
    [
        ("auto", 8, (), False),
        ("auto", 9, (), True),
        ("auto", 8, ((400, 400),), False),
        ("auto", 9, ((400, 400),), True),
        ("always", 9, ((40, 40),), False),  # which would hold none of them
        ("never", 2, (), True),
        ("never", 1, (), False),
        ("never", 1, ((400, 400),), True),
    ],
)
def test_images_keep_their_size_where_a_split_has_few_sizes_and_sharing_is_reported(
    config, exact, sizes, canvases, shared
):
    config.data.update(resize="none", exact=exact, canvases=canvases)
    source = Images(tuple((300, 200 + index % sizes) for index in range(20)))
    shapes, groups = canvases_of(source, config.data, training=False)
    own = [shapes[group] == (*size, *size) for group, size in zip(groups, source.all_sizes, strict=True)]
    assert all(own) != shared
    note = eval_note(source, config.data)
    assert (f"images of {sizes} sizes share 1 canvas" in note) if shared else note == ""


def test_an_image_smaller_than_networks_can_halve_has_a_canvas_of_what_they_train_on(config):
    config.data.update(resize="none", exact="always", crop=(24, 480))
    shapes, _ = canvases_of(Images(((9, 9), (20, 300), (300, 20))), config.data, training=False)
    assert shapes == [(24, 32, 9, 9), (24, 300, 20, 300), (300, 32, 300, 20)]


def test_an_image_that_no_canvas_holds_is_evaluated_whole_on_another(config):
    config.data.update(canvases=((48, 80),), exact="never")
    seen = {}
    for batch in eval_batches(MIXED, config, batch_size=4):
        assert np.all(batch["size"] <= batch["image"].shape[1:3])
        seen |= {int(index): batch["image"].shape[1:3] for index in batch["id"][batch["valid"]]}
    assert seen == {0: (48, 80), 1: (80, 48), 2: (48, 80), 3: (64, 96)}
    assert "images of 2 sizes are larger than the canvases and get others: 80 x 48, 64 x 96" in eval_note(
        MIXED, config.data
    )


def test_without_canvases_there_is_one_that_holds_all(config):
    config.data.update(resize="none", exact="never")
    shapes, groups = canvases_of(MIXED, config.data, training=False)
    assert shapes == [(160, 160, 160, 160)] and groups.tolist() == [0] * 4
    uniform = Images(((36, 48),) * 3)
    assert canvases_of(uniform, config.data, training=False)[0] == [(36, 48, 36, 48)]


def test_a_later_start_and_more_processes_see_the_same_batches(config):
    config.augment.elastic = 3.0
    config.data.border_weight = 10.0
    whole = list(train_batches(MIXED, config, start_step=0, stop_step=4))
    halves = [
        list(train_batches(MIXED, config, start_step=3, stop_step=4, process_index=p, processes=2)) for p in (0, 1)
    ]
    for key, value in whole[3].items():
        np.testing.assert_array_equal(value, np.concatenate([half[0][key] for half in halves]))


def test_an_elastic_deformation_moves_image_and_mask_alike(config):
    config.augment.update(elastic=4.0, flip_probability=0.0)
    config.data.update(resize="none", scale=(1.0, 1.0), crop=(160, 160))
    batch = next(train_batches(MIXED, config, start_step=0, stop_step=1))
    for image, mask, index in zip(batch["image"], batch["segmentation"], batch["id"], strict=True):
        assert_together(image, mask)
        height, width = MIXED.all_sizes[index]
        assert np.any(mask[:height, :width] != MIXED[index]["segmentation"])


def test_a_deformation_of_nothing_changes_nothing():
    places = elastic((9, 11), 0.0, np.random.default_rng(0))
    x = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    np.testing.assert_array_equal(deform(x, places, nearest=False), x)
    np.testing.assert_array_equal(deform(x[..., 0], places, nearest=True), x[..., 0])


def test_weights_of_borders_are_the_papers_equation():
    """Against distances by brute force, on three objects."""
    mask = np.zeros((20, 24), np.uint8)
    mask[2:9, 2:8], mask[2:9, 10:16], mask[12:18, 5:20] = 1, 1, 2
    parts = [np.argwhere(part) for part in (mask[:, :9] == 1, (mask == 1) & (np.arange(24) >= 10), mask == 2)]
    expected = np.ones(mask.shape)
    for y, x in np.argwhere(mask == 0):
        d1, d2 = sorted(np.sqrt(((part - (y, x)) ** 2).sum(1)).min() for part in parts)[:2]
        expected[y, x] += 10 * np.exp(-((d1 + d2) ** 2) / 50)
    found = border_weights(mask.tobytes(), mask.shape, 10.0, 5.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_scenes_as_masks_have_a_background_and_no_boxes():
    source, scene = scene_masks.load("5x64", "train", ""), scenes.load("5x64", "train", "")
    assert source.classes == ("background", *scene.classes)
    for index in range(5):
        assert source[index].keys() == {"image", "name", "segmentation"}
        for name in ("image", "segmentation"):
            np.testing.assert_array_equal(source[index][name], scene[index][name])


def test_what_does_not_fit_is_named(config):
    class Wrong(Images):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            return record | {"segmentation": self.spoil(record["segmentation"])}

    config.data.canvases = ()
    for spoil, message in (
        (lambda mask: mask[:-1], "image . is .* x .* but its mask is .* x .*: masks must have their image's size"),
        (
            lambda mask: np.where(mask == 1, 2, mask).astype(np.uint8),
            "its mask has class 2 at row .*outside the 2 classes",
        ),
    ):
        source = Wrong(MIXED.all_sizes)
        Wrong.spoil = staticmethod(spoil)
        with pytest.raises(UserError, match=message):
            list(train_batches(source, config, start_step=0, stop_step=1))
