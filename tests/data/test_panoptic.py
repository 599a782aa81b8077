"""COCO's panoptic truth, from files and from TFDS: a PNG of ids with a list of segments per image."""

import copy
import io
import json
import pickle
import sys
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from detection import write_image
from ml_collections import ConfigDict
from PIL import Image

from morphism.data import outlines, sources, survey
from morphism.data.fingerprint import fingerprint
from morphism.data.sources import tfds as tfds_source
from morphism.errors import UserError

CATEGORIES = [
    {"id": 92, "name": "banner", "isthing": 0},
    {"id": 3, "name": "car", "isthing": 1},
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 184, "name": "tree", "isthing": 0},
]
# Of each image the ids of its segments with category, iscrowd and the box of pixels (x0, y0, x1, y1) that they fill.
IMAGES = {
    "a": [
        (70_000, 184, 0, (0, 0, 30, 5)),
        (5, 3, 0, (2, 6, 12, 15)),
        (300, 1, 0, (8, 10, 14, 20)),
        (9, 1, 1, (20, 8, 30, 20)),
    ],
    "b": [(5, 92, 0, (0, 0, 30, 20))],
}
SIZE = (20, 30)


def painted(segments):
    """The map of ids: later segments cover earlier ones."""
    ids = np.zeros(SIZE, np.int64)
    for number, _, _, (x0, y0, x1, y1) in segments:
        ids[y0:y1, x0:x1] = number
    return ids


def coloured(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65_536], axis=-1).astype(np.uint8)


def listed(segments):
    ids = painted(segments)
    found = []
    for number, category, crowd, _ in segments:
        rows, columns = np.nonzero(ids == number)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
        found.append({"id": number, "category_id": category, "iscrowd": crowd, "bbox": box, "area": len(rows)})
    return found


def write(root, change=lambda content: None):
    folder = root / "annotations" / "panoptic_train2017"
    folder.mkdir(parents=True)
    for name, segments in IMAGES.items():
        write_image(root / "train2017" / f"{name}.jpg", *SIZE)
        Image.fromarray(coloured(painted(segments))).save(folder / f"{name}.png")
    content = {
        "images": [{"id": k, "file_name": f"{n}.jpg", "height": 20, "width": 30} for k, n in enumerate(IMAGES, 11)],
        "annotations": [
            {"image_id": k, "file_name": f"{name}.png", "segments_info": listed(segments)}
            for k, (name, segments) in reversed(list(enumerate(IMAGES.items(), 11)))
        ],
        "categories": copy.deepcopy(CATEGORIES),
    }
    change(content)
    (root / "annotations" / "panoptic_train2017.json").write_text(json.dumps(content))
    return root


def opened(root, kind="coco_panoptic"):
    return sources.load(sources.within(f"{kind}:{root}", ""), "train")


def test_things_have_boxes_and_masks_and_all_pixels_a_class(tmp_path):
    source = opened(write(tmp_path))
    assert dict(source.targets) == {
        "boxes": ("person", "car"),
        "masks": ("person", "car"),
        "segmentation": ("things", "banner", "tree"),
    }
    assert source.category_ids == (1, 3) and source.image_ids.tolist() == [11, 12] and source.oddities == ""
    record, ids = source[0], painted(IMAGES["a"])
    objects = record["annotations"]
    assert objects.classes.tolist() == [1, 0, 0] and objects.crowd.tolist() == [False, False, True]
    assert objects.boxes.tolist() == [[2, 6, 12, 15], [8, 10, 14, 20], [20, 8, 30, 20]]
    for row, number in enumerate((5, 300, 9)):
        np.testing.assert_array_equal(outlines.mask(record["masks"][row], SIZE), ids == number)
        assert objects.area[row] == (ids == number).sum()
    expected = np.select([ids == 70_000, ids > 0], [2, 0], 255)
    np.testing.assert_array_equal(record["segmentation"], expected)
    np.testing.assert_array_equal(source.segmentation(0), expected)
    assert source.masks(0).counts == record["masks"].counts
    assert len(source[1]["annotations"]) == len(source.masks(1)) == 0 and (source.segmentation(1) == 1).all()


def test_all_categories_can_be_classes_of_pixels(tmp_path):
    source, ids = opened(write(tmp_path), "coco_panoptic_all"), painted(IMAGES["a"])
    assert source.targets["segmentation"] == ("person", "car", "banner", "tree")
    expected = np.select([ids == 70_000, ids == 5, np.isin(ids, (300, 9))], [3, 1, 0], 255)
    np.testing.assert_array_equal(source[0]["segmentation"], expected)


def test_classes_of_pixels_know_the_datasets_ids(tmp_path):
    source = opened(write(tmp_path))
    assert source.category_ids == (1, 3) and source.pixel_category_ids == (None, 92, 184)
    own = sources.with_classes(source, {"segmentation": ("tree", "things", "sky", "banner")}, "here")
    assert list(own.pixel_category_ids) == [184, None, None, 92] and own.category_ids == (1, 3)
    assert opened(tmp_path, kind="coco_panoptic_all").pixel_category_ids == (1, 3, 92, 184)


def test_masks_keep_their_rows_where_a_box_is_dropped(tmp_path):
    def without_width(content):
        content["annotations"][1]["segments_info"][1]["bbox"][2] = 0

    source = opened(write(tmp_path, without_width))
    assert "1 without width or height (dropped)" in source.oddities
    assert source.annotations(0).boxes[:, 0].tolist() == [8, 20]
    ids = painted(IMAGES["a"])
    for row, number in enumerate((300, 9)):
        np.testing.assert_array_equal(outlines.mask(source.masks(0)[row], SIZE), ids == number)


def edit(change):
    """Applies `change` to the segments of image a."""
    return lambda content: change(content["annotations"][1]["segments_info"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edit(lambda held: held.pop(1)), r"a.png: holds the segment 5, which \S+json does not list"),
        (edit(lambda held: held[1].update(id=6)), r"a.png: has no pixel of the segment 6 of \S+json; export both"),
    ],
)
def test_an_id_in_only_one_of_png_and_json_is_an_error(tmp_path, change, reason):
    source = opened(write(tmp_path, change))
    for read in (source.masks, source.segmentation, source.__getitem__):
        with pytest.raises(UserError, match=reason):
            read(0)
    source.masks(1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edit(lambda held: held[1].update(id=300)), "a.png has two segments 300; give each an id of its own"),
        (edit(lambda held: held[1].pop("id")), "is not in COCO's panoptic format; it needs image_id, file_name and"),
        (edit(lambda held: held[1].update(category_id=4)), "annotation 11/5 has category_id 4, which is none of its"),
        (lambda content: content["annotations"].pop(), "image 11 has no annotation; add it, or remove the image"),
        (lambda content: content["categories"][0].pop("isthing"), "category 92 has isthing None; write 1 for things"),
    ],
)
def test_broken_lists_are_refused_with_their_place(tmp_path, change, reason):
    with pytest.raises(UserError, match=reason):
        opened(write(tmp_path, change))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no annotations; expected \S+panoptic_train2017.json"):
        opened(tmp_path)
    write(tmp_path)
    source = opened(tmp_path)
    (tmp_path / "annotations" / "panoptic_train2017" / "a.png").unlink()
    assert source.mask_stamps.tolist()[0] == -1
    with pytest.raises(UserError, match=r"a.png: "):
        source[0]


def test_changed_maps_change_the_fingerprint(tmp_path):
    source = opened(write(tmp_path))
    before = fingerprint(source)
    assert fingerprint(pickle.loads(pickle.dumps(source))) == before
    Image.fromarray(coloured(painted(IMAGES["b"]))).save(tmp_path / "annotations" / "panoptic_train2017" / "a.png")
    assert fingerprint(source) != before


def test_the_survey_counts_all_truths(tmp_path):
    report = survey.survey(opened(write(tmp_path))).report
    assert report["bad"] == [] and report["classes"] == {"person": 2, "car": 1}
    assert report["other classes"]["segmentation"] == {"things": 1, "banner": 1, "tree": 1}


class Rooms(tfds.core.GeneratorBasedBuilder):
    """The images above, with features and class labels as TFDS's coco/2017_panoptic has them."""

    VERSION = tfds.core.Version("1.0.0")
    LABELS: ClassVar = {92: 80, 3: 2, 1: 0, 184: 132}

    def _info(self):
        segments = {
            "id": np.int64,
            "area": np.int64,
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(num_classes=133),
            "is_crowd": np.bool_,
        }
        features = {
            "image": tfds.features.Image(encoding_format="png"),
            "image/id": np.int64,
            "panoptic_image": tfds.features.Image(encoding_format="png"),
            "panoptic_objects": tfds.features.Sequence(segments),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index, segments in enumerate(IMAGES.values()):
            ids = painted(segments)
            ids[0, 0] = {1: 77}.get(index, ids[0, 0])  # of no segment
            objects = [
                {
                    "id": each["id"],
                    "area": each["area"],
                    "bbox": box_of(*each["bbox"]),
                    "label": self.LABELS[each["category_id"]],
                    "is_crowd": bool(each["iscrowd"]),
                }
                for each in listed(segments)
            ]
            images = [io.BytesIO(), io.BytesIO()]
            for file, pixels in zip(images, (np.full((*SIZE, 3), index, np.uint8), coloured(ids)), strict=True):
                Image.fromarray(pixels).save(file, "PNG")
                file.seek(0)
            yield (
                index,
                {"image": images[0], "image/id": 11 + index, "panoptic_image": images[1], "panoptic_objects": objects},
            )


def box_of(x, y, width, height):
    return tfds.features.BBox(ymin=y / 20, xmin=x / 30, ymax=(y + height) / 20, xmax=(x + width) / 30)


def test_tfds_gives_what_the_files_give(tmp_path):
    tfds_source.builder("rooms", str(tmp_path)).download_and_prepare(file_format="array_record")
    data = ConfigDict(
        {"source": "tfds_panoptic:rooms", "data_dir": str(tmp_path), "val_fraction": 0.0, "split_seed": 0}
    )
    source, files = sources.load(data, "train"), opened(write(tmp_path / "files"))
    assert "tensorflow" not in sys.modules
    assert len(source.targets["boxes"]) == 80 and len(source.targets["segmentation"]) == 54
    position = source.image_ids.tolist().index(11)
    for held in (source, pickle.loads(pickle.dumps(source))):
        record, expected = held[position], files[0]
        np.testing.assert_allclose(record["annotations"].boxes, expected["annotations"].boxes, rtol=1e-6)
        assert record["annotations"].classes.tolist() == [2, 0, 0]
        for column in ("crowd", "area"):
            assert getattr(record["annotations"], column).tolist() == getattr(expected["annotations"], column).tolist()
        assert record["masks"].counts == expected["masks"].counts
        np.testing.assert_array_equal(
            record["segmentation"], np.where(expected["segmentation"] == 2, 53, expected["segmentation"])
        )
        assert held.annotations(position).boxes.tolist() == record["annotations"].boxes.tolist()
    assert source.box_counts[position].tolist() == [3, 3, 2] and source.sizes.tolist() == [[20, 30]] * 2
    with pytest.raises(UserError, match=r"record \d: holds the segment 77, which its panoptic_objects does not list"):
        source[1 - position]


def test_tfds_needs_the_features_of_panoptic_truth(tmp_path):
    with pytest.raises(UserError, match="tfds_panoptic:fashion_mnist: has no 'image', 'panoptic_image' and"):
        sources.classes(sources.within("tfds_panoptic:fashion_mnist", str(tmp_path)))
