"""Results of two parts fused: on the device, judged, written, described and drawn."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from morphism import tasks
from morphism.data import outlines
from morphism.data.annotations import Annotations
from morphism.data.derived import Subset
from morphism.data.id_maps import read_ids
from morphism.data.outlines import Outlines
from morphism.data.sources import coco_panoptic, scenes
from morphism.errors import UserError
from morphism.experiments.base import get_base
from morphism.ops.platform import as_accelerator
from morphism.runtime.paths import write_files, write_json
from morphism.tasks import panoptic_files
from morphism.tasks.fusion import Fusion
from morphism.tasks.panoptic import Categories, Panoptic, found_in, truth_of
from morphism.tasks.parts import Part, Seen

SIDE, SLOTS, COUNT = 48, 8, 6
CATEGORIES = Categories(scenes.CLASSES, scenes.PIXEL_CLASSES)
GROUND = Part("ground", tasks.get("segmentation"))
WITH_MASKS = Fusion(Part("garments", tasks.get("instances")), GROUND, stuff_area=100, categories=CATEGORIES)
WITH_BOXES = Fusion(Part("garments", tasks.get("detection")), GROUND, stuff_area=100, categories=CATEGORIES)


@pytest.fixture(scope="module")
def source():
    return scenes.load(f"24x{SIDE}", "val", "", masks=True)


@pytest.fixture(scope="module")
def parts(source):
    """What a network that knows the truth would predict: boxes, visible masks of 28 x 28 cells, classes of pixels."""
    found = {
        "garments/boxes": np.zeros((COUNT, SLOTS, 4), np.float32),
        "garments/scores": np.zeros((COUNT, SLOTS), np.float32),
        "garments/classes": np.full((COUNT, SLOTS), -1, np.int32),
        "garments/masks": np.zeros((COUNT, SLOTS, 28, 28), np.float32),
        "ground/classes": np.stack([source.segmentation(index) for index in range(COUNT)]),
    }
    for index in range(COUNT):
        objects, masks = source.annotations(index), source.masks(index)
        for slot, (box, kind) in enumerate(zip(objects.boxes, objects.classes, strict=True)):
            mask = outlines.mask(masks[slot], (SIDE, SIDE))
            x, y = (low + (np.arange(28) + 0.5) / 28 * (high - low) for low, high in (box[::2], box[1::2]))
            found["garments/boxes"][index, slot], found["garments/classes"][index, slot] = box, kind
            found["garments/scores"][index, slot] = 0.95 - slot / 20
            found["garments/masks"][index, slot] = mask[np.ix_(y.astype(int), x.astype(int))]
    found |= {"ground/true": found["ground/classes"], "id": np.arange(COUNT, dtype=np.int32)}
    found["ground/original_size"] = np.full((COUNT, 2), SIDE, np.int32)
    return found | {"garments/labelled": np.ones(COUNT, bool), "ground/labelled": np.arange(COUNT) != 4}


def predicted(fusion, parts):
    if "masks" not in fusion.things.targets:
        parts = {name: value for name, value in parts.items() if name != "garments/masks"}
    fused = jax.jit(fusion.predict)(jax.tree.map(jnp.asarray, parts))
    return parts | jax.tree.map(np.asarray, fused)


def seen(fusion, predictions):
    """The predictions as a composed task hands them to what judges them."""
    return {"id": predictions["id"], **fusion.own(predictions)}


@pytest.mark.parametrize("fusion, least", [(WITH_MASKS, 0.85), (WITH_BOXES, 0.7)])
def test_what_knows_the_truth_has_a_high_quality(source, parts, fusion, least):
    predictions = predicted(fusion, parts)
    assert predictions["panoptic/labelled"].tolist() == [True, True, True, True, False, True]
    view = fusion.source(source)
    metrics = Panoptic().update_metrics(Panoptic().init_metrics(view), seen(fusion, predictions))
    summary = Panoptic().summarise(metrics)
    assert summary["pq"] > least and summary["pq_stuff"] > 0.95 and summary["examples"] == COUNT
    assert summary["pq_things"] == pytest.approx(np.mean([summary["per_class"][n]["pq"] for n in occurring(source)]))
    assert set(Panoptic().headline) < set(summary) and next(iter(Panoptic().table(summary))) == "pq"
    assert set(summary["per_class"]) == {"background", *occurring(source)}


class Overlapping:
    """A record with two tops, of which the second hides a part of the first; targets tell of boxes alone."""

    targets, classes = {"boxes": scenes.CLASSES}, CATEGORIES

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise NotImplementedError

    def annotations(self, index):
        boxes, none = np.float32([[0, 0, 8, 4], [4, 0, 12, 4]]), np.zeros(2, bool)
        return Annotations(boxes, np.zeros(2, np.int32), none, none, np.full(2, 32.0))

    def masks(self, index):
        columns = np.arange(12)[None].repeat(4, 0)
        masks = (np.asfortranarray(each, np.uint8) for each in (columns < 4, columns >= 4))
        return Outlines.of([reference.encode(mask)["counts"] for mask in masks])


def test_the_truth_has_masks_that_only_the_source_knows():
    """By their boxes alone both tops would be wrong: the first would have two thirds of the pixels."""
    predictions = {
        "id": np.zeros(1, np.int32),
        "classes": np.zeros((1, 2), np.int32),
        "segments": np.repeat([[1, 2]], (4, 8), axis=1).repeat(4, 0)[None].astype(np.uint16),
        "true": np.ones((1, 4, 12), np.uint8),  # of tops
        "original_size": np.array([[4, 12]]),
    }
    source = Subset(Overlapping(), np.zeros(1, int))
    metrics = Panoptic().update_metrics(Panoptic().init_metrics(source), predictions)
    assert Panoptic().summarise(metrics)["pq_things"] == 1


def occurring(source):
    return {scenes.CLASSES[kind] for index in range(COUNT) for kind in source.annotations(index).classes}


def test_both_forms_of_the_loops_fuse_alike(parts):
    expected = predicted(WITH_MASKS, parts)["panoptic/segments"]
    with as_accelerator():
        found = jax.jit(lambda parts: WITH_MASKS.predict(parts))(jax.tree.map(jnp.asarray, parts))
    np.testing.assert_array_equal(found["panoptic/segments"], expected)
    numbers = np.unique(expected)
    assert {1, 2, 1 + SLOTS} <= set(numbers.tolist()) and numbers.max() == 1 + SLOTS  # of pixels only background


def test_results_are_written_as_coco_has_them(source, parts):
    predictions = seen(WITH_MASKS, predicted(WITH_MASKS, parts))
    view = WITH_MASKS.source(source)
    metrics = Panoptic().update_metrics(Panoptic().init_metrics(view), predictions)
    (file,) = Panoptic().files(metrics, view)
    value, images = json.loads(json.dumps(file.value)), dict(file.images)
    assert [(each["name"], each["isthing"]) for each in value["categories"]] == [
        *((name, 1) for name in scenes.CLASSES),
        ("background", 0),
    ]
    names = {each["id"]: each["name"] for each in value["categories"]}
    assert len(value["annotations"]) == len(images) == COUNT
    for row, annotation in enumerate(value["annotations"]):
        assert annotation["image_id"] == row and annotation["file_name"] == f"{row:012}.png"
        ids = read_ids(images[annotation["file_name"]], "it", colours=True)
        np.testing.assert_array_equal(ids, predictions["segments"][row])
        assert {each["id"] for each in annotation["segments_info"]} == set(np.unique(ids[ids > 0]).tolist())
        for each in annotation["segments_info"]:
            y, x = np.nonzero(ids == each["id"])
            assert each["area"] == len(y)
            assert each["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            slot = each["id"] - 1
            kind = scenes.CLASSES[predictions["classes"][row, slot]] if slot < SLOTS else "background"
            assert names[each["category_id"]] == kind


def test_what_is_written_is_read_as_truth(source, tmp_path):
    view, names = WITH_MASKS.source(source), [f"{index:012}" for index in range(3)]
    true = [truth_of(source.annotations(i), source.masks(i), source.segmentation(i), CATEGORIES) for i in range(3)]
    maps = [panoptic_files.stored(i, each._replace(map=each.map.astype(np.uint16))) for i, each in enumerate(true)]
    file = panoptic_files.written(maps, view)
    images = [{"id": i, "file_name": f"{name}.jpg", "height": SIDE, "width": SIDE} for i, name in enumerate(names)]
    write_files(tmp_path / "annotations" / "panoptic_val2017", file.images)
    (tmp_path / "val2017").mkdir()
    for index, name in enumerate(names):
        Image.fromarray(source[index]["image"]).save(tmp_path / "val2017" / f"{name}.jpg")
    write_json(tmp_path / "annotations" / "panoptic_val2017.json", file.value | {"images": images})
    found = coco_panoptic.load(str(tmp_path), "val", "")
    assert tuple(found.classes) == scenes.CLASSES and found.targets["segmentation"] == ("things", "background")
    known = {each["name"]: each["id"] for each in file.value["categories"]}
    again = panoptic_files.category_ids(Seen(found, Categories(scenes.CLASSES, ("things", "background")), {}))
    assert dict(zip((*scenes.CLASSES, "background"), (*again[:-2], again[-1]), strict=True)) == known
    for index in range(3):
        objects, read = source.annotations(index), found.annotations(index)
        np.testing.assert_array_equal(read.classes, objects.classes)
        assert [found.masks(index)[row] for row in range(len(read))] == list(source.masks(index))
        np.testing.assert_array_equal(found.segmentation(index) == 1, source.segmentation(index) == 0)


class Named:
    """A record with an id of text."""

    classes, category_ids, image_ids, targets = Categories(("a",), ("sky",)), [7], np.array(["b/c d"]), ()

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise IndexError(index)


def test_numbers_beyond_a_byte_are_written_in_green():
    view = Named()
    segments = np.array([[300, 0], [300, 301]], np.uint16)
    predictions = {
        "segments": segments[None],
        "classes": np.zeros((1, 300), np.int32),
        "original_size": np.array([[2, 2]]),
    }
    found = found_in(predictions, 0, view.classes)
    stored = panoptic_files.stored(0, found)
    file = panoptic_files.written([stored], view)
    ((name, content),) = file.images
    assert name == "b_c_d.png" and np.asarray(Image.open(io.BytesIO(content)))[1].tolist() == [[44, 1, 0], [45, 1, 0]]
    kinds = [(each["id"], each["category_id"]) for each in file.value["annotations"][0]["segments_info"]]
    assert kinds == [(300, 7), (301, 8)] and file.value["annotations"][0]["image_id"] == "b/c d"


def test_segments_are_described_with_the_classes_of_both_parts(parts):
    predictions = seen(WITH_MASKS, predicted(WITH_MASKS, parts))
    map_of, pixels = predictions["segments"][0], predictions["pixels"][0].copy()
    kind = predictions["classes"][0, 0]
    inside = np.argwhere(map_of == 1)
    changed = len(inside) // 3
    pixels[tuple(inside[:changed].T)] = 0
    predictions["pixels"] = np.concatenate([pixels[None], predictions["pixels"][1:]])
    segments = json.loads(json.dumps(Panoptic().describe(predictions, 0, CATEGORIES)))["segments"]
    assert [each["id"] for each in segments] == [*sorted(set(np.unique(map_of)) - {0, 1 + SLOTS}), 1 + SLOTS]
    first, last = segments[0], segments[-1]
    assert first["class"] == first["pixels"] == scenes.CLASSES[kind] and first["score"] == 0.95
    share = np.mean(pixels[map_of == 1] == kind + 1)
    assert first["agreement"] == pytest.approx(share, abs=1e-4) and share < 0.7
    assert last["class"] == "background" and "score" not in last
    for each in segments:
        np.testing.assert_array_equal(reference.decode(each["mask"]), map_of == each["id"])
        assert each["area"] == (map_of == each["id"]).sum()
    lines = Panoptic().lines({"segments": segments}, 0.92, 9)
    assert lines[0] == (first["class"], 0.95, first["box"], first["pixels"], first["agreement"])
    assert lines[-1] == ("background", last["area"]) and len(lines) == 2
    assert Panoptic().counts({"segments": segments}, 0.92, 9) == (1, len(segments) - 1)


def test_an_image_of_void_has_no_segments(parts):
    void = {"panoptic/segments": np.zeros((COUNT, SIDE, SIDE), np.uint16)}
    described = Panoptic().describe(seen(WITH_MASKS, parts | void), 0, CATEGORIES)
    assert described == {"segments": []} and Panoptic().lines(described, 0.0, 9) == []


def test_pixels_of_all_things_agree_with_any_thing(parts):
    predictions = seen(WITH_MASKS, predicted(WITH_MASKS, parts))
    merged = Categories(scenes.CLASSES, ("background", "things"))
    assert merged.stuff == (True, False) and merged.same == (-1,) * 5
    predictions |= {name: np.minimum(predictions[name], 1) for name in ("pixels", "true")}
    first = Panoptic().describe(predictions, 0, merged)["segments"][0]
    assert first["pixels"] == "things" and first["agreement"] > 0.85


def test_the_truth_is_made_of_objects_then_of_stuff():
    categories = Categories(("car", "person"), ("road", "car", "person", "sky"))
    pixels = np.array([[3, 3, 3, 3, 3, 255], [1, 1, 1, 2, 2, 0], [1, 1, 1, 2, 2, 0], [0, 1, 0, 0, 0, 0]], np.uint8)
    boxes = np.float32([[0, 1, 3, 3], [1, 1, 3, 3], [3, 1, 5, 3], [0, 0, 6, 4]])
    objects = Annotations(
        boxes,
        np.array([0, 0, 1, 0], np.int32),
        np.array([False, False, False, True]),
        np.zeros(4, bool),
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).astype(float),
    )
    whole = np.zeros((4, 6), np.uint8)
    whole[1:3, 3:5] = 1
    known = Outlines.of([None, None, reference.encode(np.asfortranarray(whole))["counts"], None])
    true = truth_of(objects, known, pixels, categories)
    stuff = {name: 5 + index for index, name in enumerate(categories.pixels)}
    sky, road = stuff["sky"], stuff["road"]
    expected = [[sky] * 5 + [0], [1, 2, 2, 3, 3, road], [1, 2, 2, 3, 3, road], [road, 4, *[road] * 4]]
    np.testing.assert_array_equal(true.map, expected)  # the crowd has the car's pixel that is left
    assert true.classes.tolist() == [0, 0, 1, 0, 2, 3, 4, 5] and np.flatnonzero(true.crowd).tolist() == [3]
    fewer = truth_of(objects[:3], known.take(np.arange(3)), pixels, categories)
    assert fewer.map[3, 1] == 0  # of a thing, but of no object


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"things": "garment", "stuff": "ground"}, "config.fusion.things is 'garment'"),
        ({"things": "garments"}, "config.fusion.stuff is ''"),
        ({"things": "ground", "stuff": "ground"}, "config.fusion.things: ground finds no objects"),
        ({"things": "garments", "stuff": "garments"}, "config.fusion.stuff: garments is not of pixels"),
    ],
)
def test_a_fusion_of_what_cannot_be_fused_is_refused(fields, message):
    config = get_base("multitask", {"garments": "detection", "ground": "segmentation"})
    config.fusion.update(fields)
    with pytest.raises(UserError, match=message):
        tasks.of(config).check(config)


def test_boxes_without_masks_need_classes_of_pixels_of_their_names():
    WITH_MASKS.check_classes({"garments": ("hat",), "ground": ("sky",)})
    WITH_BOXES.check_classes({"garments": ("hat", "top"), "ground": ("sky", "top")})
    with pytest.raises(UserError, match=r"none of its classes \(hat\) is one of ground \(sky\)"):
        WITH_BOXES.check_classes({"garments": ("hat",), "ground": ("sky",)})
