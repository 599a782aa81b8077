"""SSD300 with VGG-16 on COCO (Liu et al. 2015, "SSD: single shot multibox detector"), by torchvision's recipe.

    python train.py --config experiments/coco_ssd300.py --workdir runs/ssd300 --config.data.source=coco:/data/coco
    python eval.py --workdir runs/ssd300 --draw

/data/coco holds train2017/, val2017/ and annotations/instances_{train,val}2017.json; tfds:coco/2017 works too.
120 epochs of batches of 32, SGD with momentum 0.9 and weight decay 5e-4, learning rate 0.002 after 1,000 steps of
warm-up, divided by 10 after 80 and 110 epochs. The network starts from the VGG-16 of the paper's authors (torchvision's
IMAGENET1K_FEATURES); all of it is trained but the first stage. Images have distorted colours, are zoomed out on a
ground of the mean colour, cropped by overlap, flipped, and stretched to 300x300.
Published: box AP 25.1, AP50 41.5 (torchvision SSD300_VGG16 COCO_V1).
Not trained here. Estimate: 34.9 GMAC forward are 8.5 times those of a ResNet-50 at 224, with which an A100 trains 2,470
images per second in mixed precision, so 120 x 117,266 images take 13 hours on one A100, or 2 on eight, at the same
utilisation.
"""

from morphism.experiments.base import get_base

# torchvision's VGG-16 -> the backbone, whose last stage torchvision counts among the extra layers.
RENAME = (
    *(rf"^features\.{layer}\. -> backbone.extra.0.{block}." for layer, block in ((24, 1), (26, 3), (28, 5))),
    r"^features\. -> backbone.features.",
)


def get_config():
    config = get_base("detection")
    config.batch_size = 32
    config.duration = "120ep"
    config.model.name = "ssd300_vgg16"
    config.init_from = "torchvision:vgg16/IMAGENET1K_FEATURES"
    config.init_rename = RENAME
    config.init_allow_missing = (r"backbone\.scale_weight", r"backbone\.extra\.(0\.7|[1-4])\..*", r"head\..*")
    config.init_allow_unexpected = (r"classifier\..*",)
    config.data.update(source="coco:coco", image_size=300, resize="stretch", workers=8)
    config.augment.update(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255,) * 3)
    config.augment.update(zoom_out=0.5, iou_crop=True, photometric=True)
    config.optimizer.update(name="momentum", learning_rate=0.002, reference_batch=32, weight_decay=5e-4)
    config.optimizer.freeze = ("backbone.features.0.*", "backbone.features.2.*")
    config.schedule.update(name="step", boundaries=("80ep", "110ep"), warmup="1k", warmup_factor=0.001)
    return config
