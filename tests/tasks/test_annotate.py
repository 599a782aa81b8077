"""Annotated images: what is drawn where, in which colour, and what gives way when there is no room."""

import numpy as np
import pytest

from morphism import tasks
from morphism.data import image, marks, sources
from morphism.experiments.base import get_base
from morphism.tasks.drawing import annotate as drawing
from morphism.tasks.drawing import lettering
from morphism.tasks.drawing.annotate import annotate
from morphism.tasks.layers import Object, Objects, Tag, of_mask

NAMES = ("person", "犬", "😀" * 40, "a name of more letters than there is room for", "кошка")
GREY = np.full((300, 400, 3), 127, np.uint8)


@pytest.fixture
def written(monkeypatch):
    """The labels that are written: text and box."""
    found = []
    write = drawing.Labels._write

    def recorded(self, text, corner, ground):
        before = len(self.taken)
        height = write(self, text, corner, ground)
        found.extend((text, box) for box in self.taken[before:])
        return height

    monkeypatch.setattr(drawing.Labels, "_write", recorded)
    return found


def objects(count, seed=0, size=0.2, classes=5):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 1 - size, (count, 2)) * (400, 300)
    return [
        Object(int(rng.integers(classes)), 0.5, [x, y, x + size * 400, y + size * 300]) for x, y in corners.tolist()
    ]


@pytest.mark.parametrize("count", [1, 12, 60])
def test_labels_stay_in_the_image_and_cover_neither_each_other_nor_much_of_an_object(written, count):
    drawn = objects(count)
    annotate(GREY, [Objects(NAMES, drawn)])
    assert written
    for position, (_, (x0, y0, x1, y1)) in enumerate(written):
        assert 0 <= x0 < x1 <= 400 and 0 <= y0 < y1 <= 300
        for _, (a0, b0, a1, b1) in written[:position]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0
        for each in drawn:
            a0, b0, a1, b1 = each.box
            shared = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            assert shared <= 0.4 * (a1 - a0) * (b1 - b0)


def test_a_single_class_and_a_crowd_are_labelled_by_scores_alone(written):
    annotate(GREY, [Objects(NAMES, objects(3, size=0.1))])
    assert all(text.endswith(" 0.50") for text, _ in written)
    written.clear()
    for layer in (Objects(("cell",), objects(3, classes=1)), Objects(NAMES, objects(21))):
        annotate(GREY, [layer])
    assert {text for text, _ in written} == {"0.50"}


def test_only_classes_whose_labels_had_no_room_are_in_the_legend_of_objects(monkeypatch):
    named = []
    monkeypatch.setattr(
        drawing, "draw_legend", lambda drawn, colours, letters, busy: named.append(list(colours)) or drawn
    )
    annotate(GREY, [Objects(NAMES, objects(1))])
    annotate(GREY, [Objects(NAMES, [Object(0, 0.5, [0, 0, 400, 300]), *objects(21)])])
    annotate(GREY, [Objects(("cell",), objects(30, classes=1))])
    crowd = {NAMES[each.number] for each in objects(21)} | {NAMES[0]}
    assert named[0] == [] and set(named[1]) == crowd and named[2] == []


def test_lines_and_letters_grow_with_the_image_and_small_images_are_enlarged():
    large = drawing._style((3000, 4000), {})
    small = drawing._style((300, 400), {})
    assert large.line == 8 * small.line == 16
    assert large.letters > 7 * small.letters >= 7 * drawing.LEAST
    assert annotate(GREY[:28, :28], [Tag(("a",), [("a", 0.5)])]).shape == (280, 280, 3)
    assert annotate(GREY, []).shape == GREY.shape and (annotate(GREY, []) == GREY).all()
    for size in ((1, 1), (1, 900), (900, 1), (2, 20_000)):
        assert annotate(np.zeros((*size, 3), np.uint8), [Objects(NAMES, [Object(0, 0.9, [0, 0, 1, 1])])]).ndim == 3


def test_a_box_is_drawn_within_its_pixels_in_the_colour_of_its_class():
    drawn = annotate(GREY, [Objects(NAMES, [Object(4, 0.5, [100, 100, 200, 250])])])
    changed = (drawn == marks.nth(4)).all(-1)
    rows, columns = np.nonzero(changed[100:])
    assert rows.min() == 0 and rows.max() == 149 and columns.min() == 100 and columns.max() == 199


def test_regions_are_tinted_but_neither_background_nor_anything_outside(monkeypatch):
    monkeypatch.setattr(drawing, "draw_legend", lambda drawn, *rest: drawn)
    mask = np.zeros((300, 400), np.uint8)
    mask[100:200, 100:200] = 1
    mask[250:] = 255
    drawn = annotate(GREY, [of_mask(("background", "cell"), mask)]).astype(int)
    assert (drawn[:98] == 127).all() and (drawn[100:200, :98] == 127).all()
    tint = np.rint((1 - drawing.TINT) * 127 + drawing.TINT * np.array(marks.nth(0)))
    assert np.abs(drawn[150, 150] - tint).max() <= 1
    assert np.abs(drawn[299] - drawing.DARK * 127).max() <= 1


def test_names_in_other_alphabets_are_written_and_long_ones_cut():
    assert lettering.tidy("a\nb\t c\u202e") == "a b c"
    assert len(lettering.tidy(NAMES[3])) <= lettering.LONGEST and lettering.tidy(NAMES[3]).endswith("…")
    assert lettering.extent(lettering.fitting("wwwwwwwwww", 20, 60), 20) <= 60
    assert lettering.fitting("w", 20, 1) == ""
    for name in NAMES:  # letters that no font has are boxes, which are ink too
        plain = np.asarray(annotate(GREY, [Tag((), [("", None)])]))
        assert (np.asarray(annotate(GREY, [Tag((), [(name, None)])])) != plain).sum() > 200


@pytest.mark.parametrize(
    ("task", "spec"),
    [
        ("classification", "embedded"),
        ("detection", "scenes:3x32"),
        ("instances", "scenes:3x32"),
        ("segmentation", "scene_masks:3x32"),
    ],
)
def test_the_truth_of_every_task_is_drawn(task, spec):
    data = get_base(task).data
    data.source = spec
    source = sources.load(data, "train")
    pixels = np.ascontiguousarray(image.for_display(source[1], data))
    drawn = tasks.get(task).annotate_truth(pixels, source, 1)
    factor = drawing.enlargement(pixels.shape[:2])
    assert drawn.shape == (factor * pixels.shape[0], factor * pixels.shape[1], 3)
    assert (drawn != np.repeat(np.repeat(pixels, factor, 0), factor, 1)).any()
