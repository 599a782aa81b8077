"""YOLOX-s with a semantic head on BDD100K: ten kinds of objects in boxes, and the drivable area.

    python -m bdd100k.label.to_coco -m det -i labels/det_20/det_train.json -o annotations/instances_train.json
    python -m bdd100k.label.to_coco -m det -i labels/det_20/det_val.json -o annotations/instances_val.json
    python train.py --config experiments/bdd100k_driving.py --workdir runs/bdd100k_driving \\
        --config.data.source="join:coco:/data/bdd100k + masks:/data/bdd100k_drivable"
    python eval.py --workdir runs/bdd100k_driving --draw

/data/bdd100k holds train/, val/ (images/100k's) and annotations/; /data/bdd100k_drivable holds images/{train,val}, the
same images, masks/{train,val} (labels/drivable/masks) and classes.txt with direct, alternative and background. Images
without one of the truths count in the other task alone.
The network of `coco_yolox:s`, from its weights if init_from names them, with a semantic head on its neck's maps and on
the backbone's own at stride 4. Images of 1280x720 are resized to 640x384. SGD with Nesterov's momentum, learning rate
0.01 for batches of 64, 60 epochs with a cosine; moving averages of the weights.
Published, on val: drivable mIoU 83.37 (PSPNet-R50, 40k steps), 84.10 (DeepLabV3-R50); box AP of ten classes 31.04
(Faster R-CNN R50, 1x), 28.58 (RetinaNet R50), all of the BDD100K model zoo and each alone. YOLOP, a network of this
kind, has drivable mIoU 91.5 with one class of area and AP50 76.5 with one class of vehicles; training jointly costs it
0.4 of AP50 and 0.5 of mIoU, and a two-stage detector in its place 4.7 and 3.4: hence the one-stage default.
Not trained here. Estimate: 60 x 70,000 images of 0.6 times YOLOX-s's pixels at 640x640 take 2 hours on one A100 by the
estimate of coco_yolox.py.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base


def get_config():
    config = get_base("multitask", parts={"objects": "detection", "drivable": "segmentation"})
    config.batch_size = 64
    config.duration = "60ep"
    config.eval_every = config.checkpoint_every = "5ep"
    config.best = "objects/ap50"
    config.model.options = ConfigDict(dict(backbone="darknet", depth=0.33, width=0.5))
    config.model.heads.objects = ConfigDict(dict(name="yolox", options=dict(score_threshold=0.01, nms_threshold=0.65)))
    config.model.heads.drivable.options = ConfigDict(dict(channels=64, finest=2))
    config.init_rename = ("^head -> objects.head",)
    config.init_allow_missing = (r"drivable\..*", r"objects\.head\.cls_preds\..*")
    config.data.update(source="join:coco:bdd100k + masks:bdd100k_drivable", resize="fit", image_size=640, workers=8)
    config.data.update(canvases=((384, 640),), max_boxes=100)
    config.augment.update(mean=(0.0,) * 3, std=(1 / 255,) * 3, fill=114, hsv=(5.0, 30.0, 30.0))
    config.optimizer.update(name="nesterov", learning_rate=0.01, reference_batch=64, weight_decay=5e-4)
    config.optimizer.decay = "kernels"
    config.schedule.update(name="cosine", warmup="3ep", warmup_power=2.0, final_factor=0.05)
    config.ema.update(decay=0.9998, ramp="2k")
    return config
