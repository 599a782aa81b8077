"""What check_split refuses, and that it reads no image for it."""

import numpy as np
import pytest
from detection import coco, write_coco

from morphism.data import sources
from morphism.data.checks import check_split
from morphism.data.derived import Subset
from morphism.errors import UserError
from morphism.experiments.base import get_base


@pytest.fixture
def opened(tmp_path):
    """opened(change, **data) -> (source, config) of a small COCO split after `change` of its JSON."""

    def opened(change=lambda content: None, **data):
        content = coco()
        change(content)
        config = get_base("detection")
        config.data.update(source=f"coco:{write_coco(tmp_path, content)}", **data)
        return sources.load(config.data, "train"), config

    return opened


def every(**values):
    return lambda content: [each.update(values) for each in content["annotations"]]


def test_a_usable_split_passes_without_an_image_being_read(opened, tmp_path):
    source, config = opened()
    for image in tmp_path.rglob("*.jpg"):
        image.write_bytes(b"")
    for training in (True, False):
        check_split(source, config, "train", training=training)


def test_a_split_of_crowds_alone_has_nothing_to_learn_and_may_be_evaluated(opened):
    source, config = opened(every(iscrowd=1))
    with pytest.raises(UserError, match="nothing to learn, all its boxes .3. are crowds or difficult; look at"):
        check_split(source, config, "train", training=True)
    check_split(source, config, "train", training=False)


def test_a_part_without_boxes_has_nothing_to_find(opened):
    source, config = opened()
    empty = Subset(source, np.flatnonzero(source.box_counts[:, 0] == 0))
    with pytest.raises(UserError, match="nothing to find, it has no boxes"):
        check_split(empty, config, "val", training=False)


def test_more_boxes_than_slots_are_reported_with_the_number_that_is_enough(opened):
    source, config = opened(max_boxes=1)
    with pytest.raises(UserError, match=r"train: 1 of its 3 images have .*max_boxes=1, up to 2 in .*\.jpg; set config"):
        check_split(source, config, "train", training=True)
    check_split(source, config, "train", training=False)  # evaluation takes the boxes from the source
    config.data.max_boxes = 2
    check_split(source, config, "train", training=True)


def test_an_image_that_no_canvas_holds_is_named_with_the_canvas_that_does(opened):
    source, config = opened(image_size=20, max_size=100, canvases=((20, 30),))
    with pytest.raises(UserError, match=r"\.jpg: 12 x 34 \(height x width\), becomes 20 x 56.*'\(\(20, 30\), .*\)'"):
        check_split(source, config, "train", training=True)
    config.data.canvases = ((20, 30), (30, 20), (20, 56))
    check_split(source, config, "train", training=True)
