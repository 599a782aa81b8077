"""`coco_by_id:<path>`: `coco:<path>` with one class per id up to the largest, including those that COCO leaves out.

torchvision numbers the 90 classes of its COCO weights so: class k is category k + 1.
"""

from dataclasses import replace

import numpy as np

from morphism.data.file_source import BoxedFiles
from morphism.data.sources import coco
from morphism.data.sources.coco import splits as splits
from morphism.errors import UserError

MASKS = True
MAX_ID = 1000  # with larger ids, most classes would be unused
NO_CLASS = "N/A"


def load(argument: str, split: str, data_dir: str, masks: bool = False) -> BoxedFiles:
    source = coco.load(argument, split, data_dir, masks)
    ids = source.category_ids
    if not all(isinstance(each, int) and 1 <= each <= MAX_ID for each in ids):
        raise UserError(
            f"coco_by_id:{argument}: category ids are {ids[0]!r:.60} to {ids[-1]!r:.60}, not 1 to {MAX_ID}; use coco:"
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
