"""Panoptic FPN with ResNet-50 on COCO (Kirillov et al. 2019, "Panoptic feature pyramid networks").

    python train.py --config experiments/coco_panoptic.py:1x --workdir runs/panoptic_fpn \\
        --config.data.source=coco_panoptic:/data/coco
    python eval.py --workdir runs/panoptic_fpn --draw

/data/coco holds train2017/, val2017/ and annotations/ with panoptic_{train,val}2017.json and the folders of PNGs of the
same names; tfds_panoptic:coco/2017_panoptic works too.
detectron2's recipe: batches of 16, SGD with momentum 0.9 and weight decay 1e-4, learning rate 0.02 after 1,000 steps of
warm-up; `1x`, the default, 90,000 steps with drops after 60,000 and 80,000; `3x` 270,000 with drops after 210,000 and
250,000. The backbone starts from ImageNet weights, with stem, first stage and batch norms fixed. The shorter side is
drawn from 640 to 800. The semantic loss counts half. detectron2 starts from the original ResNet-50
(--config.model.options.stride_in_1x1=True), and learns its instances from the JSON of instances, whose masks overlap.
Published on val2017, PQ; box AP, mask AP (detectron2; mmdetection has PQ 40.2 and 42.5):
    1x    39.4; 37.6, 34.7
    3x    41.5; 40.0, 36.5
Not trained here. Estimate: detectron2 takes 0.304 s per step on eight V100, where Faster R-CNN takes 0.210: by the
estimate of coco_faster_rcnn.py, 1x takes 12 hours on one A100, or 1.5 on eight.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base

STEPS = {"1x": ("90k", ("60k", "80k")), "3x": ("270k", ("210k", "250k"))}


def get_config(variant: str = "1x"):
    if variant not in STEPS:
        raise ValueError(f"coco_panoptic has no variant {variant!r}; it has {', '.join(STEPS)}")
    config = panoptic_fpn()
    config.batch_size = 16
    config.duration, boundaries = STEPS[variant]
    config.eval_every = config.checkpoint_every = "10k"
    config.data.update(source="coco_panoptic:coco", image_size=800, max_size=1333, max_boxes=100, workers=8)
    config.data.train_sizes = (640, 672, 704, 736, 768, 800)
    config.data.canvases = ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    config.optimizer.update(name="momentum", learning_rate=0.02, reference_batch=16, weight_decay=1e-4)
    config.schedule.update(name="step", boundaries=boundaries, warmup="1k", warmup_factor=0.001)
    return config


def panoptic_fpn() -> ConfigDict:
    """The network, its weights and its losses, for any data with boxes, masks and classes of pixels."""
    config = get_base("multitask", parts={"instances": "instances", "segmentation": "segmentation"})
    config.best = "panoptic/pq"
    config.model.name = "panoptic_fpn_resnet50"
    config.model.frozen_bn = True
    config.model.options = ConfigDict(dict(stride_in_1x1=False))
    config.model.heads = ConfigDict({})  # the network has its own
    config.init_from = "torchvision:resnet50/IMAGENET1K_V1"
    config.init_rename = ("^ -> backbone.body.",)
    config.init_allow_missing = (r"backbone\.fpn\..*", r"(instances|segmentation)\..*")
    config.init_allow_unexpected = (r"backbone\.body\.fc\..*",)
    config.optimizer.freeze = ("backbone.body.conv1.*", "backbone.body.layer1.*")
    config.parts.segmentation.weight = 0.5
    config.fusion.update(things="instances", stuff="segmentation")
    return config
