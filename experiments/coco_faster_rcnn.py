"""Faster R-CNN with ResNet-50 and FPN on COCO, as torchvision trains it (Ren et al. 2015; Lin et al. 2016).

    python train.py --config experiments/coco_faster_rcnn.py --workdir runs/faster_rcnn \\
        --config.data.source=coco:/data/coco
    python eval.py --workdir runs/faster_rcnn --draw

/data/coco holds train2017/, val2017/ and annotations/instances_{train,val}2017.json; tfds:coco/2017 works too.
`v1`, the default: 26 epochs of batches of 16, SGD with momentum 0.9 and weight decay 1e-4, learning rate 0.02 after
1,000 steps of warm-up, divided by 10 after 16 and 22 epochs. The backbone starts from ImageNet weights, with stem,
first stage and batch norms fixed. Images are resized to 800 (at most 1,333) and put on one of four canvases.
`v2`, torchvision's second version: from scratch, 400 epochs of batches of 64, learning rate 0.1 divided by 10 after 352
and 384, weight decay 4e-5, batch norm over all devices, large-scale jitter (on the same canvases, where torchvision
crops squares of 1,024 and shrinks them to 800).
`r101`: v1 with ResNet-101. `c4`: v1's recipe for the original network, without a pyramid, as in detectron2.
Published, box AP on val2017 (AP50, AP75; small, medium, large):
    v1    37.0 (torchvision FasterRCNN_ResNet50_FPN COCO_V1; detectron2 37.9 after 12 epochs)
    v2    46.7 (67.3, 51.1; 30.3, 50.6, 60.2; torchvision FasterRCNN_ResNet50_FPN_V2 COCO_V1)
    r101  39.8 (mmdetection, 24 epochs)
    c4    35.7 (detectron2, 12 epochs), 38.4 (37 epochs)
Not trained here. Estimate: 127 GMAC forward with 512 boxes are 31 times those of a ResNet-50 at 224, with which an A100
trains 2,470 images per second in mixed precision, so the 26 x 117,266 images of v1 take 11 hours on one A100, or 1.3
on eight, at the same utilisation; torchvision took 12 hours on eight V100. v2, with 217 GMAC and 400 epochs, takes 280
hours on one A100, or 35 on eight.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base

VARIANTS = ("v1", "v2", "r101", "c4")


def get_config(variant: str = "v1"):
    if variant not in VARIANTS:
        raise ValueError(f"coco_faster_rcnn has no variant {variant!r}; it has {', '.join(VARIANTS)}")
    return recipe(get_base("detection"), variant)


def recipe(config: ConfigDict, variant: str) -> ConfigDict:
    """`config`, the base of a task, with the recipe of a variant."""
    config.batch_size = 16
    config.duration = "26ep"
    config.model.name = "fasterrcnn_resnet50_fpn"
    config.model.frozen_bn = True
    config.model.options = ConfigDict(dict(stride_in_1x1=False))
    config.init_from = "torchvision:resnet50/IMAGENET1K_V1"
    config.init_rename = ("^ -> backbone.body.",)
    config.init_allow_missing = (r"backbone\.fpn\..*", r"rpn\..*", r"roi_heads\..*")
    config.init_allow_unexpected = (r"backbone\.body\.fc\..*",)
    config.data.update(source="coco:coco", workers=8)
    config.data.canvases = ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    config.optimizer.update(name="momentum", learning_rate=0.02, reference_batch=16, weight_decay=1e-4)
    config.optimizer.freeze = ("backbone.body.conv1.*", "backbone.body.layer1.*")
    config.schedule.update(name="step", boundaries=("16ep", "22ep"), warmup="1k", warmup_factor=0.001)
    if variant == "v2":
        config.batch_size = 64
        config.duration = "400ep"
        config.model.update(name="fasterrcnn_resnet50_fpn_v2", frozen_bn=False, sync_bn=True)
        config.init_from, config.init_rename = "", ()
        config.init_allow_missing = config.init_allow_unexpected = ()
        config.augment.scale_jitter = (0.1, 2.0)
        config.optimizer.update(learning_rate=0.1, reference_batch=64, weight_decay=4e-5, freeze=())
        config.schedule.boundaries = ("352ep", "384ep")
    if variant == "r101":
        config.model.options = ConfigDict(dict(stride_in_1x1=False, backbone="resnet101"))
        config.init_from = "torchvision:resnet101/IMAGENET1K_V1"
    if variant == "c4":
        config.model.name = "fasterrcnn_resnet50_c4"
        config.init_rename = ("^ -> backbone.body.", r"^backbone\.body\.layer4 -> roi_heads.box_head.layer4")
        config.init_allow_missing = (r"rpn\..*", r"roi_heads\.box_predictor\..*")
    return config
