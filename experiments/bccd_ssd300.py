"""SSD300 on BCCD, 292 photographs of blood cells.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python train.py --config experiments/bccd_ssd300.py --workdir runs/bccd_ssd300 \\
        --config.data.source=voc:BCCD_Dataset/BCCD
    python eval.py --workdir runs/bccd_ssd300 --draw

The network and augmentation of `coco_ssd300`. It starts from ImageNet weights, with the first three stages fixed. The
schedule is for 205 images: AdamW, 30 epochs with a cosine.
Published: no figure by the authors of the data; other detectors with trained weights reach AP50 0.80 and more.
Measured here: see docs/results.md.
"""

from morphism.experiments import coco_ssd300


def get_config():
    config = coco_ssd300.get_config()
    config.batch_size = 8
    config.duration = "30ep"
    config.eval_every = config.checkpoint_every = "5ep"
    config.log_every = "10"
    config.init_from = "torchvision:vgg16/IMAGENET1K_V1"
    config.data.update(source="voc:BCCD", max_boxes=40, workers=0)
    config.augment.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.optimizer.update(name="adamw", learning_rate=2e-4, reference_batch=0, weight_decay=5e-4, clip_norm=10.0)
    config.optimizer.freeze = ("backbone.features.?.*", "backbone.features.1[0-4].*")
    config.schedule.update(name="cosine", warmup="1ep", warmup_factor=0.0)
    return config
