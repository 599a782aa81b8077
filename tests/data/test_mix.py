"""Several sources drawn from in given proportions."""

import itertools
import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
from detection import coco, write_coco, write_image
from masks import PATTERN, write_masks
from PIL import Image

from morphism.data import outlines, sources
from morphism.data.canvases import canvases
from morphism.data.checks import check_split
from morphism.data.derived import Subset, carried, with_classes
from morphism.data.fingerprint import fingerprint
from morphism.data.pipeline import eval_batches, train_batches
from morphism.data.sampling import Mixed, Plan, Shuffled, members_of
from morphism.data.survey import survey
from morphism.errors import UserError
from morphism.experiments.base import get_base

WEIGHTS = ((2, 1), (Fraction(7, 10), Fraction(3, 10)), (1, 1, 1), (Fraction("0.61"), Fraction("0.29"), Fraction("0.1")))


def opened(spec, split="train", **options):
    data = sources.within(spec, "", masks=True)
    data.update(options)
    return sources.load(data, split)


@pytest.fixture
def roots(tmp_path):
    """Images with boxes and polygons of toothbrushes and cars; images with masks of ground, road and sky."""
    content = coco()
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    return write_coco(tmp_path / "coco", content), write_masks(tmp_path / "masks")


def write_recipe(folder, entries):
    path = folder / "mix.yaml"
    path.write_text(json.dumps(entries))  # JSON is YAML
    return f"mix:{path}"


@pytest.mark.parametrize("weights", WEIGHTS)
def test_draws_never_stray_from_the_proportions(weights):
    counts = [70 + k for k in range(len(weights))]
    rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    samplers = [Shuffled(count, 1, seed=k) for k, count in enumerate(counts)]
    mixed = Mixed(rows, samplers, [Fraction(weight) for weight in weights])
    draws = [mixed(position) for position in range(200)]
    part = np.searchsorted(np.cumsum(counts), [draw.index for draw in draws], side="right")
    for k, weight in enumerate(weights):
        drawn = np.concatenate([[0], np.cumsum(part == k)])
        share = float(Fraction(weight) / sum(map(Fraction, weights)))
        assert np.abs(drawn - share * np.arange(201)).max() < max(1, len(weights) - 1) + 1e-9
        window = drawn[50:] - drawn[:-50]
        assert np.abs(window - 50 * share).max() < 2 * (len(weights) - 1)
        own = [draw for draw, each in zip(draws, part, strict=True) if each == k]
        expected = [samplers[k](position) for position in range(len(own))]
        assert [(draw.index - rows[k][0], draw.count) for draw in own] == expected
    assert len(set(draws)) == 200


def detection():
    config = get_base("detection")
    with config.unlocked():
        config.batch_size = 6
        config.data.update(image_size=64, max_size=96, max_boxes=8, canvases=((64, 96), (96, 64)))
        config.data.update(targets=("boxes", "segmentation"), border_weight=0.0)
    return config


@pytest.fixture
def tall(tmp_path):
    """Two images of scenes' size, and one that is tall and so on a canvas of its own, with masks of pixels."""
    for name, size in (("a", (64, 64)), ("b", (64, 64)), ("c", (90, 50))):
        write_image(tmp_path / "images" / f"{name}.png", *size)
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_image(tmp_path / "masks" / f"{name}.png", *size)
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", "road")))
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path))[..., 0] % 2).save(path)
    return tmp_path


def test_batches_are_functions_of_the_step_on_any_number_of_processes(tall):
    config, source = detection(), opened(f"mix:3*scenes:11x64 + 1*masks:{tall}")
    whole = list(train_batches(source, config, start_step=0, stop_step=8))
    late = list(train_batches(source, config, start_step=5, stop_step=8))
    for a, b in zip(whole[5:], late, strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    shards = [
        list(
            train_batches(
                pickle.loads(pickle.dumps(source)), config, start_step=0, stop_step=8, process_index=k, processes=3
            )
        )
        for k in range(3)
    ]
    for step, batch in enumerate(whole):
        for key, held in batch.items():
            np.testing.assert_array_equal(np.concatenate([shard[step][key] for shard in shards]), held)


def test_the_proportions_hold_over_all_canvases_and_records_of_a_source_are_drawn_equally_often(tall):
    config, source = detection(), opened(f"mix:3*scenes:11x64 + 1*masks:{tall}")
    _, groups = canvases(source, config.data, training=True)
    assert len(np.unique(groups)) == 2
    plan = Plan(source, config.data, config.seed, config.batch_size, members_of(groups))
    drawn = np.zeros(len(source), int)
    steps = 14 * 40 // 6
    for step in range(steps):
        canvas, draws = plan(step, slice(0, 6))
        for index, _ in draws:
            drawn[index] += 1
            assert groups[index] == canvas
    total = drawn.sum()
    assert abs(drawn[:11].sum() - 0.75 * total) <= 8
    assert np.ptp(drawn[:11]) <= 2
    assert np.abs(drawn[11:] - total / 12).max() <= 7  # one third of a quarter each, whichever the canvas


def test_evaluation_sees_each_record_once(tall):
    config, source = detection(), opened(f"mix:5*scenes:11x64 + 1*masks:{tall}")
    found = [batch["id"][batch["valid"]] for batch in eval_batches(source, config, batch_size=4)]
    assert sorted(np.concatenate(found).tolist()) == list(range(14))


def test_records_have_the_truths_of_their_source(roots):
    first, second = roots
    source = opened(f"mix:2*coco:{first} + masks:{second}")
    assert dict(source.targets) == {
        "boxes": ("car", "toothbrush"),
        "masks": ("car", "toothbrush"),
        "segmentation": ("ground", "road", "sky"),
    }
    assert len(source) == 5 and source.weights == [2, 1] and source.part_of.tolist() == [0, 0, 0, 1, 1]
    assert source.sizes.tolist() == [[40, 50], [30, 20], [12, 34], [3, 5], [3, 5]]
    assert source.image_ids.tolist() == [
        "1:x.jpg",
        "1:y.jpg",
        "1:z.jpg",
        "2:images/train/a.jpg",
        "2:images/train/b.jpg",
    ]
    own = opened(f"coco:{first}")
    for index in range(3):
        assert set(source[index]) == {"image", "name", "annotations", "masks"}
        np.testing.assert_array_equal(source.annotations(index).boxes, own.annotations(index).boxes)
        assert source.masks(index).counts == own.masks(index).counts
        assert (source.segmentation(index) == 255).all()
    assert set(source[3]) == {"image", "name", "segmentation"}
    np.testing.assert_array_equal(source.segmentation(3), PATTERN)
    assert source.box_counts[:, 0].tolist() == [*own.box_counts[:, 0], 0, 0]
    assert len(source.annotations(4)) == len(source.masks(4)) == 0
    assert survey(source).report["bad"] == []


def test_class_maps_rename_drop_and_ignore(roots, tmp_path):
    first, second = roots
    spec = write_recipe(
        tmp_path,
        [
            {"source": f"coco:{first}", "weight": 0.75, "classes": {"car": "vehicle"}},
            {"source": f"masks:{second}", "weight": 0.25, "classes": {"sky": "sky", "road": "vehicle", "ground": None}},
        ],
    )
    source = opened(spec)
    assert dict(source.targets) == {"boxes": ("vehicle",), "masks": ("vehicle",), "segmentation": ("vehicle", "sky")}
    assert source.weights == [Fraction(3, 4), Fraction(1, 4)]
    record = source[1]  # y.jpg has a car and a toothbrush
    assert record["annotations"].boxes.tolist() == [[1, 2, 4.5, 6]] and record["annotations"].classes.tolist() == [0]
    assert len(record["masks"]) == 1 and outlines.mask(record["masks"][0], (30, 20)).sum() == 16
    assert record["masks"].counts == source.masks(1).counts and len(source.annotations(0)) == 0
    np.testing.assert_array_equal(
        source[3]["segmentation"], np.array([255, 0, 1])[np.minimum(PATTERN, 3) % 3 * (PATTERN < 3)]
    )
    assert source.box_counts.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    for line in ("2 objects of toothbrush dropped", "pixels of ground ignored"):
        assert line in source.oddities


def test_labels_are_renamed_and_images_without_a_class_lose_theirs(folder, tmp_path):
    classes = {"cat": "animal", "dog": "animal"}
    spec = write_recipe(tmp_path, [{"source": f"folder:{folder}", "classes": classes}, {"source": "scenes:3x32"}])
    source = opened(spec)
    assert source.targets["label"] == ("animal",) and source.labels.tolist() == [0] * 10 + [-1] * 2 + [-1] * 3
    assert source[0]["label"] == 0 and "label" not in source[11] and "label" not in source[12]
    assert source.sizes.tolist() == [[20, 30]] * 12 + [[32, 32]] * 3
    assert "labels 犬 removed" in source.oddities


def test_classes_that_a_source_does_not_annotate_are_reported(roots, tmp_path):
    first, _ = roots
    source = opened(f"mix:coco:{first} + scenes:4x32")
    assert f"coco:{first}: it has no boxes of top, trouser, dress, shoe, bag; what its images show" in source.oddities
    assert "scenes:4x32: it has no boxes of car, toothbrush; what its images show" in source.oddities


def test_classes_can_be_stated_in_order(roots, tmp_path):
    first, second = roots
    entries = [{"source": f"coco:{first}"}, {"source": f"masks:{second}"}]
    spec = write_recipe(tmp_path, {"sources": entries, "classes": {"boxes": ["toothbrush", "bus", "car"]}})
    source = opened(spec)
    assert source.targets["boxes"] == source.targets["masks"] == ("toothbrush", "bus", "car")
    assert source.annotations(1).classes.tolist() == [2, 0]
    spec = write_recipe(tmp_path, {"sources": entries, "classes": {"boxes": ["toothbrush"]}})
    with pytest.raises(UserError, match="classes of boxes lack 'car', to which a source's classes are mapped; add it"):
        opened(spec)


def test_splits_are_those_of_the_sources(roots, tmp_path):
    first, second = roots
    spec = f"mix:coco:{first} + masks:{second}"
    assert sources.splits(sources.within(spec, "")) == ("train", "val")
    with pytest.raises(
        UserError, match=r"coco:\S+ has no split 'val', it has train; state another as val_split in the"
    ):
        opened(spec, "val")
    entries = [
        {"source": f"coco:{first}", "val_split": ""},
        {"source": f"masks:{second}", "train_split": "train[:50%]"},
    ]
    spec = write_recipe(tmp_path, entries)
    assert len(opened(spec, "val")) == 1 and len(opened(spec)) == 3 + 1
    with pytest.raises(UserError, match=r"train\[:50%\] is no part of train\[:50%\]"):
        opened(spec, "train[:50%]")


def test_a_share_of_a_split_is_one_of_each_source(tall):
    spec = f"mix:3*scenes:40x64 + 1*masks:{tall}"
    assert np.bincount(opened(spec, "train[:50%]").part_of).tolist() == [20, 2]
    with pytest.raises(UserError, match=r"the split 'train\[:9\]' must have percents, as train\[:10%\]"):
        opened(spec, "train[:9]")
    train, val = (opened(spec, split, val_fraction=0.3) for split in ("train", "val"))
    assert len(train) + len(val) == 43 and train.weights == [3, 1] and len(np.bincount(train.part_of)) == 2
    batch = next(train_batches(train, detection(), start_step=0, stop_step=1))
    assert batch["valid"].all()


def test_fingerprints_cover_sources_weights_and_maps(tall):
    found = [fingerprint(opened(f"mix:{k}*scenes:{n}x64 + masks:{tall}")) for k, n in ((1, 4), (1, 4), (2, 4), (1, 5))]
    assert found[0] == found[1] and all(a != b for a, b in itertools.combinations(found[1:], 2))


def test_classes_of_a_mix_can_be_numbered_as_in_training(roots):
    first, second = roots
    source = with_classes(opened(f"mix:coco:{first} + masks:{second}"), ("toothbrush", "car"), "mix")
    assert source.annotations(1).classes.tolist() == [1, 0]
    assert source.weights == [1, 1] and source.part_of.tolist() == [0, 0, 0, 1, 1]
    config = get_base("multitask", {"objects": "detection", "ground": "segmentation"})
    check_split(source, config, "train", training=True)
    with pytest.raises(UserError, match=r"2 of its 5 images have no boxes, such as .*, which detection needs of each"):
        check_split(source, detection(), "train", training=True)


def test_records_carry_what_their_own_source_has(roots, folder, tmp_path):
    first, _ = roots
    entries = [{"source": f"coco:{first}"}, {"source": f"folder:{folder}", "classes": {"cat": "cat"}}]
    source = opened(write_recipe(tmp_path, entries))
    labels = sources.load(sources.within(f"folder:{folder}", ""), "train")
    cats = np.asarray(labels.labels) == labels.classes.index("cat")
    assert carried(source, "boxes").tolist() == [True] * 3 + [False] * len(labels)
    assert carried(source, "label").tolist() == [False] * 3 + cats.tolist()
    for view in (source, with_classes(source, {"label": ("dog", "cat")}, "mix")):
        assert all(("label" in view[k]) == known for k, known in enumerate(carried(view, "label")))
        assert (view.labels >= 0).tolist() == carried(view, "label").tolist()
    assert not carried(source, "segmentation").any()
    part = Subset(source, np.array([4, 0]))
    assert carried(part, "boxes").tolist() == [False, True]


@pytest.mark.parametrize("part", ["", "[:80%]"])
def test_a_single_task_refuses_records_without_its_truth(tall, part):
    """They would be learned as images without objects. Those without its further truths are ignored there."""
    source = opened(f"mix:scenes:10x64 + masks:{tall}", f"train{part}")
    assert (
        (~carried(source, "boxes")).sum()
        == (~carried(source, "masks")).sum()
        == len(source) - source.part_of.tolist().count(0)
    )
    with pytest.raises(UserError, match="of its .* images have no boxes, .* which detection needs of each; leave"):
        check_split(source, detection(), "train", training=True)
    check_split(opened("mix:scenes:10x64 + scenes:5x64"), detection(), "train", training=True)


def test_balanced_drawing_is_refused(folder):
    config = get_base("classification")
    config.data.balanced = True
    source = opened(f"mix:folder:{folder} + folder:{folder}")
    with pytest.raises(
        UserError, match="config.data.balanced: .* is drawn from in proportions of its own; set it to False"
    ):
        next(train_batches(source, config, start_step=0, stop_step=1))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([{"source": "coco:/nowhere"}], "/nowhere: no such folder; correct the path after coco:"),
        ([{"source": "cocoa:/nowhere"}], "config.data.source is 'cocoa', which is none of .*; did you mean coco"),
        ([{"source": "mix:a"}], "source 1: a mix within a mix; list its sources here"),
        ([{"weight": 1}], "source 1: has no source; write 'source: coco:/data/coco'"),
        ([{"source": "scenes:4", "weigth": 1}], "source 1: the field is 'weigth', .* did you mean weight?"),
        ([{"source": "scenes:4", "weight": -1}], "source 1: the weight -1 is not a number above 0; mend it"),
        ([{"source": "scenes:4", "weight": "two"}], "source 1: the weight 'two' is not a number above 0"),
        ([{"source": "scenes:4", "classes": ["top"]}], "source 1: classes must map own names to common ones"),
        (
            [{"source": "scenes:4", "classes": {"tops": "top"}}],
            "scenes:4 has no class 'tops'; mend its classes; did you",
        ),
        (
            [{"source": "scenes:4", "classes": {"background": "b"}}],
            "all classes of boxes are left out; map some of them",
        ),
        ({"sources": []}, "holds no list of sources; write '- source: coco:/data/coco' for each"),
        ({"sources": [{"source": "scenes:4"}], "class": 1}, "the field is 'class', which is none of classes, sources"),
        ("- {", "not YAML"),
    ],
)
def test_recipes_that_make_no_sense_are_refused_with_a_remedy(tmp_path, entries, reason):
    spec = write_recipe(tmp_path, entries)
    if isinstance(entries, str):
        (tmp_path / "mix.yaml").write_text(entries)
    with pytest.raises(UserError, match=reason):
        opened(spec)


def test_inline_forms_that_make_no_sense_are_refused():
    for spec, reason in (
        ("mix:scenes:4x64 + 2*", r"write mix:2"),
        ("mix:", r"write mix:2\*coco:/data/coco \+ 1\*masks:/data/camvid, or mix:<file>.yaml"),
        ("mix:0*scenes:4 + scenes:5", "the weight '0' is not a number above 0"),
        ("mix:scenes:4 + nothing", "nothing: no such file or folder, and none of"),
        ("mix:missing.yaml", "missing.yaml: "),
    ):
        with pytest.raises(UserError, match=reason):
            opened(spec)
