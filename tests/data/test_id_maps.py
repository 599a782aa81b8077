import io

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle
from PIL import Image

from morphism.data.id_maps import IdMap, read_ids
from morphism.errors import UserError


def png(pixels, format="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def blobs(shape, seed):
    """Ids with gaps between them, in areas of several pieces that reach the edges; the first and the last may be 0."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 6, [-(-side // 3) for side in shape])
    return np.array([0, 1, 7, 1000, 26001, 16_777_215])[np.kron(coarse, np.ones((3, 3), int))[: shape[0], : shape[1]]]


@pytest.mark.parametrize(("shape", "dtype"), [((33, 41), np.int32), ((1, 50), np.int64), ((50, 1), np.int64)])
@pytest.mark.parametrize("seed", range(3))
def test_a_map_gives_what_coco_makes_of_a_mask_per_id(shape, dtype, seed):
    ids = blobs(shape, seed).astype(dtype)
    found = IdMap.of(ids)
    assert found.ids.tolist() == np.unique(ids).tolist()
    outlines = found.outlines(np.arange(len(found.ids)))
    for row, each in enumerate(found.ids.tolist()):
        expected = rle.encode(np.asfortranarray(ids == each, np.uint8))
        assert outlines[row] == expected["counts"]
        assert found.areas[row] == (ids == each).sum()
        x, y, width, height = rle.toBbox(expected).tolist()
        assert found.boxes[row].tolist() == [x, y, x + width, y + height]


def test_maps_of_one_id_and_of_one_pixel():
    for ids in (np.full((5, 7), 3, np.uint16), np.array([[9]], np.uint8)):
        found = IdMap.of(ids)
        assert found.outlines(np.array([0]))[0] == rle.encode(np.ones(ids.shape, np.uint8, order="F"))["counts"]
        assert found.boxes.tolist() == [[0, 0, ids.shape[1], ids.shape[0]]]


def test_ids_that_are_absent_have_no_row_and_an_unknown_outline():
    found = IdMap.of(blobs((20, 30), 0))
    rows = found.rows(np.array([7, 8, 0, 99_999_999]))
    assert rows.tolist() == [found.ids.tolist().index(7), -1, 0, -1]
    assert [len(each) > 0 for each in found.outlines(rows)] == [True, False, True, False]


@pytest.mark.parametrize("shape", [(33, 41), (1, 9), (9, 1)])
def test_repainting_replaces_each_id_by_its_class(shape):
    ids = blobs(shape, 4)
    found = IdMap.of(ids)
    classes = np.arange(len(found.ids), dtype=np.uint8)[::-1]
    np.testing.assert_array_equal(found.repaint(classes), classes[np.searchsorted(found.ids, ids)])


def test_ids_are_read_as_stored_or_from_colours():
    ids = blobs((9, 11), 1)
    colours = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(read_ids(png(colours), "a.png", colours=True), ids)
    deep = np.minimum(ids, 65_535).astype(np.uint16)
    np.testing.assert_array_equal(read_ids(png(deep), "a.png"), deep)


def test_maps_that_are_no_maps_of_ids_are_refused():
    colours = np.zeros((8, 8, 3), np.uint8)
    for encoded, options, reason in (
        (png(colours), {}, "a.png: a map of ids must be stored as grey of 8 or 16 bits, or a palette, not as RGB"),
        (png(colours[..., 0]), {"colours": True}, "a.png: a map of ids must be stored as colours, R"),
        (png(colours, "JPEG"), {"colours": True}, "a.png: masks must be stored without loss"),
        (png(colours)[:40], {"colours": True}, "a.png: cannot be decoded"),
    ):
        with pytest.raises(UserError, match=reason):
            read_ids(encoded, "a.png", **options)
