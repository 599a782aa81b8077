"""Truths of the same images that lie in sources of their own."""

import pickle

import numpy as np
import pytest
from detection import coco, write_coco
from masks import PATTERN, write_mask, write_masks

from morphism.data import sources
from morphism.data.derived import carried
from morphism.data.fingerprint import fingerprint
from morphism.data.pipeline import train_batches
from morphism.data.records import Masked, Outlined
from morphism.data.survey import survey
from morphism.errors import UserError
from morphism.experiments.base import get_base


@pytest.fixture
def roots(tmp_path):
    """Boxes of x, y and z; masks of x and y, and of another image."""
    masks = write_masks(tmp_path / "masks", splits={"train": "xyw"})
    for name, size in (("x", (40, 50)), ("y", (30, 20))):
        (masks / "images" / "train" / f"{name}.jpg").write_bytes(
            (write_coco(tmp_path / "coco") / "train2017" / f"{name}.jpg").read_bytes()
        )
        write_mask(masks / "masks" / "train" / f"{name}.png", np.resize(PATTERN, size))
    return f"coco:{tmp_path / 'coco'}", f"masks:{masks}"


def opened(*specs):
    return sources.load(sources.within("join:" + " + ".join(specs), "", masks=True), "train")


@pytest.mark.parametrize("order", [1, -1])
def test_records_have_the_truths_of_both_by_the_images_name(roots, order):
    source = pickle.loads(pickle.dumps(opened(*roots[::order])))
    boxes, masks = (sources.load(sources.within(spec, "", masks=True), "train") for spec in roots)
    assert isinstance(source, Outlined) and isinstance(source, Masked)
    assert dict(source.targets) == {**boxes.targets, **masks.targets}
    stems = "xyz" if order == 1 else "wxy"
    for index, stem in enumerate(stems):
        record = source[index]
        assert record["name"].endswith(f"{stem}.jpg")
        assert ("annotations" in record) == (stem in "xyz") and ("segmentation" in record) == (stem in "wxy")
        own = "xyz".find(stem)
        if own >= 0:
            np.testing.assert_array_equal(source.annotations(index).boxes, boxes.annotations(own).boxes)
            np.testing.assert_array_equal(record["annotations"].boxes, boxes.annotations(own).boxes)
            np.testing.assert_array_equal(source.box_counts[index], boxes.box_counts[own])
        else:
            assert not len(source.annotations(index)) and not source.box_counts[index].any()
        assert carried(source, "boxes")[index] == (own >= 0)
        assert carried(source, "segmentation")[index] == (stem != "z")
        if stem == "z":
            assert (source.segmentation(index) == 255).all()
            assert source.segmentation(index).shape == tuple(source.sizes[index])
        if stem in "wxy":
            expected = masks["wxy".index(stem)]["segmentation"]
            np.testing.assert_array_equal(record["segmentation"], expected)
            np.testing.assert_array_equal(source.segmentation(index), expected)
    assert "1 images without its truths; " in source.oddities and "1 images that are not used" in source.oddities


def test_batches_say_which_truths_each_example_has(roots):
    config = get_base("multitask", parts={"objects": "detection", "ground": "segmentation"})
    config.batch_size = 3
    config.data.update(image_size=32, max_size=32, max_boxes=4)
    source = opened(*roots)
    batch = next(iter(train_batches(source, config, start_step=0, stop_step=1)))
    lacks = {0: False, 1: False, 2: True}
    assert batch["has_segmentation"].tolist() == [not lacks[index] for index in batch["id"].tolist()]
    assert batch["has_boxes"].all()
    assert survey(source).report["records"] == 3
    assert fingerprint(source)["sha256"] != fingerprint(source.source)["sha256"]


def test_what_cannot_be_joined_is_refused(roots, tmp_path):
    with pytest.raises(UserError, match="boxes in more than one of its sources"):
        opened(roots[0], roots[0])
    with pytest.raises(UserError, match="write join:coco:/data/a"):
        opened(roots[0])
    with pytest.raises(UserError, match="has no image of the names of coco:.*, such as 'x'"):
        opened(roots[0], f"masks:{write_masks(tmp_path / 'other', splits={'train': 'pq'})}")
    content = coco()
    content["images"][1]["file_name"] = "deep/x.jpg"
    (tmp_path / "coco" / "train2017" / "deep").mkdir()
    (tmp_path / "coco" / "train2017" / "y.jpg").rename(tmp_path / "coco" / "train2017" / "deep" / "x.jpg")
    write_coco(tmp_path / "coco", content)
    with pytest.raises(UserError, match="has two images called 'x'; rename one"):
        opened(*roots)
