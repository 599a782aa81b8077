"""Small networks on embedded images: they train, evaluate and draw in minutes on a laptop's CPU.

    make quickstart
    python train.py --config experiments/quickstart.py --workdir runs/quickstart
    python train.py --config experiments/quickstart.py:detection --workdir runs/quickstart_detection
    python train.py --config experiments/quickstart.py:segmentation --workdir runs/quickstart_segmentation
    python train.py --config experiments/quickstart.py:panoptic --workdir runs/quickstart_panoptic
    python sweep.py --config experiments/quickstart.py --trials 24 --workers 2 --workdir runs/sweep

A residual network that classifies garments; `detection`: a YOLOX of half the width of yolox_s, which finds garments in
scenes; `segmentation`: a narrow U-Net of two stages, which classifies the pixels of scenes; `panoptic`: YOLOX's head
and a semantic head on a narrow VGG, whose results are fused.
Published: nothing on such data. Measured here: see docs/results.md.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base


def get_config(variant: str = "classification"):
    if variant not in VARIANTS:
        raise ValueError(f"quickstart has no variant {variant!r}; it has {', '.join(VARIANTS)}")
    return VARIANTS[variant]()


def _classification() -> ConfigDict:
    config = get_base("classification")
    config.batch_size = 128
    config.duration = "20ep"
    config.eval_every = config.checkpoint_every = "4ep"
    config.log_every = "50"
    config.model.name = "cifar_resnet8"
    config.data.source = "embedded"
    config.data.image_size = config.data.resize_size = 28
    config.data.train_crop = "center"
    config.augment.update(mean=(0.2860,) * 3, std=(0.3530,) * 3, crop_padding=2)
    config.optimizer.update(name="nesterov", learning_rate=0.2, weight_decay=5e-4, decay="kernels")
    config.schedule.update(name="cosine", warmup="1ep")
    return config


def _detection() -> ConfigDict:
    config = get_base("detection")
    config.batch_size = 8
    config.duration = "2ep"
    config.eval_every = "2ep"
    config.log_every = "100"
    config.model.name = "yolox_nano"
    config.model.options = ConfigDict(dict(depthwise=False, detections=100, nms_threshold=0.5))
    config.data.update(source="scenes:7000x96", image_size=96, max_boxes=8)
    config.augment.update(mean=(0.0,) * 3, std=(1 / 255,) * 3, fill=114)
    config.optimizer.update(name="adamw", learning_rate=4e-3, weight_decay=1e-2, clip_norm=10.0, decay="kernels")
    config.schedule.update(name="cosine", warmup="200")
    config.ema.update(decay=0.998, ramp="100")
    return config


def _segmentation() -> ConfigDict:
    config = get_base("segmentation")
    config.batch_size = config.eval_batch_size = 8
    config.duration = "2ep"
    config.eval_every = config.checkpoint_every = "2ep"
    config.log_every = "100"
    config.model.name = "unet"
    config.model.options = ConfigDict(dict(width=24, stages=2))
    config.data.update(source="scene_masks:20500x40", image_size=40, resize="none", crop=(40, 40))
    config.optimizer.update(name="nesterov", learning_rate=0.2, weight_decay=5e-4, clip_norm=10.0, decay="kernels")
    config.schedule.update(name="cosine", warmup="100")
    config.loss.dice_weight = 1.0
    return config


def _panoptic() -> ConfigDict:
    config = get_base("multitask", parts={"objects": "detection", "ground": "segmentation"})
    config.batch_size = config.eval_batch_size = 8
    config.duration = "2ep"
    config.eval_every = "2ep"
    config.log_every = "100"
    config.model.options = ConfigDict(dict(backbone="vgg11_bn", backbone_width=16, channels=32, width=0.25))
    config.model.heads.objects.name = "yolox"
    config.model.heads.objects.options = ConfigDict(dict(detections=100, nms_threshold=0.5))
    config.model.heads.ground.options = ConfigDict(dict(channels=32, groups=8, finest=1))
    config.parts.ground.weight = 4.0  # its loss is about a tenth of YOLOX's
    config.parts.ground.loss.dice_weight = 1.0
    config.data.update(source="scenes:7000x96", image_size=96, max_boxes=8)
    config.augment.update(mean=(0.5,) * 3, std=(0.25,) * 3, fill=114)
    config.fusion.update(things="objects", stuff="ground", stuff_area=64)
    config.optimizer.update(name="adamw", learning_rate=4e-3, weight_decay=1e-2, clip_norm=10.0, decay="kernels")
    config.schedule.update(name="cosine", warmup="200")
    config.ema.update(decay=0.998, ramp="100")
    return config


def space(trial):
    """What `morphism sweep` tries: the optimiser, its learning rate and the weight decay."""
    return {
        "optimizer.name": trial.suggest_categorical("optimizer", ("sgd", "momentum", "rmsprop", "adagrad", "adam")),
        "optimizer.learning_rate": trial.suggest_float("learning_rate", 1e-3, 1.0, log=True),
        "optimizer.weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
    }


VARIANTS = {
    "classification": _classification,
    "detection": _detection,
    "segmentation": _segmentation,
    "panoptic": _panoptic,
}
