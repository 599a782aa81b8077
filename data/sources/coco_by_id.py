"""`coco_by_id:<path>`: `coco:<path>` with a class for every id up to the largest, those that COCO leaves out included.

So torchvision numbers the classes of its COCO weights, which have 90 of them: class k is category k + 1.
"""

from dataclasses import replace

import numpy as np

from morphism.data.boxed_files import BoxedFiles
from morphism.data.sources import coco
from morphism.data.sources.coco import splits as splits
from morphism.errors import UserError

MOST = 1000  # ids; with more, most classes would be none
NO_CLASS = "N/A"


def load(argument: str, split: str, data_dir: str) -> BoxedFiles:
    source = coco.load(argument, split, data_dir)
    ids = source.category_ids
    if not all(isinstance(each, int) and 1 <= each <= MOST for each in ids):
        raise UserError(
            f"coco_by_id:{argument}: category ids are {ids[0]!r:.60} to {ids[-1]!r:.60}, not 1 to {MOST}; use coco:"
        )
    names = dict(zip(ids, source.classes, strict=True))
    flat = replace(source.store.flat, classes=np.array(ids, np.int32)[source.store.flat.classes] - 1)
    return replace(
        source,
        classes=tuple(names.get(number, NO_CLASS) for number in range(1, ids[-1] + 1)),
        category_ids=tuple(range(1, ids[-1] + 1)),
        store=replace(source.store, flat=flat),
        by_id=True,
    )
