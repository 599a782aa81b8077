"""Several truths of one record: through one window, together, and each may be missing."""

import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from morphism.data import sources, survey, targets
from morphism.data.annotations import Annotations
from morphism.data.checks import check_split
from morphism.data.derived import Subset, with_classes
from morphism.data.fingerprint import changed, fingerprint
from morphism.data.loose import LooseImages
from morphism.data.pipeline import eval_batches, train_batches
from morphism.data.records import Boxed, Labelled, Masked, Source
from morphism.data.sampling import Plan
from morphism.data.survey_text import describe
from morphism.errors import UserError
from morphism.experiments.base import FIELDS, get_base
from morphism.tasks.drawing import samples

SIZES = ((120, 160), (160, 120), (100, 150), (64, 64))


class Things:
    """Rectangles 0 to 3 of classes 0 to 3, with a class of 4 per pixel, 3 being the ground; no truths in `without`."""

    classes = tuple("abcd")
    oddities = ""

    def __init__(self, without=()):
        self.without = without
        self.sizes = np.array(SIZES, np.int32)
        self.targets = {"boxes": self.classes, "segmentation": (*"abcd", "ground"), "label": self.classes}

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        height, width = SIZES[index]
        boxes = [(x, y, x + width // 4, y + height // 5) for y in (9, height // 2) for x in (7, width // 2)]
        mask = np.full((height, width), 4, np.uint8)
        for label, (x0, y0, x1, y1) in enumerate(boxes):
            mask[y0:y1, x0:x1] = label
        none = np.zeros(4, bool)
        truths = {
            "annotations": Annotations(np.array(boxes, np.float32), np.arange(4), none, none, np.ones(4)),
            "segmentation": mask,
            "label": index,
        }
        held = {key: value for key, value in truths.items() if key not in self.without}
        return {"image": np.repeat(mask[..., None] * 60, 3, axis=2), "name": f"record {index}", **held}


RECIPES = {
    "shorter": ("canvas", {"image_size": 64, "max_size": 96}, {}),
    "zoomed, cropped": ("canvas", {"image_size": 80, "resize": "stretch"}, {"zoom_out": 0.5, "iou_crop": True}),
    "jittered": ("canvas", {"image_size": 72}, {"scale_jitter": (0.5, 2.0)}),
    "crop": ("crop", {"resize": "none", "crop": (80, 90), "scale": (0.6, 1.5)}, {}),
    "square": ("square", {"image_size": 64, "resize_size": 72}, {}),
}


def configured(rule, data, augment, wanted=("boxes", "segmentation")):
    """The fields of the rule and of every target, as an experiment of several tasks has them."""
    base = get_base("detection").copy_and_resolve_references()
    with base.unlocked():
        for task in FIELDS:
            of_task = get_base(task)
            for group in ("data", "augment"):
                for field, value in of_task[group].items():
                    if field not in base[group] or of_task.data.window_rule == rule:
                        base[group][field] = value
        base.batch_size = 4
        base.data.update(data | {"targets": wanted, "window_rule": rule, "max_boxes": 5})
        base.augment.update(augment)
    return base


def around(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_boxes_and_masks_of_a_record_go_through_one_window(recipe):
    compared = 0
    for batch in train_batches(Things(), configured(*RECIPES[recipe]), start_step=0, stop_step=12):
        for row in range(4):
            for box, label in zip(batch["boxes"][row], batch["classes"][row], strict=True):
                mask = batch["segmentation"][row] == label
                if label >= 0 and mask.any():
                    np.testing.assert_allclose(around(mask), box, atol=1.1)
                    compared += 1
    assert compared > 60


def test_evaluation_has_the_mask_of_each_as_it_is_stored_next_to_the_boxes_canvas():
    config = configured(*RECIPES["shorter"])
    seen = []
    for batch in eval_batches(Things(), config, batch_size=2):
        for row in np.flatnonzero(batch["valid"]):
            index, (height, width) = batch["id"][row], batch["original_size"][row]
            assert min(batch["size"][row]) == 64 and (height, width) == SIZES[index]
            np.testing.assert_array_equal(batch["segmentation"][row, :height, :width], Things()[index]["segmentation"])
            seen.append(index)
    assert sorted(seen) == [0, 1, 2, 3]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_truth_that_a_record_lacks_is_empty_and_changes_no_other(recipe):
    config = configured(*RECIPES[recipe], wanted=("boxes", "segmentation", "label"))
    config.augment.iou_crop = False  # its window depends on the boxes
    for name, key in (("boxes", "annotations"), ("segmentation", "segmentation"), ("label", "label")):
        whole, part = (
            next(train_batches(source, config, start_step=0, stop_step=1)) for source in (Things(), Things((key,)))
        )
        empty = targets.get(name).empty(4, whole["image"].shape[1:3], config.data)
        expected = {"label": np.full(4, -1)} if name == "label" else empty
        expected[f"has_{name}"] = np.zeros(4, bool)
        for each, value in part.items():
            np.testing.assert_array_equal(value, expected.get(each, whole[each]))


def test_a_target_is_a_file_and_one_of_single_objects_keeps_to_the_slots_of_the_boxes(tmp_path, monkeypatch):
    (tmp_path / "order.py").write_text(
        "import numpy as np\n"
        "KEY, FIELDS, COUNTED, ODD = 'order', (), 'orders', 'odd orders'\n"
        "IS_PLACED, OF_IMAGE_SIZE, IN_EVALUATION, OF_OBJECTS = True, False, True, True\n"
        "empty = lambda rows, shape, data: {'order': np.full((rows, data.max_boxes), -1, np.int32)}\n"
        "read = lambda record, size, source, index: 10 * np.arange(4)\n"
        "kept = lambda truth, window, objects: objects\n"
        "def train(truth, placement, data):\n"
        "    kept = truth[placement.objects]\n"
        "    return {'order': np.pad(kept, (0, data.max_boxes - len(kept)), constant_values=-1)}\n"
        "mapped = fingerprint = evaluate = check = classes = text = lambda *args: {}\n"
    )
    monkeypatch.setattr(targets, "__path__", [*targets.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "morphism.data.targets.order", raising=False)
    assert isinstance(targets.get("order"), targets.Target)
    config = configured(*RECIPES["zoomed, cropped"], wanted=("boxes", "order"))
    counts = set()
    for batch in train_batches(Things(), config, start_step=0, stop_step=8):
        np.testing.assert_array_equal(batch["order"], np.where(batch["classes"] < 0, -1, 10 * batch["classes"]))
        counts |= set((batch["order"] >= 0).sum(axis=1).tolist())
    assert len(counts) > 2


def test_every_target_and_every_source_is_what_its_protocol_says():
    for name in targets.names():
        assert isinstance(targets.get(name), targets.Target)
    assert {"label", "boxes", "masks", "segmentation"} <= set(targets.names())
    kinds = {"embedded": (Labelled,), "scenes:4x32": (Boxed, Masked), "scene_masks:4x32": (Masked,)}
    for spec, own in kinds.items():
        source = opened(spec)
        part = Subset(source, np.arange(2))
        renamed = with_classes(source, tuple(reversed(source.classes)), "")
        for each in (source, part, renamed):
            assert all(isinstance(each, kind) for kind in (Source, *own))
        assert part.targets == source.targets and list(renamed.targets) == list(source.targets)
        assert next(iter(renamed.targets.values())) == renamed.classes
    assert isinstance(LooseImages([], ("a",)), Source)


def opened(spec):
    return sources.load(ConfigDict({"source": spec, "data_dir": "", "val_fraction": 0.0, "split_seed": 0}), "train")


def test_a_source_must_have_what_examples_are_learned_from():
    config = configured(*RECIPES["shorter"])
    config.data.update(source="scenes:4x96", max_boxes=6)
    check_split(opened("scenes:4x96"), config, "train", training=True)
    config.data.targets = ("boxes", "label")
    with pytest.raises(UserError, match="^scenes:4x96 train has no label, which .* asks for, but boxes and"):
        check_split(opened("scenes:4x96"), config, "train", training=True)
    config.data.targets = ("boxes", "bones")
    with pytest.raises(
        UserError, match="config.data.targets is 'bones', which is none of boxes, label, masks, segmentation"
    ):
        list(train_batches(opened("scenes:4x96"), config, start_step=0, stop_step=1))


def test_other_classes_reach_the_truths_of_all_targets_that_have_them():
    source = with_classes(Things(), tuple("dcba"), "")
    record, own = source[1], Things()[1]
    assert record["label"] == 2 and record["annotations"].classes.tolist() == [3, 2, 1, 0]
    np.testing.assert_array_equal(record["segmentation"], own["segmentation"])  # its classes have other names
    assert source.targets == {"boxes": tuple("dcba"), "segmentation": (*"abcd", "ground"), "label": tuple("dcba")}


class Heights:
    """A source of a target from outside, without labels, sizes, version or store."""

    classes, targets = ("metres",), {"height": ("metres",)}

    def __init__(self, *heights):
        self.heights = np.array(heights)

    def __len__(self):
        return len(self.heights)

    def __getitem__(self, index):
        return {"image": b"", "height": float(self.heights[index]), "name": str(index)}


def with_more_classes(source):
    return with_classes(source, ("feet", "metres"), "")


@pytest.mark.parametrize("view", [lambda source: source, lambda s: Subset(s, np.array([1])), with_more_classes])
def test_a_target_from_outside_keeps_its_truth_and_is_in_the_fingerprint(view, tmp_path, monkeypatch):
    (tmp_path / "height.py").write_text(
        "from morphism.data.derived import column\n"
        "KEY, FIELDS, COUNTED, ODD = 'height', (), 'heights', 'odd heights'\n"
        "IS_PLACED = OF_IMAGE_SIZE = IN_EVALUATION = OF_OBJECTS = False\n"
        "mapped = lambda truth, table: truth\n"
        "fingerprint = lambda source: column(source, 'heights').tobytes()\n"
        "empty = read = kept = train = evaluate = check = classes = text = lambda *args: {}\n"
    )
    monkeypatch.setattr(targets, "__path__", [*targets.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "morphism.data.targets.height", raising=False)
    before, now = fingerprint(view(Heights(1.5, 2.5))), fingerprint(view(Heights(1.5, 3.5)))
    assert before == fingerprint(view(Heights(1.5, 2.5)))
    assert changed(before, now) == "its records have other names, classes or annotations"
    assert view(Heights(2.5, 2.5))[0]["height"] == 2.5


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        ("embedded", "62e51784dcfd22fe"),
        ("scenes:4x32", "4db827ade40fa289"),
        ("scene_masks:4x32", "ef717796b69d89e1"),
    ],
)
def test_fingerprints_stay_as_runs_have_written_them(spec, digest):
    assert fingerprint(opened(spec))["sha256"].startswith(digest)


def test_balanced_sampling_needs_labels():
    config = configured(*RECIPES["square"], wanted=("label",))
    config.data.update(source="heights:a", balanced=True)
    with pytest.raises(UserError, match=r"^config.data.balanced: heights:a has no label per record, but height; set "):
        Plan(Heights(1.5), config.data, 0, 1, [range(1)])


def test_the_check_of_a_source_counts_and_draws_all_its_truths(tmp_path):
    source = opened("scenes:6x64")
    report = survey.survey(source).report
    pixels = report["other classes"]["segmentation"]
    assert report["bad"] == [] and sum(report["classes"].values()) == report["boxes"]
    assert pixels["background"] == 6 and pixels["bag"] <= report["classes"]["bag"]
    assert "objects" in describe("", report) and "images with" in describe("", report)
    samples.draw(source, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 0
