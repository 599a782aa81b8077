import numpy as np
import pytest

from morphism.data.image import Odd
from morphism.data.oddities import Oddities


class Named:
    classes = ("a", "b")

    def __getitem__(self, index):
        return {"name": f"{index}.jpg"}


def batch(ids, odd, draw=0):
    return {"id": np.array(ids), "odd": np.array(odd), "draw": np.broadcast_to(np.array(draw), len(ids))}


@pytest.fixture
def told():
    return []


@pytest.fixture
def oddities(told):
    return Oddities(Named(), told.append)


FIRST = batch([4, 2, 0, 3], [0, Odd.TURNED, Odd.TURNED | Odd.TRUNCATED, 0])
EXPECTED = (
    "data: odd pictures: 1 truncated (what is missing is grey; black if no JPEG), first 0.jpg; "
    "2 EXIF-rotated (turned upright), first 2.jpg"
)


def test_oddities_are_told_once_in_one_line_when_the_batches_end(oddities, told):
    assert list(oddities.watch([FIRST])) == [FIRST]
    assert told == [EXPECTED]
    list(oddities.watch([FIRST]))
    oddities.tell()
    assert told == [EXPECTED]


def test_they_are_told_when_none_comes_for_the_first_time_and_not_counted_again(oddities, told):
    mixed = batch([1, 2], [0, Odd.CMYK], draw=[0, 1])
    later = batch([0, 1], [Odd.TRUNCATED, 0], draw=1)
    batches = oddities.watch([FIRST, mixed, later, later])
    for _ in range(2):
        next(batches)
        assert told == []
    next(batches)
    assert told == [EXPECTED]
    list(batches)
    assert told == [EXPECTED]


def test_a_run_that_stops_early_tells_what_it_saw(oddities, told):
    next(oddities.watch([FIRST, FIRST]))
    oddities.tell()
    assert told == [EXPECTED]


def test_where_nothing_is_odd_nothing_is_told(oddities, told):
    list(oddities.watch([batch([0, 1], [0, 0])]))
    assert told == []


def test_odd_annotations_are_told_at_once_and_once_for_the_splits_of_one_source(told):
    class Annotated(Named):
        oddities = "odd boxes: 3 outside the picture"

    train = Oddities(Annotated(), told.append)
    assert told == ["data: odd boxes: 3 outside the picture"]
    val = Oddities(Annotated(), told.append, train.said)
    for each in (train, val):
        list(each.watch([batch([0], [0])]))
        each.note("canvases are shared")
    assert told == ["data: odd boxes: 3 outside the picture", "data: canvases are shared"]
