"""YOLOX on COCO (Ge et al. 2021, "YOLOX: exceeding YOLO series in 2021").

    python train.py --config experiments/coco_yolox.py:s --workdir runs/yolox_s --config.data.source=coco:/data/coco
    python eval.py --workdir runs/yolox_s --draw

/data/coco holds train2017/, val2017/ and annotations/instances_{train,val}2017.json; tfds:coco/2017 works too.
The recipe of the authors' yolox/exp/yolox_base.py: 300 epochs from random weights in batches of 64, SGD with Nesterov's
momentum 0.9, weight decay 5e-4 on kernels, learning rate 0.01 after 5 epochs of quadratic warm-up, with a cosine down
to 5 %, which the last 15 epochs keep; moving averages of the weights with decay 0.9998. Every image is a mosaic of
four, rotated, scaled by 0.1 to 2, sheared, mixed with another and shifted in colour. The last 15 epochs have neither
mosaic nor mixup, but an L1 loss on boxes. The side is one of 480, 512, ..., 800, drawn every ten steps: eleven sizes,
each compiled once.
tiny and nano have 416 (320 to 640), scales of 0.5 to 1.5 and no mixup; nano has a mosaic in half of the images.
The four images of a mosaic come from four successive rows of the batch, not from the whole dataset.
Published, box AP on val2017 with the authors' weights: nano 25.8, tiny 32.8, s 40.5, m 46.9, l 49.7, x 51.1, darknet53
47.7; by size (small, medium, large) on test-dev in the paper's table 6, for older weights: darknet53 27.5 51.5 60.9, m
26.3 51.0 59.9, l 29.8 54.5 64.4, x 31.2 56.1 66.1.
Not trained here. Estimate: s forward at 640 is 13.3 GMAC, 3.3 times those of a ResNet-50 at 224, with which an A100
trains 2,470 images per second in mixed precision, so 300 x 118,287 images take 13 hours on one A100 at the same
utilisation; l 76, x 138.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base

SIZES = ("nano", "tiny", "s", "m", "l", "x", "darknet53")


def get_config(variant: str = "s"):
    if variant not in SIZES:
        raise ValueError(f"coco_yolox has no variant {variant!r}; it has {', '.join(SIZES)}")
    small = variant in ("nano", "tiny")
    config = get_base("detection")
    config.batch_size = 64
    config.duration = "300ep"
    config.eval_every = config.checkpoint_every = "10ep"
    config.model.name = f"yolox_{variant}"
    config.model.options = ConfigDict(dict(score_threshold=0.01, nms_threshold=0.65))
    config.data.update(source="coco:coco", resize="fit", image_size=416 if small else 640, max_boxes=120, workers=8)
    config.data.multi_scale = tuple(range(320, 641, 32)) if small else tuple(range(480, 801, 32))
    config.augment.update(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), fill=114, hsv=(5.0, 30.0, 30.0))
    config.augment.update(mosaic=0.5 if variant == "nano" else 1.0, mixup=0.0 if small else 1.0, closing="15ep")
    if small:
        config.augment.scale = (0.5, 1.5)
    config.optimizer.update(name="nesterov", learning_rate=0.01, reference_batch=64, weight_decay=5e-4)
    config.optimizer.decay = "kernels"
    config.schedule.update(name="cosine", warmup="5ep", warmup_power=2.0, final_factor=0.05, hold="15ep")
    config.ema.update(decay=0.9998, ramp="2k")
    return config
