"""PSPNet with ResNet-50 or 101 on Cityscapes (Zhao et al. 2016), by mmsegmentation's recipe.

    morphism prepare tfds:cityscapes/semantic_segmentation --manual_dir DIR
    python train.py --config experiments/cityscapes_pspnet.py:50 --workdir runs/pspnet
    python eval.py --workdir runs/pspnet --views scales_flip

DIR holds leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip. 40,000 steps of 8 crops of 512x1024, from images
scaled by 0.5 to 2, with flips and distorted colours; a crop is drawn again if one class covers more than three
quarters of it. SGD with momentum 0.9 and weight decay 5e-4, learning rate 0.01, polynomial of power 0.9 down to 1e-4;
batch norm over all devices; auxiliary loss times 0.4. The backbone starts from torchvision's ImageNet weights, whose
stem is one 7x7 convolution, where mmsegmentation's has three of 3x3 (--config.model.options.deep_stem=True). Whole
images are evaluated.
Published: mIoU 77.85 and 78.34 (ResNet-50, 101), 79.18 and 79.74 with scales and flips (mmsegmentation, 40k).
Not trained here. Estimate: 373 GMAC forward are 91 times those of a ResNet-50 at 224, with which an A100 trains 2,470
images per second in mixed precision, so 320,000 crops take 3 hours on one A100 at the same utilisation.
"""

from ml_collections import ConfigDict

from morphism.experiments.base import get_base


def get_config(variant: str = "50"):
    if variant not in ("50", "101"):
        raise ValueError(f"cityscapes_pspnet has no variant {variant!r}; it has 50, 101")
    return cityscapes(f"pspnet_resnet{variant}", f"torchvision:resnet{variant}/IMAGENET1K_V1")


def cityscapes(model: str, init_from: str) -> ConfigDict:
    """mmsegmentation's recipe, for any of its models."""
    config = get_base("segmentation")
    config.batch_size = 8
    config.duration = "40k"
    config.eval_every = config.checkpoint_every = "4k"
    config.model.name = model
    config.model.sync_bn = True
    config.model.options = ConfigDict(dict(deep_stem=False))
    config.init_from = init_from
    config.init_rename = ("^ -> backbone.",)
    config.init_allow_missing = (r"(decode|auxiliary)_head\..*",)
    config.init_allow_unexpected = (r"backbone\.fc\..*",)
    config.data.update(source="tfds_masks:cityscapes/semantic_segmentation", workers=8, image_size=1024, resize="none")
    config.data.update(scale=(0.5, 2.0), crop=(512, 1024), cat_max_ratio=0.75)
    config.augment.photometric = True
    config.optimizer.update(name="momentum", learning_rate=0.01, reference_batch=8, weight_decay=5e-4)
    config.schedule.update(name="polynomial", power=0.9, final_factor=0.01)
    config.loss.aux_weight = 0.4
    return config
