"""YOLOX-s on BCCD, 292 photographs of blood cells, at half size.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python train.py --config experiments/bccd_yolox.py --workdir runs/bccd_yolox \\
        --config.data.source=voc:BCCD_Dataset/BCCD --config.init_from=yolox_s.pth
    python eval.py --workdir runs/bccd_yolox --draw

The network of `coco_yolox`, starting from weights trained on photographs: yolox_s.pth is a release of the authors, but
any YOLOX-s with their names will do; the class head is initialised again. The schedule is for 205 images: 16 epochs,
with half of the images a mosaic of four, and the last 4 epochs without. Mosaics are not rotated or sheared, since the
box around a rotated box is larger than that of the round cell. `tiny` and `nano` start from their own weights. Without
init_from all start from random weights, and need ten times the epochs.
Published: no figure by the authors of the data; other detectors with trained weights reach AP50 0.80 and more.
Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments import coco_yolox


def get_config(variant: str = "s"):
    config = coco_yolox.get_config(variant)
    config.batch_size = 8
    config.duration = "16ep"
    config.eval_every = config.checkpoint_every = "8ep"
    config.log_every = "10"
    config.model.options = ConfigDict(dict(score_threshold=0.01, nms_threshold=0.65, detections=100))
    config.data.update(source="voc:BCCD", image_size=320, max_boxes=100, workers=0, multi_scale=())
    config.data.canvases = ((256, 320),)
    config.augment.update(mosaic=0.5, mixup=0.0, degrees=0.0, shear=0.0, scale=(0.5, 1.5), closing="4ep")
    config.optimizer.update(learning_rate=0.005, reference_batch=0)
    config.schedule.update(warmup="1ep", hold="2ep")
    config.ema.update(decay=0.998, ramp="100")
    return config
