"""Surveys masks: which of the rules for odd masks a split needs, decided by all of it or by an even sample."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from morphism.data.files import read_bytes
from morphism.data.masks import COLOURS, Legend, black_and_white, classes_of, stored_numbers
from morphism.errors import UserError
from morphism.labels import IGNORE

SURVEYED = 1000  # masks whose pixels are read when a split is opened
LOOKED_AT = 20  # masks that show whether there are two classes
STRAY = 0.1  # ratio of ones to whites, below which ones are strays in a black and white mask


def survey(paths: Sequence[Path], modes: Sequence[str], legend: Legend) -> tuple[Legend, list[str]]:
    """The legend that fits masks stored in `modes`, and what was odd about them.

    Raises UserError if all their pixels are ignored.
    """
    odd = []
    if not legend.colours and (grey := sum(mode in COLOURS for mode in modes)):
        odd.append(f"{grey:,} stored in colours (read as grey)")
    if deep := sum(mode.startswith("I") for mode in modes):
        odd.append(f"{deep:,} of 16 bits (read as numbers)")
    rows = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), SURVEYED)).astype(int))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(partial(_count, legend=legend), [paths[row] for row in rows]))
    ones, whites, ignored, pixels = np.array(counts, np.int64).reshape(-1, 4).T
    undecided = len(legend.classes) == 2 and legend.plain and not legend.colours
    if undecided and _is_black_and_white(np.where(np.array(modes, str)[rows] == "1", 0, ones), whites):
        all_are = f"all {len(paths):,}" if len(rows) == len(paths) and not ones.any() else f"{(whites > 0).sum():,}"
        odd.append(f"{all_are} black and white (255 read as {legend.classes[1]})")
        if both := ((ones > 0) & (whites > 0)).sum():
            odd.append(f"single ones in {both:,} of these (read as {legend.classes[1]})")
        legend, ignored = black_and_white(legend), ignored - whites
    if ignored.any():
        if (ignored == pixels).all() and not any(_has_classes(path, legend) for path in paths):
            raise UserError(
                f"{paths[0].parent}: all pixels of all {len(paths):,} masks are ignored by the legend of "
                f"{legend.origin}; mend them, or write each class's number behind its name in classes.txt"
            )
        share = ignored.sum() / pixels.sum()
        about = "under 0.1%" if share < 0.0005 else f"{'about ' if len(rows) < len(paths) else ''}{share:.1%}"
        odd.append(f"{about} of the pixels ignored")
    return legend, odd


def _is_black_and_white(ones: Int[np.ndarray, "masks"], whites: Int[np.ndarray, "masks"]) -> bool:
    """Whether 255 means class 1, not ignored, in masks of two classes, given each mask's count of pixels 1 and 255.

    255 is ignored if masks hold both 1 and 255, unless the ones are strays: fewer masks hold both than hold 255 alone,
    and these hold less than a tenth as many ones as 255s. Otherwise the majority decides, of masks that hold 255 alone
    and masks that hold 1 alone.
    """
    both, white, one = (ones > 0) & (whites > 0), (ones == 0) & (whites > 0), (ones > 0) & (whites == 0)
    strays = both.sum() < white.sum() and ones[both].sum() < STRAY * whites[both].sum()
    return bool(white.any() and (strays or not both.any()) and white.sum() >= one.sum())


def _count(path: Path, legend: Legend) -> tuple[int, int, int, int]:
    """Counts pixels of value 1, of value 255, ignored ones, and all. A broken mask, reported later, counts as one."""
    try:
        values, classes = classes_of(read_bytes(path), str(path), legend)
    except UserError:
        return 0, 0, 0, 1
    ones, whites = ((values == each).sum() if values.ndim == 2 else 0 for each in (1, IGNORE))
    return int(ones), int(whites), int((classes == IGNORE).sum()), classes.size


def _has_classes(path: Path, legend: Legend) -> bool:
    """Whether some pixel of the mask is not ignored."""
    _, _, ignored, pixels = _count(path, legend)
    return ignored < pixels


def two_classes(paths: Sequence[Path]) -> bool:
    """Whether masks, by a few of them, hold nothing but 0 and 1, or 0 and 255."""
    rows = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).astype(int))
    try:
        values = [np.unique(stored_numbers(read_bytes(paths[row]), str(paths[row]))) for row in rows]
    except UserError:
        return False
    return len(values) > 0 and set(np.concatenate(values).tolist()) in ({0, 1}, {0, IGNORE}, {0, 1, IGNORE})
