"""FCN on Pascal VOC 2012: FCN-32s, 16s and 8s on VGG-16 as the authors trained them, and on ResNet as torchvision.

Long, Shelhamer & Darrell 2015, "Fully convolutional networks for semantic segmentation".

    python train.py --config experiments/voc_fcn.py:32s --workdir runs/fcn32s \\
        --config.data.source=masks:VOCdevkit/VOC2012
    python train.py --config experiments/voc_fcn.py:16s --workdir runs/fcn16s --config.init_from=runs/fcn32s
    python train.py --config experiments/voc_fcn.py:8s --workdir runs/fcn8s --config.init_from=runs/fcn16s
    python train.py --config experiments/voc_fcn.py:8s_at_once --workdir runs/fcn8s_at_once
    python train.py --config experiments/voc_fcn.py:resnet50 --workdir runs/fcn_resnet50

32s starts from torchvision's VGG-16, dense layers included; 16s and 8s each start from the one before; `8s_at_once`
starts from VGG-16, with its pooled maps scaled. The VGGs: batches of one image at its own size, SGD with momentum 0.99,
weight decay 5e-4 on kernels, twice the learning rate for biases, 100,000 steps. The authors' learning rates, 1e-10,
1e-12 and 1e-14 (32s, 16s, 8s; 1e-10 for `8s_at_once`), and their weight decay are for a loss summed over the pixels of
an image; ours is the mean over them, commonly 187,500. The upsampling stays bilinear. ResNet-50 and 101 by
torchvision's recipe, see `coco_deeplabv3`.
Published: mIoU 63.6, 65.0 and 65.5 (32s, 16s, 8s) on seg11valid, trained on the 8,498 images of SBD
(fcn.berkeleyvision.org), where VOC's own train has 1,464; with ResNet 60.5 and 63.7 on COCO val2017 with VOC's classes
(torchvision).
Not trained here. Estimate: 181 GMAC forward are 44 times those of a ResNet-50 at 224, with which an A100 trains 2,470
images per second in mixed precision, so 100,000 images take half an hour, if batches of one keep it as busy.
"""

from ml_collections import ConfigDict

from morphism.experiments import coco_deeplabv3
from morphism.experiments.base import get_base

PIXELS = 500 * 375  # of most images of VOC
LEARNING_RATES = {"32s": 1e-10, "16s": 1e-12, "8s": 1e-14, "8s_at_once": 1e-10}  # for a loss summed over pixels


def get_config(variant: str = "32s"):
    if variant not in (*LEARNING_RATES, "resnet50", "resnet101"):
        raise ValueError(f"voc_fcn has no variant {variant!r}; it has {', '.join(LEARNING_RATES)}, resnet50, resnet101")
    if variant.startswith("resnet"):
        config = coco_deeplabv3.get_config(variant)
        config.batch_size = 16
        config.model.name = f"fcn_{variant}"
        config.data.source = "masks:VOCdevkit/VOC2012"
        config.optimizer.update(learning_rate=0.01, reference_batch=16)
        return config
    config = get_base("segmentation")
    config.batch_size = 1
    config.duration = "100k"
    config.log_every = "100"
    config.eval_every = config.checkpoint_every = "4k"
    config.model.name = f"fcn{variant.removesuffix('_at_once')}_vgg16"
    config.model.options = ConfigDict(dict(at_once=variant.endswith("_at_once")))
    config.init_from = "torchvision:vgg16/IMAGENET1K_V1"
    config.init_allow_missing = (r"(up)?score.*",)
    config.init_allow_unexpected = (r"classifier\.6\..*", r"upscore.*")
    config.data.update(source="masks:VOCdevkit/VOC2012", image_size=500, resize="none", crop=(500, 500))
    config.augment.flip_probability = 0.0
    # Caffe adds 5e-4 of a weight to the gradient of a sum; for a mean that is 5e-4 / PIXELS.
    config.optimizer.update(name="momentum", learning_rate=LEARNING_RATES[variant] * PIXELS, momentum=0.99)
    config.optimizer.update(weight_decay=5e-4 / PIXELS, decay="kernels")
    config.optimizer.update(freeze=("upscore*",), lr_multipliers=(("*.bias", 2.0),))
    config.schedule.name = "constant"
    return config
