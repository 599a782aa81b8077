"""YOLOv3 on COCO (Redmon and Farhadi 2018, "YOLOv3: an incremental improvement").

    python train.py --config experiments/coco_yolov3.py --workdir runs/yolov3 --config.data.source=coco:/data/coco
    python eval.py --workdir runs/yolov3 --draw

/data/coco holds train2017/, val2017/ and annotations/instances_{train,val}2017.json; tfds:coco/2017 works too.
For the authors' weights: python eval.py --config experiments/coco_yolov3.py --weights yolov3.weights
The recipe of darknet's cfg/yolov3.cfg: 500,200 batches of 64, starting from darknet53.conv.74 (Darknet-53 on ImageNet),
SGD with momentum 0.9 and weight decay 5e-4 on kernels, learning rate 0.001 after 1,000 steps of warm-up by the fourth
power, divided by 10 after 400,000 and 450,000. The side is one of 320, 352, ..., 608, drawn every ten steps. Images are
scaled by 0.25 to 2 at random, and flipped. Colours are distorted as in SSD; the aspect, which darknet jitters by 0.3,
is kept. Images are at the top left of a grey canvas, where darknet puts them in the middle.
Published: box AP 33.0 at 608 on test-dev with the authors' weights, AP50 57.9, AP75 34.4; small 18.3, medium 35.4,
large 41.9 (table 3); trained on trainval35k.
Not trained here. Estimate: 32.9 GMAC forward at 416 are 8 times those of a ResNet-50 at 224, with which an A100 trains
2,470 images per second in mixed precision, so 500,200 batches of 64, at 464 on average, take 36 hours on one A100 at
the same utilisation.
"""

from morphism.experiments.base import get_base


def get_config():
    config = get_base("detection")
    config.batch_size = 64
    config.duration = "500.2k"
    config.eval_every = config.checkpoint_every = "10k"
    config.model.name = "yolov3_darknet53"
    config.init_from = "darknet53.conv.74"
    config.init_allow_missing = (r"layers\.(7[5-9]|8\d|9\d|10\d)\..*",)
    config.data.update(source="coco:coco", resize="fit", image_size=608, workers=8)
    config.data.multi_scale = tuple(range(320, 609, 32))
    config.augment.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fill=128)
    config.augment.update(scale_jitter=(0.25, 2.0), photometric=True)
    config.optimizer.update(name="momentum", learning_rate=1e-3, reference_batch=64, weight_decay=5e-4)
    config.optimizer.decay = "kernels"
    config.schedule.update(name="step", boundaries=("400k", "450k"), warmup="1k", warmup_power=4.0)
    return config
