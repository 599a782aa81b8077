"""YOLOX-tiny on BCCD, 292 photographs of blood cells, at half size.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python train.py --config experiments/bccd_yolox.py --workdir runs/bccd_yolox \\
        --config.data.source=voc:BCCD_Dataset/BCCD
    python eval.py --workdir runs/bccd_yolox --draw
"""

from ml_collections import ConfigDict

from experiments import coco_yolox


def get_config(variant: str = "tiny"):
    config = coco_yolox.get_config(variant)
    config.batch_size = 8
    config.duration = "40ep"
    config.eval_every = config.checkpoint_every = "5ep"
    config.log_every = "10"
    config.data.update(source="voc:BCCD", image_size=320, max_boxes=64, workers=0, multi_scale=())
    config.data.canvases = ((256, 320),)
    config.augment.update(scale=(0.5, 1.5), closing="10ep", mixup=0.0)
    config.optimizer.update(learning_rate=0.01, reference_batch=8)
    config.schedule.update(warmup="2ep", hold="5ep")
    config.ema.update(decay=0.998, ramp="50")
    return config
