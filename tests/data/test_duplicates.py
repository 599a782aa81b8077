"""Copies of images: found by pixels and by look, within a split and between two."""

import io

import numpy as np
import pytest
from PIL import Image

from morphism.commands.check import check
from morphism.data import duplicates
from morphism.data.prints import print_of


def photo(seed, size=(120, 160)):
    """Smooth colours with edges, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    pixels = np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC)).copy()
    for _ in range(4):
        y, x = (int(rng.integers(0, side - 30)) for side in size)
        pixels[y : y + 30, x : x + 30] = rng.integers(0, 256, 3)
    return pixels


def compressed(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(pixels, factor):
    height, width = (round(side * factor) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


def grey(pixels):
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


FOUND = {
    "compressed": lambda pixels: compressed(pixels, 30),
    "half": lambda pixels: resized(pixels, 0.5),
    "double": lambda pixels: resized(pixels, 2),
    "stretched": lambda pixels: np.asarray(Image.fromarray(pixels).resize((128, 128))),
    "grey": grey,
    "darker": lambda pixels: (pixels * 0.8).astype(np.uint8),
}
NOT_FOUND = {
    "mirrored": lambda pixels: pixels[:, ::-1],
    "turned": lambda pixels: np.rot90(pixels),
    "cropped": lambda pixels: pixels[:80, :100],
}


def pairs(images):
    prints = [print_of(np.ascontiguousarray(each)) for each in images]
    looks = np.array([each.look for each in prints], np.uint64)
    return duplicates.near(looks, np.stack([each.thumb.ravel() for each in prints]))


@pytest.mark.parametrize("change", FOUND)
def test_a_changed_copy_is_found_and_nothing_else(change):
    images = [photo(seed) for seed in range(30)]
    found = pairs([*images, *map(FOUND[change], images)])
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(k, 30 + k) for k in range(30)]
    assert found.bits.max() <= duplicates.BITS and found.correlation.min() >= duplicates.CORRELATION


@pytest.mark.parametrize("change", NOT_FOUND)
def test_mirrored_turned_and_cropped_copies_are_not_found(change):
    images = [photo(seed) for seed in range(10)]
    assert not len(pairs([*images, *map(NOT_FOUND[change], images)]).first)


def test_near_pairs_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 1 << 63, 40, np.uint64)[rng.integers(0, 40, 400)]
    for _ in range(7):  # so that distances of 0 to 14 bits occur
        looks ^= np.where(rng.random(400) < 0.6, np.uint64(1) << rng.integers(0, 64, 400, np.uint64), np.uint64(0))
    thumbs = np.repeat(rng.integers(0, 256, (1, 256), np.uint8), 400, axis=0)
    thumbs[rng.random(400) < 0.2] = rng.integers(0, 256, 256, np.uint8)
    first, second = np.triu_indices(400, 1)
    bits = np.array([bin(int(a) ^ int(b)).count("1") for a, b in zip(looks[first], looks[second], strict=True)])
    alike = (thumbs[first] == thumbs[second]).all(axis=1)
    expected = {(a, b) for a, b in zip(first[(bits <= 6) & alike], second[(bits <= 6) & alike], strict=True)}
    found = duplicates.near(looks, thumbs)
    assert 100 < len(expected) and set(zip(found.first, found.second, strict=True)) == expected
    assert np.bitwise_count(looks[found.first] ^ looks[found.second]).tolist() == found.bits.tolist()


def test_a_thousand_equal_hashes_cost_no_more_than_a_window_each_and_stay_one_group():
    thumbs = np.repeat(np.arange(256, dtype=np.uint8)[None], 1000, axis=0)
    found = duplicates.near(np.full(1000, 5, np.uint64), thumbs)
    assert len(found.first) <= 1000 * duplicates.WINDOW
    assert np.unique(duplicates.groups(1000, found.first, found.second)).size == 1


def saved(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_copies_and_leaks_are_named_with_what_contradicts(tmp_path):
    for seed in range(4):
        saved(tmp_path / "train" / "cat" / f"{seed}.png", photo(seed))
    saved(tmp_path / "train" / "dog" / "0.bmp", photo(0))  # the same pixels in another format, and another class
    saved(tmp_path / "train" / "dog" / "1.jpg", photo(9))
    saved(tmp_path / "val" / "cat" / "a.jpg", photo(1), quality=40)
    saved(tmp_path / "val" / "dog" / "b.png", photo(2))
    saved(tmp_path / "val" / "dog" / "c.png", photo(20))
    for split in ("train", "val"):
        saved(tmp_path / split / "dog" / "plain.png", np.full((40, 50, 3), 7 if split == "val" else 200, np.uint8))
    said = []
    _, report = check(str(tmp_path), "", "", None, said.append)
    names = {key: str(tmp_path / key) for key in ("train/cat/0.png", "train/cat/1.png", "train/cat/2.png")}
    found = report["copies"]
    assert found["within"]["train"]["exact"] == [[names["train/cat/0.png"], str(tmp_path / "train/dog/0.bmp")]]
    assert found["within"]["train"]["annotations differ"] == found["within"]["train"]["exact"]
    assert found["within"]["val"] == {"exact": [], "near": [], "annotations differ": []} and found["plain"] == 2
    (between,) = found["between"]
    assert between["splits"] == ["train", "val"] and between["share"] == 0.5
    assert between["exact"] == [[str(tmp_path / "val/dog/b.png"), names["train/cat/2.png"]]]
    assert between["annotations differ"] == between["exact"]
    (near,) = between["near"]
    assert near[:2] == [str(tmp_path / "val/cat/a.jpg"), names["train/cat/1.png"]] and near[2] <= 6 and near[3] > 0.95
    text = "\n".join(said)
    assert "leakage: 2 images of val (50.0%) are in train too: 1 exact, 1 near" in text
    assert "    val/dog/b.png = train/cat/2.png" in text and "    val/cat/a.jpg ~ train/cat/1.png (" in text
