"""Finds images that occur twice, in time that grows hardly faster than their number.

Exact copies have equal pixels, whatever their files: they are found by sorting. Near ones look alike: their hashes
(data/prints.py) differ in at most BITS bits, and their thumbnails are correlated by at least CORRELATION.

Hashes that differ in at most 6 bits agree in at least 3 of 9 blocks. So for each choice of 3 blocks, about 21 bits, the
images are sorted by these bits, and only neighbours that agree in them are compared (Manku et al. 2007, "Detecting
near-duplicates for web crawling"). Of more than WINDOW images that agree, each is compared with the next WINDOW alone.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BITS = 6  # of 64
CORRELATION = 0.95
WINDOW = 64
BLOCKS = (7, 7, 7, 7, 7, 7, 7, 7, 8)  # bits of a hash
AGREEING = len(BLOCKS) - BITS
AT_ONCE = 1 << 14  # pairs of thumbnails that are compared together
RULE = f"64-bit DCT hashes that differ in at most {BITS} bits, thumbnails correlated by {CORRELATION} or more"


class Pairs(NamedTuple):
    """Images that look alike, first < second, sorted. bits: in which their hashes differ."""

    first: Int[np.ndarray, "pairs"]
    second: Int[np.ndarray, "pairs"]
    bits: Int[np.ndarray, "pairs"]
    correlation: Float[np.ndarray, "pairs"]


def firsts(exact: UInt8[np.ndarray, "images 16"]) -> Int[np.ndarray, "images"]:
    """For each image the first one with the same pixels, itself if there is none before it."""
    if not len(exact):
        return np.zeros(0, np.int64)
    _, first, which = np.unique(exact.view([("", exact.dtype)] * exact.shape[1]), return_index=True, return_inverse=True)
    return first[which.ravel()].astype(np.int64)


def near(looks: UInt64[np.ndarray, "images"], thumbs: UInt8[np.ndarray, "images 256"]) -> Pairs:
    """The pairs of images that look alike."""
    order = np.argsort(looks, kind="stable")
    found = [np.zeros(0, np.int64)]
    for a, b in _agreeing(looks[order]):
        a, b = order[a], order[b]
        alike = np.bitwise_count(looks[a] ^ looks[b]) <= BITS
        a, b = a[alike], b[alike]
        found.append(np.unique(np.minimum(a, b) * len(looks) + np.maximum(a, b)))
    first, second = np.divmod(np.unique(np.concatenate(found)), max(1, len(looks)))
    correlation = _correlation(thumbs, first, second)
    kept = correlation >= CORRELATION
    first, second = first[kept], second[kept]
    return Pairs(first, second, np.bitwise_count(looks[first] ^ looks[second]).astype(np.int64), correlation[kept])


def groups(count: int, first: Int[np.ndarray, "pairs"], second: Int[np.ndarray, "pairs"]) -> Int[np.ndarray, "images"]:
    """For each of `count` images the number of its group: images that a chain of pairs connects."""
    edges = coo_array((np.ones(len(first), bool), (first, second)), (count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def _agreeing(looks: UInt64[np.ndarray, "images"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of positions of hashes that agree in AGREEING blocks; a pair may come several times."""
    ends = np.cumsum(BLOCKS)
    for chosen in itertools.combinations(range(len(BLOCKS)), AGREEING):
        keys = np.zeros(len(looks), np.uint32)
        for block in chosen:
            bits = np.uint64(BLOCKS[block])
            part = (looks >> np.uint64(64 - ends[block])) & np.uint64((1 << BLOCKS[block]) - 1)
            keys = (keys << np.uint32(bits)) | part.astype(np.uint32)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        left = np.arange(len(keys))
        for step in range(1, WINDOW + 1):
            left = left[left + step < len(keys)]
            left = left[keys[left] == keys[left + step]]
            if not len(left):
                break
            yield order[left], order[left + step]


def _correlation(
    thumbs: UInt8[np.ndarray, "images 256"], first: Int[np.ndarray, "pairs"], second: Int[np.ndarray, "pairs"]
) -> Float[np.ndarray, "pairs"]:
    """Pearson's correlation of the pixels of two thumbnails; 0 where one has a single value."""
    found = [np.zeros(0)]
    for start in range(0, len(first), AT_ONCE):
        a, b = (_normalised(thumbs[rows[start : start + AT_ONCE]]) for rows in (first, second))
        found.append((a * b).sum(axis=1))
    return np.concatenate(found)


def _normalised(thumbs: UInt8[np.ndarray, "n 256"]) -> Float[np.ndarray, "n 256"]:
    centred = thumbs - thumbs.mean(axis=1, keepdims=True, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1)
