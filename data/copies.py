"""Reports images that a dataset holds twice: within a split, and in two splits, where evaluation then leaks.

The comparison is data/duplicates.py's; here its pairs get names.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from morphism.data.duplicates import RULE, Pairs, firsts, groups, near
from morphism.data.records import Source, name_of
from morphism.data.tally import Columns


class Part(NamedTuple):
    """A split: its name, its source, and the columns of its images (survey.Survey.images)."""

    split: str
    source: Source
    images: Columns


class _All(NamedTuple):
    """The images of all splits, one after another, and what was found of them.

    truth: a checksum of the annotations. labelled: whether these are labels alone, which images that look alike share;
      boxes and masks they need not share to the pixel.
    same: the first image with the same pixels. group: the number of its group of images that look alike.
    pairs: of images that look alike, of those that are the first of theirs.
    """

    parts: Sequence[Part]
    split: Int[np.ndarray, "images"]
    row: Int[np.ndarray, "images"]
    truth: np.ndarray
    labelled: bool
    same: Int[np.ndarray, "images"]
    group: Int[np.ndarray, "images"]
    pairs: Pairs

    def name(self, image: int) -> str:
        return name_of(self.parts[self.split[image]].source, int(self.row[image]))

    def names(self, images: Iterable[int]) -> list[str]:
        return [self.name(image) for image in images]

    def differ(self, images: Sequence[int]) -> bool:
        return len(set(self.truth[images].tolist())) > 1


def copies(parts: Sequence[Part]) -> dict[str, Any]:
    """What occurs twice, by name.

    within: for each split, groups of names: "exact" copies, "near" ones, which are chains of images that look like the
      next, and of both those whose "annotations differ".
    between: for each two splits, earlier first, the images of the second that are in the first: "exact" pairs of names,
      and "near" ones with the bits and the correlation; of both those whose "annotations differ"; "share" of the second
      split's images.
    plain: images of one colour, which look like no others.
    """
    held = [part for part in parts if part.images]
    found = _found(held)
    return {
        "rule": RULE,
        "plain": int(sum(part.images["plain"].sum() for part in held)),
        "within": {part.split: _within(found, index) for index, part in enumerate(held)},
        "between": [
            _between(found, first, second) for first in range(len(held)) for second in range(first + 1, len(held))
        ],
    }


def _found(parts: Sequence[Part]) -> _All:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([part.images[name] for part in parts]) if parts else np.zeros(0, np.int64)

    split = np.repeat(np.arange(len(parts)), [len(part.images["row"]) for part in parts]).astype(np.int64)
    if not parts:
        return _All(parts, split, split, split, False, split, split, Pairs(split, split, split, np.zeros(0)))
    same = firsts(joined("exact"))
    compared = np.flatnonzero((same == np.arange(len(same))) & ~joined("plain"))
    pairs = near(joined("look")[compared], joined("thumb")[compared])
    pairs = pairs._replace(first=compared[pairs.first], second=compared[pairs.second])
    group = groups(len(same), pairs.first, pairs.second)[same]
    labelled = all(tuple(part.source.targets) == ("label",) for part in parts)
    return _All(parts, split, joined("row"), joined("truth"), labelled, same, group, pairs)


def _within(found: _All, split: int) -> dict[str, list[list[str]]]:
    own = np.flatnonzero(found.split == split)
    exact = _several(own, found.same[own])
    _, first = np.unique(found.same[own], return_index=True)  # of exact copies one is enough
    near = _several(own[np.sort(first)], found.group[own[np.sort(first)]])
    comparable = [*exact, *near] if found.labelled else exact
    return {
        "exact": [found.names(each) for each in exact],
        "near": [found.names(each) for each in near],
        "annotations differ": [found.names(each) for each in comparable if found.differ(each)],
    }


def _several(images: Int[np.ndarray, "n"], keys: Int[np.ndarray, "n"]) -> list[list[int]]:
    """The images that share their key with others, by key, in order."""
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(np.diff(keys[order])) + 1
    return sorted(each.tolist() for each in np.split(images[order], cuts) if len(each) > 1)


def _between(found: _All, first: int, second: int) -> dict[str, Any]:
    """Which images of split `second` are in split `first`."""
    there = _by_pixels(found, first)
    exact, near, differ = [], [], []
    neighbours = _neighbours(found.pairs)
    own = np.flatnonzero(found.split == second).tolist()
    for image in own:
        same = int(found.same[image])
        alike = [(bits, -share, there[other]) for other, bits, share in neighbours.get(same, ()) if other in there]
        if same in there:
            other = there[same]
            exact.append([found.name(image), found.name(other)])
        elif alike:
            bits, share, other = min(alike)
            near.append([found.name(image), found.name(other), bits, round(-share, 3)])
        else:
            continue
        if found.differ([image, other]) and (same in there or found.labelled):
            differ.append([found.name(image), found.name(other)])
    return {
        "splits": [found.parts[first].split, found.parts[second].split],
        "exact": exact,
        "near": near,
        "annotations differ": differ,
        "share": round((len(exact) + len(near)) / max(1, len(own)), 6),
    }


def _by_pixels(found: _All, split: int) -> Mapping[int, int]:
    """For the pixels of a split's images, named by `same`, the first image that has them."""
    own = np.flatnonzero(found.split == split)
    kept, first = np.unique(found.same[own], return_index=True)
    return dict(zip(kept.tolist(), own[first].tolist(), strict=True))


def _neighbours(pairs: Pairs) -> Mapping[int, list[tuple[int, int, float]]]:
    """For each image of a pair the others, with bits and correlation."""
    held: dict[int, list[tuple[int, int, float]]] = {}
    for first, second, bits, share in zip(*(column.tolist() for column in pairs), strict=True):
        held.setdefault(first, []).append((second, bits, share))
        held.setdefault(second, []).append((first, bits, share))
    return held
