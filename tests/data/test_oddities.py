import numpy as np
import pytest

from morphism.data.odd import Odd
from morphism.data.oddities import Oddities


class Named:
    classes = ("a", "b")
    targets = property(lambda self: {"label": self.classes})

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return {"name": f"{index}.jpg"}


def batch(ids, odd, draw=0):
    return {"id": np.array(ids), "odd": np.array(odd), "draw": np.broadcast_to(np.array(draw), len(ids))}


@pytest.fixture
def reported():
    return []


@pytest.fixture
def oddities(reported):
    return Oddities(Named(), reported.append)


FIRST = batch([4, 2, 0, 3], [0, Odd.TURNED, Odd.TURNED | Odd.TRUNCATED, 0])
EXPECTED = (
    "data: odd images: 1 truncated (what is missing is grey; black if no JPEG), first 0.jpg; "
    "2 EXIF-rotated (turned upright), first 2.jpg"
)


def test_oddities_are_reported_once_in_one_line_when_the_batches_end(oddities, reported):
    assert list(oddities.watch([FIRST])) == [FIRST]
    assert reported == [EXPECTED]
    list(oddities.watch([FIRST]))
    oddities.report()
    assert reported == [EXPECTED]


def test_they_are_reported_when_none_comes_for_the_first_time_and_not_counted_again(oddities, reported):
    mixed = batch([1, 2], [0, Odd.CMYK], draw=[0, 1])
    later = batch([0, 1], [Odd.TRUNCATED, 0], draw=1)
    batches = oddities.watch([FIRST, mixed, later, later])
    for _ in range(2):
        next(batches)
        assert reported == []
    next(batches)
    assert reported == [EXPECTED]
    list(batches)
    assert reported == [EXPECTED]


def test_a_run_that_stops_early_reports_what_it_saw(oddities, reported):
    next(oddities.watch([FIRST, FIRST]))
    oddities.report()
    assert reported == [EXPECTED]


def test_where_nothing_is_odd_nothing_is_reported(oddities, reported):
    list(oddities.watch([batch([0, 1], [0, 0])]))
    assert reported == []


def test_odd_annotations_are_reported_at_once_and_once_for_the_splits_of_one_source(reported):
    class Annotated(Named):
        oddities = "odd boxes: 3 outside the image"

    train = Oddities(Annotated(), reported.append)
    assert reported == ["data: odd boxes: 3 outside the image"]
    val = Oddities(Annotated(), reported.append, train.said)
    for each in (train, val):
        list(each.watch([batch([0], [0])]))
        each.note("canvases are shared")
    assert reported == ["data: odd boxes: 3 outside the image", "data: canvases are shared"]
