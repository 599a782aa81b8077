import numpy as np
import pytest

from morphism.data import sources
from morphism.data.canvases import canvases, check_held, others_note, smallest, with_others
from morphism.errors import UserError
from morphism.experiments.base import get_base

SHAPES = [(64, 96), (128, 128)]


def test_each_size_has_the_smallest_canvas_that_holds_it():
    sizes = np.array([(1, 1), (64, 96), (65, 96), (64, 97), (128, 128), (129, 1)])
    assert smallest(SHAPES, sizes).tolist() == [0, 0, 1, 1, 1, -1]


@pytest.mark.parametrize(
    ("shapes", "sizes", "added"),
    [
        (SHAPES, [(64, 96), (96, 64)], []),
        ([(64, 96)], [(96, 64), (80, 60), (60, 80)], [(96, 64)]),  # turned
        ([(64, 96)], [(64, 130), (64, 200)], [(64, 224)]),  # one for all landscapes
        ([(64, 96)], [(200, 33), (130, 64)], [(224, 64)]),
        ([(64, 96)], [(96, 64), (97, 64), (300, 300)], [(96, 64), (320, 320), (128, 64)]),
        ([(64, 64)], [(65, 64)], [(96, 64)]),
    ],
)
def test_what_no_canvas_holds_gets_one_and_the_others_keep_theirs(shapes, sizes, added):
    sizes = np.array(sizes)
    found = with_others(shapes, sizes)
    assert found == shapes + added
    held = smallest(found, sizes)
    assert (held >= 0).all()
    before = smallest(shapes, sizes)
    assert (held == before)[before >= 0].all()
    note = others_note(shapes, sizes)
    assert (note == "") == (not added)
    assert all(f"{height} x {width}" in note for height, width in added)


def test_the_remedy_of_training_holds_every_image():
    sizes = np.array([(30, 40), (96, 64), (64, 130)])
    with pytest.raises(
        UserError, match="name 1: 9 x 6 .*, becomes 96 x 64, which no canvas of config.data.canvases hol"
    ) as reported:
        check_held([(64, 96)], np.array([(3, 4), (9, 6), (6, 13)]), sizes, lambda k: f"name {k}")
    needed = eval(str(reported.value).partition("config.data.canvases='")[2].partition("'")[0])
    check_held(list(needed), sizes, sizes, str)


def test_a_source_that_knows_no_sizes_is_refused_with_the_remedy():
    data = get_base("multitask", {"objects": "detection", "kind": "classification"}).data
    data.source = "embedded"
    with pytest.raises(UserError, match="does not know the sizes of its images; put mix: before it"):
        canvases(sources.load(data, "val"), data, training=False)
    data.source = "mix:embedded"
    assert canvases(sources.load(data, "val"), data, training=False)[1].max() == 0
