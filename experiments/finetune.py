"""One recipe for data of your own: it starts from public weights and derives the rest from the data and the budget.

    python train.py --config experiments/finetune.py:resnet50 --config.data.source=folder:images --budget 30min \\
        --workdir runs/own
    python train.py --config experiments/finetune.py:faster_rcnn --config.data.source=voc:BCCD_Dataset/BCCD \\
        --budget 20ep --workdir runs/bccd

Classification: resnet18 to resnet152, wide_resnet50_2, resnext50_32x4d, vgg11 to vgg19 (and _bn), alexnet. Detection:
faster_rcnn, retinanet, ssd300, yolox_nano to yolox_x. Instances: mask_rcnn. Segmentation: deeplabv3, deeplabv3plus,
fcn, pspnet, segnet, unet.

The fields in config.derive get their values when the training starts, by the rules of training/rules/, and each is
printed with its reason: sizes of images and canvases, of anchors, and the slots for boxes; what of the weights stays
as it is; the batch; the learning rate for it; the lengths of training, warm-up, averages and intervals. A field that
is set by hand (--config.batch_size=4) is not derived.

`init_from` are torchvision's weights, of COCO for detectors and segmenters that have some. The files of YOLOX are the
authors' (github.com/Megvii-BaseDetection/YOLOX, releases); U-Net starts from random weights, and so does any model with
--config.init_from=. A backbone alone (--config.init_from=resnet50.pth) will do where a whole network is the default.
Published: nothing for this recipe. Measured here: faster_rcnn on BCCD from an ImageNet ResNet-50, with a budget of 5
minutes on a core of which it had 180 seconds: AP 0.323, AP50 0.602 after 147 steps of 4 images of 96x128. The same on
BCCD as COCO JSON, in 126 CPU-seconds: AP 0.330, AP50 0.621; bccd_faster_rcnn reaches AP50 0.222 in 131. resnet18 on
1,816 images of CIFAR-10 in class folders, one epoch at 64 pixels in 182 CPU-seconds: top-1 0.467.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from morphism.experiments import (
    camvid_segnet,
    camvid_unet,
    coco_deeplabv3,
    coco_mask_rcnn,
    coco_retinanet,
    coco_ssd300,
    coco_yolox,
)
from morphism.experiments.base import get_base
from morphism.experiments.cityscapes_pspnet import cityscapes
from morphism.experiments.coco_faster_rcnn import recipe

V1, V2 = "IMAGENET1K_V1", "IMAGENET1K_V2"
RESNETS = {
    **dict.fromkeys(("resnet18", "resnet34"), V1),
    **dict.fromkeys(("resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"), V2),
}
VGGS = ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")

LENGTHS = ("batch_size", "duration", "eval_every", "checkpoint_every", "log_every", "schedule.warmup", "data.threads")
RATE = ("optimizer.learning_rate", "optimizer.reference_batch")
KEPT = ("optimizer.freeze", "model.frozen_bn")  # of the weights
BOXES = ("data.image_size", "data.max_boxes")
STAGES = ("train_candidates", "candidates", "train_proposals", "proposals", "box_samples")


def get_config(model: str = "resnet50"):
    if model not in MODELS:
        raise ValueError(f"finetune has no model {model!r}; it has {', '.join(MODELS)}")
    config = MODELS[model](model)
    config.derive = (*LENGTHS, *RATE, *config.derive)
    # Until they are derived, these only have to be of the kind that the derived ones will be: not "0".
    config.duration, config.eval_every, config.schedule.warmup = "20ep", "1ep", "1ep"
    config.data.source, config.data.workers = "", 0
    return config


def _classifier(config: ConfigDict, name: str, weights: str, head: str) -> ConfigDict:
    """The recipe of cifar10_finetune, in batches of 32."""
    config.model.name = name
    config.init_from = f"torchvision:{name}/{weights}"
    config.init_allow_missing = (r"(fc|classifier)\..*",)
    config.eval_batch_size = 32
    config.data.crop_scale = (0.5, 1.0)
    config.optimizer.update(name="momentum", learning_rate=0.002, reference_batch=32, weight_decay=1e-4, clip_norm=10.0)
    config.optimizer.lr_multipliers = ((head, 10.0),)
    config.derive = ("optimizer.lr_multipliers", "optimizer.freeze", "data.image_size", "data.resize_size")
    return config


def _resnet(name: str) -> ConfigDict:
    config = _classifier(get_base("classification"), name, RESNETS[name], "fc.*")
    config.model.options = ConfigDict(dict(stride_in_1x1=False))  # True for weights of the original network
    config.optimizer.freeze = ("conv1.*", "layer1.*")
    config.derive += ("model.frozen_bn",)
    return config


def _vgg(name: str) -> ConfigDict:
    config = _classifier(get_base("classification"), name, V1, "classifier.6.*")
    config.optimizer.freeze = ("features.[0-4].*",)
    config.derive += ("model.frozen_bn",) if name.endswith("_bn") else ()
    return config


def _alexnet(name: str) -> ConfigDict:
    config = _classifier(get_base("classification"), name, V1, "classifier.6.*")
    config.optimizer.freeze = ("features.0.*",)
    return config


def _on_pyramid(config: ConfigDict, learning_rate: float, **options: int) -> ConfigDict:
    """The recipe of bccd_faster_rcnn: one canvas, AdamW and a cosine."""
    config.init_from = f"torchvision:{config.model.name}/COCO_V1"
    config.model.options = ConfigDict(
        dict(stride_in_1x1=False, bn_epsilon=1e-5, anchor_size=32, channels=256, **options)
    )
    config.data.update(resize="fit", canvases=((256, 320),))
    config.optimizer.update(name="adamw", learning_rate=learning_rate, reference_batch=8, weight_decay=1e-2)
    config.optimizer.clip_norm = 10.0
    config.schedule.update(name="cosine", warmup_factor=0.0)
    derived = tuple(f"model.options.{name}" for name in ("bn_epsilon", "anchor_size", "channels", *options))
    config.derive = (*BOXES, "data.canvases", *KEPT, *derived)
    return config


def _faster_rcnn(name: str) -> ConfigDict:
    return _two_stages(recipe(get_base("detection"), "v1"))


def _mask_rcnn(name: str) -> ConfigDict:
    return _two_stages(coco_mask_rcnn.get_config(), mask_width=256)


def _two_stages(config: ConfigDict, **options: int) -> ConfigDict:
    stages = dict(zip(STAGES, (2000, 1000, 2000, 1000, 512), strict=True))
    return _on_pyramid(config, 2e-4, head_width=1024, **stages, detections=100, **options)


def _retinanet(name: str) -> ConfigDict:
    return _on_pyramid(coco_retinanet.get_config(), 3e-4, detections=100)


def _ssd300(name: str) -> ConfigDict:
    """The recipe of bccd_ssd300; the normalisation is that of these weights."""
    config = coco_ssd300.get_config()
    config.init_from = "torchvision:ssd300_vgg16/COCO_V1"
    config.model.options = ConfigDict(dict(detections=200))
    config.optimizer.update(name="adamw", learning_rate=2e-4, reference_batch=8, weight_decay=5e-4, clip_norm=10.0)
    config.optimizer.freeze = ("backbone.features.?.*", "backbone.features.1[0-4].*")
    config.schedule.update(name="cosine", warmup_factor=0.0)
    config.derive = ("data.max_boxes", "optimizer.freeze", "model.options.detections")
    return config


def _yolox(name: str) -> ConfigDict:
    """The recipe of bccd_yolox."""
    config = coco_yolox.get_config(name.removeprefix("yolox_"))
    config.init_from = f"{name}.pth"
    config.model.options = ConfigDict(dict(score_threshold=0.01, nms_threshold=0.65, detections=100))
    config.data.update(multi_scale=(), canvases=((256, 320),))
    config.augment.update(mosaic=0.5, mixup=0.0, degrees=0.0, shear=0.0, scale=(0.5, 1.5))
    config.optimizer.update(learning_rate=0.005, reference_batch=8)
    config.ema.ramp = "100"
    config.derive = (*BOXES, "data.canvases", "model.options.detections")
    config.derive += ("schedule.hold", "augment.closing", "ema.decay", "ema.ramp")
    return config


def _torchvision_segmenter(name: str) -> ConfigDict:
    config = coco_deeplabv3.get_config("resnet50")
    config.model.name = f"{name}_resnet50"
    config.init_from = f"torchvision:{config.model.name}/COCO_WITH_VOC_LABELS_V1"
    config.model.options = ConfigDict(dict(stride_in_1x1=False))
    return _on_resnet(config, "classifier.*", "aux_classifier.*")


def _mmsegmentation_segmenter(name: str) -> ConfigDict:
    config = cityscapes(f"{name}_resnet50", f"torchvision:resnet50/{V1}")
    config.model.options = ConfigDict(dict(deep_stem=False, stride_in_1x1=False))
    return _on_resnet(config, "decode_head.*", "auxiliary_head.*")


def _on_resnet(config: ConfigDict, *heads: str) -> ConfigDict:
    """The recipe of camvid_deeplabv3plus: heads learn ten times as fast as the backbone."""
    config.optimizer.update(name="momentum", learning_rate=0.005, reference_batch=8, weight_decay=5e-4)
    config.optimizer.update(freeze=("backbone.conv1.*", "backbone.layer1.*"))
    config.optimizer.lr_multipliers = tuple((head, 10.0) for head in heads)
    config.model.sync_bn = False
    return _segmenter(config, *KEPT, "optimizer.lr_multipliers")


def _segnet(name: str) -> ConfigDict:
    config = camvid_segnet.get_config()
    config.optimizer.update(name="adamw", learning_rate=1e-3, reference_batch=8, weight_decay=1e-2)
    config.loss.class_weights = ()
    return _segmenter(config)


def _unet(name: str) -> ConfigDict:
    config = camvid_unet.get_config()
    config.optimizer.reference_batch = 8
    return _segmenter(config)


def _segmenter(config: ConfigDict, *derived: str) -> ConfigDict:
    """Random parts at half to twice the size, flips and distorted colours."""
    config.eval_batch_size = 1
    config.data.update(resize="shorter", scale=(0.5, 2.0), antialias=True, canvases=(), cat_max_ratio=0.75)
    config.augment.photometric = True
    config.optimizer.clip_norm = 10.0
    config.schedule.update(name="polynomial", power=0.9, final_factor=0.0)
    config.derive = ("data.image_size", "data.crop", *derived)
    return config


MODELS: dict[str, Callable[[str], ConfigDict]] = {
    **dict.fromkeys(RESNETS, _resnet),
    **dict.fromkeys(VGGS, _vgg),
    "alexnet": _alexnet,
    "faster_rcnn": _faster_rcnn,
    "retinanet": _retinanet,
    "ssd300": _ssd300,
    **{f"yolox_{size}": _yolox for size in coco_yolox.SIZES},
    "mask_rcnn": _mask_rcnn,
    **dict.fromkeys(("deeplabv3", "fcn"), _torchvision_segmenter),
    **dict.fromkeys(("deeplabv3plus", "pspnet"), _mmsegmentation_segmenter),
    "segnet": _segnet,
    "unet": _unet,
}
