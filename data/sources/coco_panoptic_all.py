"""`coco_panoptic_all:<path>`: `coco_panoptic:<path>` whose pixels keep the categories of things as classes."""

from morphism.data import panoptic
from morphism.data.sources import coco_panoptic
from morphism.data.sources.coco_panoptic import CocoPanoptic
from morphism.data.sources.coco_panoptic import splits as splits


def load(argument: str, split: str, data_dir: str) -> CocoPanoptic:
    return coco_panoptic.load(argument, split, data_dir, panoptic.all_categories)
