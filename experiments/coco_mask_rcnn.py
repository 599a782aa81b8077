"""Mask R-CNN with ResNet-50 and FPN on COCO, as torchvision trains it (He et al. 2017, "Mask R-CNN").

    python train.py --config experiments/coco_mask_rcnn.py:v1 --workdir runs/mask_rcnn \\
        --config.data.source=coco:/data/coco
    python eval.py --config experiments/coco_mask_rcnn.py:v1 --weights torchvision:maskrcnn_resnet50_fpn/COCO_V1 \\
        --config.data.source=coco:/data/coco

/data/coco holds train2017/, val2017/ and annotations/instances_{train,val}2017.json.
The recipes are those of `coco_faster_rcnn`: `v1`, the default, 26 epochs of batches of 16 from ImageNet weights; `v2`,
torchvision's second version, 400 epochs of batches of 64 from scratch with large-scale jitter.
Published, box AP and mask AP on val2017:
    v1    37.9, 34.6 (torchvision MaskRCNN_ResNet50_FPN COCO_V1; detectron2 38.6, 35.2 after 12 epochs)
    v2    47.4, 41.8 (torchvision MaskRCNN_ResNet50_FPN_V2 COCO_V1)
Not trained here. Estimate: torchvision counts as many multiply-accumulates as for Faster R-CNN, whose times are in
coco_faster_rcnn.py, and detectron2's training steps take 0.261 s where Faster R-CNN's take 0.210: a quarter more.
"""

from morphism.experiments import coco_faster_rcnn
from morphism.experiments.base import get_base

VARIANTS = ("v1", "v2")


def get_config(variant: str = "v1"):
    if variant not in VARIANTS:
        raise ValueError(f"coco_mask_rcnn has no variant {variant!r}; it has {', '.join(VARIANTS)}")
    config = coco_faster_rcnn.recipe(get_base("instances"), variant)
    config.model.name = config.model.name.replace("faster", "mask")
    return config
